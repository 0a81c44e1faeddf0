"""Nats per note of a model on a split, by field, on the 10 ms grid.

The score is the negative log likelihood of pitch, step and duration, times as ticks, of every note of a performance
after its first. It depends neither on loss weights nor on training windows, so it compares any two models.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from sostenuto.errors import UserError
from sostenuto.progress import ProgressCounter
from trainer.data.note_table import NoteTable
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.data.recall import NO_RECALL, Recall, TimeRecall, empty_recall
from trainer.data.recall_table import RecallTable
from trainer.evaluation.residuals import TOLERANCE_TICKS, TimeResiduals, fit_density, score_with_residuals
from trainer.evaluation.statistics import FIELDS, Ints, NoteScores
from trainer.model.categorical import categorical_nll
from trainer.model.heads import DensityHeads, HeadInput
from trainer.model.next_note import ModelState, NextNoteModel
from trainer.model.time_distribution import ticks

Outputs: TypeAlias = dict[str, np.ndarray]
"""Outputs of scored notes by name, `[notes]` each."""


class Scorer:
    """Scores the notes of splits with a model.

    A model trained on every position carries its state over each whole performance. A model trained on the last
    position alone reads, for each note, the `seq_length` notes before it, or fewer at a performance's start.
    """

    def __init__(self, model: NextNoteModel, *, chunk: int = 256, lanes: int = 64, windows: int = 1024) -> None:
        """Compiles nothing yet: that happens at the first call.

        Args:
            model: the model to score.
            chunk: notes per call of a model that carries its state.
            lanes: performances that such a model reads at once.
            windows: windows per call of a last-position model.
        """
        self._model = model
        self._chunk, self._lanes, self._windows = chunk, lanes, windows
        self._has_densities = isinstance(model.heads, DensityHeads)
        self._has_ending = model.config.has_ending
        self._recall_table: RecallTable | None = None
        compute_outputs = _density_outputs if self._has_densities else _regression_outputs

        state_spec = _specs(model.initial_state(1), free=1)
        ends_spec = tf.TensorSpec([None, None], tf.bool)
        recall_spec = _specs(Recall(*empty_recall(tf.constant([1, 1]))), free=2) if model.has_memory else NO_RECALL

        @tf.function(
            autograph=False,
            input_signature=(_notes_spec(None, None), _notes_spec(None, None), ends_spec, recall_spec, state_spec),
        )
        def read_chunk(
            inputs: NoteTensors, targets: NoteTensors, is_end: tf.Tensor, recall: Recall, state: ModelState
        ) -> tuple[dict[str, tf.Tensor], ModelState]:
            head_input, state = model.forward(inputs, state, recall.pitches)
            outputs = compute_outputs(model, head_input, targets, recall.times)
            if model.config.has_ending:
                outputs["end"] = model.heads.end_nll(head_input, is_end)
            return outputs, state

        window_spec = _notes_spec(None, model.config.seq_length)

        @tf.function(
            autograph=False,
            input_signature=(window_spec, tf.TensorSpec([None], tf.int32), _notes_spec(None), recall_spec, state_spec),
        )
        def read_windows(
            inputs: NoteTensors, last: tf.Tensor, targets: NoteTensors, recall: Recall, state: ModelState
        ) -> dict[str, tf.Tensor]:
            head_input, _ = model.forward(inputs, state, recall.pitches)
            head_input, times = tf.nest.map_structure(
                lambda part: tf.gather(part, last, batch_dims=1), (head_input, recall.times)
            )
            return compute_outputs(model, head_input, targets, times)

        self._read_chunk, self._read_window_batch = read_chunk, read_windows

    def score(
        self,
        table: NoteTable,
        residuals: TimeResiduals | None = None,
        *,
        knows_composers: bool = True,
        activity: str | None = None,
    ) -> NoteScores:
        """Scores every note of a split after each performance's first.

        Args:
            table: the split.
            residuals: for a model without densities, those that `fit_residuals` fitted on the validation split.
            knows_composers: False hides the composers' names from a model that knows composers.
            activity: description of the progress, such as "scoring validation"; None shows no progress.
        """
        if table.lengths.max(initial=0) < 2:
            # With more workers than performances, a worker's share is empty.
            return NoteScores(*[np.empty(0)] * len(NoteScores._fields))
        outputs = self._read(table, activity, knows_composers=knows_composers)
        if self._has_densities:
            return NoteScores(**{"end": np.zeros(len(outputs["pitch"]))} | outputs)
        assert residuals is not None, "a model without densities needs residual densities"
        return score_with_residuals(outputs, *_scored_times(table), residuals)

    def fit_residuals(self, table: NoteTable, *, activity: str | None = None) -> TimeResiduals:
        """Fits densities around the times that a model without densities predicts in a table, the validation split.

        Raises:
            UserError: no performance has a second note.
        """
        if table.lengths.max(initial=0) < 2:
            raise UserError(
                "no performance of the validation split has a second note, which the residuals of this model are "
                "fitted to. Preprocess with a larger validation split"
            )
        outputs = self._read(table, activity, knows_composers=True)
        step_us, duration_us = _scored_times(table)
        return TimeResiduals(fit_density(outputs["step"], step_us), fit_density(outputs["duration"], duration_us))

    def _read(self, table: NoteTable, activity: str | None, *, knows_composers: bool) -> Outputs:
        """Returns the outputs of every scored note."""
        composers = table.composer_ids(self._model.composers if knows_composers else ())
        scored = int(np.maximum(table.lengths - 1, 0).sum())
        with ProgressCounter(total=scored, unit="note", description=activity or "", quiet=activity is None) as counter:
            read = self._read_windows if self._model.config.positions == "last" else self._read_carrying
            parts = read(table, composers, counter)
        return {name: values.astype(np.float64) for name, values in _join(parts).items()}

    def _read_carrying(self, table: NoteTable, composers: np.ndarray, counter: ProgressCounter) -> list[Outputs]:
        """Reads whole performances in parallel, chunk by chunk; returns the outputs of each performance."""
        # The end is predicted from the last note, which predicts no other.
        targets = table.lengths + (self._has_ending & (table.lengths > 0))
        longest_first = np.argsort(-table.lengths, kind="stable")
        by_performance: list[list[Outputs]] = [[] for _ in longest_first]
        for lane in range(0, len(longest_first), self._lanes):
            group = longest_first[lane : lane + self._lanes]
            performances = [table.performance(index) for index in group]
            count = targets[group]
            state = self._model.initial_state(len(group), composers[group])
            for start in range(0, int(count[0]), self._chunk):
                active = int(np.sum(count > start))
                state = tf.nest.map_structure(lambda part, active=active: part[:active], state)
                inputs, following = _chunk(performances[:active], start, min(self._chunk, int(count[0]) - start))
                numbers = np.arange(start - 1, start + inputs.pitch.shape[1])
                is_end = tf.constant(numbers[1:] == table.lengths[group[:active], np.newaxis])
                recall = self._recall(table, group[:active], numbers)
                outputs, state = self._read_chunk(inputs, following, is_end, recall, state)
                arrays = {name: value.numpy() for name, value in outputs.items()}
                for row in range(active):
                    first, last = max(start, 1) - start, min(self._chunk, int(count[row]) - start)
                    by_performance[group[row]].append({name: array[row, first:last] for name, array in arrays.items()})
                    counter.advance(max(min(last, int(table.lengths[group[row]]) - start) - first, 0))
        whole = [_join(parts) for parts in by_performance if parts]
        return [_merge_ends(outputs) for outputs in whole] if self._has_ending else whole

    def _read_windows(self, table: NoteTable, composers: np.ndarray, counter: ProgressCounter) -> list[Outputs]:
        """Reads the window before each note; returns the outputs of each batch of windows."""
        seq_length = self._model.config.seq_length
        parts = []
        for index, length in enumerate(table.lengths):
            performance = table.performance(index)
            for start in range(1, int(length), self._windows):
                note = np.arange(start, min(start + self._windows, length))
                first = np.maximum(note - seq_length, 0)
                # Windows at a performance's start are padded on the right; the output there is not used.
                numbers = np.minimum(first[:, np.newaxis] + np.arange(seq_length + 1), length - 1)
                recall = self._recall(table, np.full(len(numbers), index), numbers)
                state = self._model.initial_state(len(numbers), np.full(len(numbers), composers[index]))
                outputs = self._read_window_batch(
                    NoteTensors(*(tf.constant(field[numbers[:, :-1]]) for field in performance)),
                    tf.constant(note - first - 1, tf.int32),
                    NoteTensors(*(tf.constant(field[note]) for field in performance)),
                    recall,
                    state,
                )
                parts.append({name: value.numpy() for name, value in outputs.items()})
            counter.advance(max(int(length) - 1, 0))
        return parts

    def _recall(self, table: NoteTable, performances: np.ndarray, numbers: np.ndarray) -> Recall:
        """Returns what is recalled for parts of performances, as `RecallTable.in_performances`."""
        if not self._model.has_memory:
            return NO_RECALL
        # In training, the validation split is scored many times, and its matches stay the same.
        if self._recall_table is None or self._recall_table.table is not table:
            self._recall_table = RecallTable(table)
        return Recall(*self._recall_table.in_performances(performances, numbers))


def _join(parts: Sequence[Outputs]) -> Outputs:
    """Returns the outputs of parts of a performance, or of performances, as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _merge_ends(outputs: Outputs) -> Outputs:
    """Adds the nats of a performance's end, the last value of `end`, to those of its last note; drops other outputs."""
    *ends, last = outputs["end"].tolist()
    if ends:
        ends[-1] += last
    scored = len(ends)
    return {name: values[:scored] for name, values in outputs.items()} | {"end": np.array(ends)}


