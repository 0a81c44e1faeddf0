"""How well a model predicts music it has not seen: nats per note, by field, on the 10 ms grid.

The score compares across systems: it is the negative log likelihood of pitch, step and duration, times as ticks
0…1000 (`sostenuto.music.notes.ticks`), over every note of a performance after its first. It depends neither on loss
weights nor on the length of training windows.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.music.notes import MAX_TICK, TICK_US, ticks
from sostenuto.progress import ProgressCounter
from trainer.data.note_table import NoteTable
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.model import time_distribution
from trainer.model.density_heads import DensityHeads
from trainer.model.next_note import NextNoteModel

CHUNK = 256  # notes read per call, state carried over
LANES = 64  # performances, or windows of a last-position model, read side by side
_WINDOWS = 1024  # windows a call of a last-position model

_RESAMPLES = 10_000
_CONFIDENCE = 0.95

_TOLERANCE_TICKS = 3  # 30 ms, about what a listener hears as together

SCORED_FIELDS = ("pitch", "step", "duration")


class NoteScores(NamedTuple):
    """What each scored note got: float64 `[notes]`, performance after performance, each without its first note."""

    pitch: np.ndarray
    step: np.ndarray
    duration: np.ndarray
    pitch_top1: np.ndarray
    pitch_top5: np.ndarray
    step_within_30ms: np.ndarray


class Residuals(NamedTuple):
    """A density around a predicted time: `laplace` or `gaussian`, its centre and scale in seconds."""

    kind: str
    centre: float
    scale: float

    def nats(self, predicted: np.ndarray, tick: np.ndarray) -> np.ndarray:
        """Negative log mass that the density puts on each note's tick.

        The density is integrated over the tick's 10 ms; all below the grid belongs to tick 0, all above to the last.

        Args:
            predicted: seconds, `[notes]`.
            tick: the ticks that came, `[notes]`.
        """
        edges = (tick * TICK_US - TICK_US // 2) * 1e-6
        low = np.where(tick == 0, -np.inf, (edges - predicted - self.centre) / self.scale)
        high = np.where(tick == MAX_TICK, np.inf, (edges + TICK_US * 1e-6 - predicted - self.centre) / self.scale)
        # In the upper tail both distribution functions are near one: mirrored, their difference keeps its digits.
        mirrored = low > 0
        low, high = np.where(mirrored, -high, low), np.where(mirrored, -low, high)
        cumulative = _laplace_log_cdf if self.kind == "laplace" else _gaussian_log_cdf
        upper, lower = cumulative(high), cumulative(low)
        with np.errstate(divide="ignore"):
            return -(upper + np.log1p(-np.exp(np.minimum(lower - upper, -1e-12))))


def _laplace_log_cdf(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, x - math.log(2), np.log1p(-0.5 * np.exp(-np.maximum(x, 0))))


def _gaussian_log_cdf(x: np.ndarray) -> np.ndarray:
    from scipy.special import log_ndtr  # Only a model without densities needs it.

    return log_ndtr(x)


class TimeResiduals(NamedTuple):
    """The residual densities of a model that predicts times as single numbers."""

    step: Residuals
    duration: Residuals


class Scorer:
    """Reads splits with a model and scores their notes.

    A model that was trained on every position carries its state over each whole performance; one that was trained on
    the last position alone reads, for each note, the up to seq_length notes before it.
    """

    def __init__(self, model: NextNoteModel) -> None:
        self._model = model
        self._has_densities = isinstance(model.heads, DensityHeads)
        outputs_of = _density_outputs if self._has_densities else _regression_outputs

        def notes_spec(*shape: int | None) -> NoteTensors:
            return NoteTensors(*(tf.TensorSpec(shape, tf.int32) for _ in NoteTensors._fields))

        state_spec = tf.nest.map_structure(
            lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), model.initial_state(1)
        )

        @tf.function(autograph=False, input_signature=(notes_spec(None, None), notes_spec(None, None), state_spec))
        def read_chunk(inputs, targets, state):
            hidden, state = model.forward(inputs, state)
            return outputs_of(model, hidden, targets), state

        windows = notes_spec(None, model.config.seq_length)

        @tf.function(autograph=False, input_signature=(windows, tf.TensorSpec([None], tf.int32), notes_spec(None)))
        def read_windows(inputs, last, targets):
            hidden, _ = model.forward(inputs)
            return outputs_of(model, tf.gather(hidden, last, batch_dims=1), targets)

        self._read_chunk, self._read_window_batch = read_chunk, read_windows

    def score(
        self, table: NoteTable, residuals: TimeResiduals | None = None, *, activity: str | None = None
    ) -> NoteScores:
        """Scores every note of a split after each performance's first.

        Args:
            table: the split.
            residuals: for a model without densities, what `fit_residuals` found on the validation split.
            activity: what the progress is called, such as "scoring validation"; None shows none.
        """
        if not len(table.notes):
            # The share of a worker that is one more than there are performances.
            return NoteScores(*(np.empty(0) for _ in NoteScores._fields))
        outputs = self._read(table, activity)
        if self._has_densities:
            return NoteScores(**outputs)
        assert residuals is not None, "a model without densities needs residual densities"
        return _with_residuals(outputs, _scored(table, "step_us"), _scored(table, "duration_us"), residuals)

    def fit_residuals(self, table: NoteTable, *, activity: str | None = None) -> TimeResiduals:
        """Fits, for a model without densities, the better of a Laplace and a Gaussian around its predicted times.

        Args:
            table: the validation split.
            activity: what the progress is called, such as "scoring validation"; None shows none.
        """
        outputs = self._read(table, activity)
        return TimeResiduals(
            _fit(outputs["step"], _scored(table, "step_us")), _fit(outputs["duration"], _scored(table, "duration_us"))
        )

    def _read(self, table: NoteTable, activity: str | None) -> dict[str, np.ndarray]:
        """The outputs of every scored note."""
        scored = int(np.maximum(table.lengths - 1, 0).sum())
        with ProgressCounter(total=scored, unit="note", description=activity or "", quiet=activity is None) as meter:
            read = self._read_windows if self._model.config.positions == "last" else self._read_carrying
            parts = read(table, meter)
        return {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in parts[0]}

    def _read_carrying(self, table: NoteTable, meter: ProgressCounter) -> list[dict[str, np.ndarray]]:
        """Reads whole performances side by side, chunk by chunk; returns each one's outputs."""
        longest_first = np.argsort(-table.lengths, kind="stable")
        collected: list[list[dict[str, np.ndarray]]] = [[] for _ in longest_first]
        for lane in range(0, len(longest_first), LANES):
            group = longest_first[lane : lane + LANES]
            performances = [table.performance(index) for index in group]
            lengths = table.lengths[group]
            state = self._model.initial_state(len(group))
            for start in range(0, int(lengths[0]), CHUNK):
                active = int(np.sum(lengths > start))
                state = tf.nest.map_structure(lambda part, active=active: part[:active], state)
                inputs, targets = _chunk(performances[:active], start, min(CHUNK, int(lengths[0]) - start))
                outputs, state = self._read_chunk(inputs, targets, state)
                arrays = {name: value.numpy() for name, value in outputs.items()}
                for row in range(active):
                    first, last = max(start, 1) - start, min(CHUNK, int(lengths[row]) - start)
                    collected[group[row]].append({name: array[row, first:last] for name, array in arrays.items()})
                    meter.advance(max(last - first, 0))
        return [part for chunks in collected for part in chunks]

    def _read_windows(self, table: NoteTable, meter: ProgressCounter) -> list[dict[str, np.ndarray]]:
        """Reads a window of the up to seq_length notes before each note; returns the outputs, window batch by batch."""
        seq_length = self._model.config.seq_length
        collected = []
        for index, length in enumerate(table.lengths):
            performance = table.performance(index)
            for start in range(1, int(length), _WINDOWS):
                note = np.arange(start, min(start + _WINDOWS, length))
                first = np.maximum(note - seq_length, 0)
                # Windows at a performance's start are padded on the right; the LSTM's output there is not read.
                rows = np.minimum(first[:, np.newaxis] + np.arange(seq_length), length - 1)
                outputs = self._read_window_batch(
                    NoteTensors(*(tf.constant(field[rows]) for field in performance)),
                    tf.constant(note - first - 1, tf.int32),
                    NoteTensors(*(tf.constant(field[note]) for field in performance)),
                )
                collected.append({name: value.numpy() for name, value in outputs.items()})
            meter.advance(max(int(length) - 1, 0))
        return collected


def _fit(predicted: np.ndarray, target_us: np.ndarray) -> Residuals:
    error = target_us * 1e-6 - predicted
    median = float(np.median(error))
    tick = ticks(target_us)
    candidates = [
        Residuals("laplace", median, max(float(np.mean(np.abs(error - median))), 1e-4)),
        Residuals("gaussian", float(np.mean(error)), max(float(np.std(error)), 1e-4)),
    ]
    return min(candidates, key=lambda candidate: float(np.mean(candidate.nats(predicted, tick))))


def _with_residuals(
    outputs: dict[str, np.ndarray], step_us: np.ndarray, duration_us: np.ndarray, residuals: TimeResiduals
) -> NoteScores:
    step_tick = ticks(step_us)
    predicted_tick = ticks(np.maximum(np.rint(outputs["step"] * 1e6), 0).astype(np.int64))
    return NoteScores(
        pitch=outputs["pitch"],
        step=residuals.step.nats(outputs["step"], step_tick),
        duration=residuals.duration.nats(outputs["duration"], ticks(duration_us)),
        pitch_top1=outputs["pitch_top1"],
        pitch_top5=outputs["pitch_top5"],
        step_within_30ms=(np.abs(predicted_tick - step_tick) <= _TOLERANCE_TICKS).astype(np.float64),
    )