def _notes_spec(*shape: int | None) -> NoteTensors:
    return NoteTensors(*[tf.TensorSpec(shape, tf.int32)] * len(NoteTensors._fields))


def _specs(structure: Any, *, free: int) -> Any:
    """Returns specs of tensors whose first `free` dimensions may have any size."""
    return tf.nest.map_structure(
        lambda part: tf.TensorSpec([None] * free + [*part.shape[free:]], part.dtype), structure
    )


def _scored_times(table: NoteTable) -> tuple[Ints, Ints]:
    """Returns step and duration of every scored note in microseconds, `[notes]`."""
    is_scored = np.ones(len(table.notes), bool)
    is_scored[table.offsets[:-1][table.lengths > 0]] = False
    notes = table.notes[is_scored]
    return notes["step_us"].astype(np.int64), notes["duration_us"].astype(np.int64)


def _density_outputs(
    model: NextNoteModel, head_input: HeadInput, notes: NoteTensors, times: TimeRecall | tuple[()]
) -> dict[str, tf.Tensor]:
    """Computes the scores of notes from the model's densities."""
    logits = model.heads.logits(head_input, notes, times)
    nats = model.heads.nll(logits, notes)
    away = tf.abs(model.heads.times["step"].median_tick(logits["step"]) - ticks(notes.step_us))
    return {
        **{field: nats[field] for field in FIELDS},
        **_pitch_hits(logits["pitch"], notes.pitch),
        "step_within_30ms": tf.cast(away <= TOLERANCE_TICKS, head_input.body.dtype),
    }


def _regression_outputs(
    model: NextNoteModel, head_input: HeadInput, notes: NoteTensors, _: TimeRecall | tuple[()]
) -> dict[str, tf.Tensor]:
    """Computes the scores of pitches; step and duration are the predicted seconds."""
    predicted = model.heads.predict_fields(head_input)
    nats = categorical_nll(predicted["pitch"], notes.pitch)
    times = {field: predicted[field] for field in ("step", "duration")}
    return {"pitch": nats, **times, **_pitch_hits(predicted["pitch"], notes.pitch)}


def _pitch_hits(logits: tf.Tensor, pitch: tf.Tensor) -> dict[str, tf.Tensor]:
    """Tests whether a pitch is the likeliest, or among the five likeliest."""
    own = tf.gather(logits, pitch[..., tf.newaxis], batch_dims=logits.shape.rank - 1)
    rank = tf.reduce_sum(tf.cast(logits > own, tf.int64), axis=-1)
    return {f"pitch_top{top}": tf.cast(rank < top, logits.dtype) for top in (1, 5)}


def _chunk(performances: list[NoteTensors], start: int, notes: int) -> tuple[NoteTensors, NoteTensors]:
    """Returns inputs and targets `start` to `start + notes` of each performance, zeros after its end."""
    shape = (len(performances), notes)
    inputs, targets = (NoteTensors(*(np.zeros(shape, np.int32) for _ in NoteTensors._fields)) for _ in range(2))
    offset = int(start == 0)  # The first input of a performance is not one of its notes.
    for row, performance in enumerate(performances):
        for rows_in, rows_out, field in zip(inputs, targets, performance, strict=True):
            following = field[start : start + notes]
            rows_out[row, : len(following)] = following
            preceding = field[start + offset - 1 : start + notes - 1]
            rows_in[row, offset : offset + len(preceding)] = preceding
    if offset:
        inputs.pitch[:, 0] = START_PITCH
    return inputs.map(tf.constant), targets.map(tf.constant)