def _scored(table: NoteTable, field: str) -> np.ndarray:
    """A field of every scored note, int64 `[notes]`."""
    keep = np.ones(len(table.notes), bool)
    keep[table.offsets[:-1][table.lengths > 0]] = False
    return table.notes[field][keep].astype(np.int64)


def _density_outputs(model: NextNoteModel, hidden: tf.Tensor, notes: NoteTensors) -> dict[str, tf.Tensor]:
    logits = model.heads.logits(hidden, notes)
    nats = model.heads.nll(logits, notes)
    away = tf.abs(time_distribution.median_tick(logits["step"]) - time_distribution.ticks(notes.step_us))
    return {
        **{field: nats[field] for field in SCORED_FIELDS},
        **_pitch_hits(logits["pitch"], notes.pitch),
        "step_within_30ms": tf.cast(away <= _TOLERANCE_TICKS, hidden.dtype),
    }


def _regression_outputs(model: NextNoteModel, hidden: tf.Tensor, notes: NoteTensors) -> dict[str, tf.Tensor]:
    """As for densities, but step and duration are the predicted seconds."""
    predicted = model.heads.predict_fields(hidden)
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=notes.pitch, logits=predicted["pitch"])
    return {
        "pitch": nats,
        "step": predicted["step"],
        "duration": predicted["duration"],
        **_pitch_hits(predicted["pitch"], notes.pitch),
    }


def _pitch_hits(logits: tf.Tensor, pitch: tf.Tensor) -> dict[str, tf.Tensor]:
    own = tf.gather(logits, pitch[..., tf.newaxis], batch_dims=logits.shape.rank - 1)
    rank = tf.reduce_sum(tf.cast(logits > own, tf.int32), axis=-1)
    return {f"pitch_top{top}": tf.cast(rank < top, logits.dtype) for top in (1, 5)}


def _chunk(performances: list[NoteTensors], start: int, notes: int) -> tuple[NoteTensors, NoteTensors]:
    """Inputs and targets `start` to `start + notes` of each performance, zeros after its end."""
    shape = (len(performances), notes)
    inputs = NoteTensors(*(np.zeros(shape, np.int32) for _ in NoteTensors._fields))
    targets = NoteTensors(*(np.zeros(shape, np.int32) for _ in NoteTensors._fields))
    for row, performance in enumerate(performances):
        for before, after, field in zip(inputs, targets, performance, strict=True):
            cut = field[start : start + notes]
            after[row, : len(cut)] = cut
            shifted = field[max(start - 1, 0) : start + notes - 1]
            begin = 1 if start == 0 else 0
            before[row, begin : begin + len(shifted)] = shifted[: notes - begin]
        if start == 0:
            inputs.pitch[row, 0] = START_PITCH
    return inputs.map(tf.constant), targets.map(tf.constant)


def sums(scores: NoteScores) -> list[float]:
    """The totals of each score over all notes, and the notes: what parts of a split are added up in."""
    return [*(float(np.sum(values)) for values in scores), float(len(scores.pitch))]


def figures(totals: Sequence[float]) -> dict[str, Any]:
    """The figures of an evaluation file: totals over all notes divided by the notes.

    Args:
        totals: `sums` of a split, or of its parts added up.
    """
    *values, notes = totals
    means = {name: value / notes for name, value in zip(NoteScores._fields, values, strict=True)}
    nats = {field: means.pop(field) for field in SCORED_FIELDS}
    return {"nats_per_note": {**nats, "total": sum(nats.values())}, **means, "notes": int(notes)}


def confidence_intervals(scores: NoteScores, lengths: np.ndarray) -> dict[str, list[float]]:
    """Where nats/note would lie on other performances of the kind: 95 % intervals, by field and for their total.

    The percentile bootstrap (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13): performances
    are drawn with replacement, not notes, since the notes of one are alike. Always the same for the same scores.

    Args:
        scores: of a split.
        lengths: `[performances]`, notes of each, its first one included.

    Returns:
        The lower and upper end of each.
    """
    by_performance, scored = _by_performance(scores, lengths)
    drawn = np.random.default_rng(0).multinomial(len(scored), np.full(len(scored), 1 / len(scored)), _RESAMPLES)
    notes = drawn @ scored
    # Where nothing but performances of a single note was drawn, there is no mean.
    means = (drawn[notes > 0] @ by_performance) / notes[notes > 0, np.newaxis]
    outside = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(np.column_stack([means, means.sum(axis=1)]), [outside, 1 - outside], axis=0)
    return {field: [float(low[index]), float(high[index])] for index, field in enumerate((*SCORED_FIELDS, "total"))}


def by_composer(scores: NoteScores, lengths: np.ndarray, composers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The nats/note of each composer's performances, by field and in total; their notes and performances.

    Args:
        scores: of a split.
        lengths: `[performances]`, notes of each, its first one included.
        composers: of each performance; "" stands as "unknown".

    Returns:
        By name, in order; a composer without a scored note is left out.
    """
    by_performance, scored = _by_performance(scores, lengths)
    names = np.array([composer or "unknown" for composer in composers])
    table = {}
    for name in sorted(set(names[scored > 0].tolist())):
        own = names == name
        notes = int(scored[own].sum())
        nats = dict(zip(SCORED_FIELDS, (by_performance[own].sum(axis=0) / notes).tolist(), strict=True))
        table[name] = {
            "nats_per_note": {**nats, "total": sum(nats.values())},
            "notes": notes,
            "performances": int(own.sum()),
        }
    return table


def _by_performance(scores: NoteScores, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nats of each performance, `[performances, fields]`, and its scored notes, `[performances]`."""
    scored = np.maximum(lengths - 1, 0)
    ends = np.cumsum(scored)
    nats = np.stack([getattr(scores, field) for field in SCORED_FIELDS], axis=1)
    cumulative = np.concatenate([np.zeros((1, nats.shape[1])), np.cumsum(nats, axis=0)])
    return cumulative[ends] - cumulative[ends - scored], scored
