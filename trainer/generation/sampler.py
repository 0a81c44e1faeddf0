"""Autoregressive sampling: each sampled note is the model's next input."""

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.errors import UserError
from sostenuto.music.notes import Notes
from sostenuto.progress import ProgressCounter, silenced
from sostenuto.text import counted
from trainer.config_fields import Bounds
from trainer.data.note_table import notes_table
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.data.recall import PitchRecall
from trainer.data.recall_table import RecallTable
from trainer.generation.arguments import check_number, list_by_field, list_primers
from trainer.generation.composers import composer_ids
from trainer.generation.controls import Controls, change_tempo
from trainer.generation.decoding import LoopOptions, Prefix, RandomNumbers, decode_notes
from trainer.generation.ending import make_ending, no_progress
from trainer.generation.sampling_flags import (
    DEFAULT_END_ODDS,
    DEFAULT_RETURNS,
    END_ODDS,
    RETURNS,
    SECONDS,
    TEMPERATURES,
    TOP_PS,
)
from trainer.generation.steering import make_steering, start
from trainer.model.heads import UNIFORMS_PER_NOTE, HeadInput
from trainer.model.memory import read_memory
from trainer.model.next_note import ModelState, NextNoteModel
from trainer.workdir.load_model import LoadedModel

logger = logging.getLogger(__name__)

_NOTES_PER_CALL = 128  # Fixed, so that the loop is compiled once for any number of notes.

_AT_LEAST_1: Final = Bounds(minimum=1)
_SEEDS: Final = Bounds(minimum=0, maximum=2**63 - 1)


class Samples(NamedTuple):
    """Generated music.

    Attributes:
        notes: each sample, its primer and the continuation.
        has_ended: of each sample, whether it ended before `num_notes`: the model ended it, or `seconds` were over.
        notes_per_second: generated notes of all samples per second, without reading primers and compiling.
    """

    notes: list[Notes]
    has_ended: list[bool]
    notes_per_second: float


class _Draws:
    """The random numbers of samples, those of each sample from streams of its own."""

    def __init__(self, seed: int, samples: int, return_rate: float) -> None:
        streams = [np.random.Philox(key=[seed, sample]) for sample in range(samples)]
        self._uniforms = [np.random.Generator(stream) for stream in streams]
        self._returns = [np.random.Generator(stream.jumped()) for stream in streams]
        self._ends = [np.random.Generator(stream.jumped(2)) for stream in streams]
        self._return_rate = return_rate

    def next_call(self) -> RandomNumbers:
        """Returns the random numbers of a call of the compiled loop."""
        shape = (_NOTES_PER_CALL, UNIFORMS_PER_NOTE)
        uniforms = np.stack([stream.random(shape, np.float32) for stream in self._uniforms], axis=1)
        happens, place = np.stack([stream.random((2, _NOTES_PER_CALL)) for stream in self._returns], axis=2)
        returns = np.where(happens < self._return_rate, place, -1).astype(np.float32)
        ends = np.stack([stream.random(_NOTES_PER_CALL, np.float32) for stream in self._ends], axis=1)
        return RandomNumbers(*map(tf.constant, (uniforms, returns, ends)))


class NoteSampler:
    """Samples from one model; the compiled loop is reused by calls with the same number of samples.

    Args:
        model: the model, or what `load_model` returns.

    Attributes:
        composers: the names of the composers that the model knows.
    """

    def __init__(self, model: NextNoteModel | LoadedModel) -> None:
        self._model = model.model if isinstance(model, LoadedModel) else model
        self.composers = self._model.composers
        self._decode = tf.function(functools.partial(decode_notes, self._model), autograph=False, jit_compile=True)
        self._forward = tf.function(self._model.forward, autograph=False, reduce_retracing=True)

    def sample(
        self,
        primers: Notes | Sequence[Notes],
        *,
        num_notes: int,
        num_samples: int = 1,
        temperature: float | Mapping[str, float],
        seed: int,
        top_p: float | Mapping[str, float] = 1.0,
        returns: float = DEFAULT_RETURNS,
        end_odds: float = DEFAULT_END_ODDS,
        seconds: float | None = None,
        composers: str | Sequence[str] = "",
        controls: Controls | None = None,
        quiet: bool = True,
    ) -> Samples:
        """Continues primers, or starts without one, all samples in parallel.

        A sample ends where the model ends it, or before the note that would be later than `seconds`, or after
        `num_notes`, whichever comes first. It has at least one note more than its primer.

        Sample i depends on the seed, on i and on its own primer, not on the other samples.

        Args:
            primers: one or several, of any lengths; after an empty one, a sample starts with its first note.
            num_notes: the most notes to generate for each sample, at least 1; all pitches are within the model's range.
            num_samples: samples of each primer, at least 1; those of the first primer come first.
            temperature: above 0; values below 1 favour likely notes, values above 1 unlikely ones. One for all, or one
                for each of `sostenuto.music.notes.FIELDS`.
            seed: of the random numbers, 0 to 2**63 - 1.
            top_p: above 0, at most 1: a field is sampled from its smallest set of likeliest values whose probability,
                at that temperature, reaches it. One for all, or one for each field.
            returns: 0 to 1,000: how often in 1,000 notes, on average, the music returns to an earlier passage, which is
                drawn at random. From there on the model decides how long it follows the passage. A model without
                memory does not return.
            end_odds: 0 to 1,000,000: factor on the odds of an end, which the model predicts after each note. 0 ends no
                sample: it plays `num_notes`, or is cut off at `seconds`.
            seconds: above 0: the longest time from the first generated note to the last. The model ends the sample in
                the last quarter of it, where an end is likeliest, unless `end_odds` is 0. None has no limit.
            composers: the composer in whose style the model plays, or one for each primer; "" for none in particular.
            controls: key, range, density, tempo and repeats; by default none.
            quiet: shows no progress.

        Raises:
            UserError: an argument is of a wrong type or out of its range, a primer is empty and the model cannot start
                without one, the model does not know a composer, or the controls permit no pitch or do not suit it.
        """
        primers = list_primers(primers)
        composer = composer_ids(composers, len(primers), self._model.composers)
        num_notes = check_number("num_notes", num_notes, _AT_LEAST_1, int)
        num_samples = check_number("num_samples", num_samples, _AT_LEAST_1, int)
        seed = check_number("seed", seed, _SEEDS, int)
        returns = check_number("returns", returns, RETURNS)
        end_odds = check_number("end_odds", end_odds, END_ODDS)
        controls = Controls() if controls is None else controls
        options = self._make_options(temperature, top_p, controls)
        if seconds is not None:
            # By the model's own clock, which the tempo speeds up.
            seconds = check_number("seconds", seconds, SECONDS) * controls.tempo
        if end_odds or seconds is not None:
            options = options._replace(ending=make_ending(end_odds, seconds))
        prefix = *self._read_primers(primers, composer), start(controls, primers)
        prefix = tf.nest.map_structure(lambda value: tf.repeat(value, num_samples, axis=0), prefix)
        samples = len(primers) * num_samples
        draws = _Draws(seed, samples, returns / 1000)
        notes, taken = self._generate(prefix, options, draws, num_notes=num_notes, quiet=quiet)
        continued = [_append(primers[index // num_samples], continuation) for index, continuation in enumerate(notes)]
        lengths = [continuation.shape[1] for continuation in notes]
        return Samples(
            [change_tempo(notes, controls.tempo) for notes in continued],
            [length < num_notes for length in lengths],
            sum(lengths) / taken,
        )

    def _make_options(
        self, temperature: float | Mapping[str, float], top_p: float | Mapping[str, float], controls: Controls
    ) -> LoopOptions:
        if not isinstance(controls, Controls):
            raise UserError(f"controls: got {type(controls).__name__}, expected Controls")
        dtype = self._model.config.full_precision
        return LoopOptions(
            self._model.decode_weights(),
            tf.constant(list_by_field("temperature", temperature, TEMPERATURES), dtype),
            # None compiles to less where top_p has no effect.
            tuple(None if value == 1 else tf.constant(value, dtype) for value in list_by_field("top_p", top_p, TOP_PS)),
            None,
            make_steering(controls, self._model),
        )

    def _generate(
        self, prefix: Prefix, options: LoopOptions, draws: _Draws, *, num_notes: int, quiet: bool
    ) -> tuple[list[np.ndarray], float]:
        """Returns the notes of each sample, `[fields, notes]`, and the seconds without compilation."""
        samples = prefix[0].body.shape[0]
        figures = {"samples": samples, "num_notes": num_notes}
        with silenced(quiet):
            logger.info(f"generating {samples:,} x {counted(num_notes, 'note')}", extra={"figures": figures})
        # Compiles without sampling a note, so that the speed does not include compilation.
        number = tf.zeros([_NOTES_PER_CALL, samples])
        nothing = RandomNumbers(tf.zeros([_NOTES_PER_CALL, samples, UNIFORMS_PER_NOTE]), number, number)
        progress = no_progress(samples)
        self._decode(tf.constant(0), prefix, progress, options, numbers=nothing)
        started = time.monotonic()
        calls = []
        with ProgressCounter(total=num_notes * samples, unit="note", description="generating", quiet=quiet) as counter:
            for first_note in range(0, num_notes, _NOTES_PER_CALL):
                count = min(_NOTES_PER_CALL, num_notes - first_note)
                prefix, progress, notes = self._decode(
                    tf.constant(count), prefix, progress, options, numbers=draws.next_call()
                )
                calls.append(notes.numpy()[:count])
                counter.advance(count * samples)
                if progress.has_ended.numpy().all():
                    break
        seconds, notes = time.monotonic() - started, np.concatenate(calls)
        return [notes[:length, :, sample].T for sample, length in enumerate(progress.length.numpy().tolist())], seconds

    def _read_primers(self, primers: Sequence[Notes], composers: np.ndarray) -> tuple[HeadInput, ModelState]:
        """Returns the heads' input and the state after each primer."""
        inputs = [self._model_inputs(primer) for primer in primers]
        lengths = np.array([notes.shape[1] for notes in inputs])
        groups, prefixes = [], []
        for length in np.unique(lengths):  # Inputs of one length form a batch.
            group = np.flatnonzero(lengths == length)
            batch = NoteTensors(*map(tf.constant, np.stack([inputs[index] for index in group], axis=1)))
            state = self._model.initial_state(len(group), composers[group])
            if self._model.has_memory:
                group_primers = [primers[index] for index in group.tolist()]
                head_input, state = self._forward(batch, state, _recall(group_primers, int(length)))
                state = state._replace(memory=read_memory(group_primers))
            else:
                head_input, state = self._forward(batch, state)
            groups.append(group)
            prefixes.append((head_input.map(lambda part: part[:, -1]), state))
        order = np.argsort(np.concatenate(groups))
        head_input, state = tf.nest.map_structure(lambda *parts: tf.gather(tf.concat(parts, axis=0), order), *prefixes)
        # `decode_step` expects the variables' precision.
        layers = tf.nest.map_structure(lambda value: tf.cast(value, head_input.body.dtype), state.layers)
        return head_input, state._replace(layers=layers)

    def _model_inputs(self, primer: Notes) -> np.ndarray:
        """Returns the model's inputs for a primer: int32 `[fields, notes]`, at least one note."""
        fields = np.stack([getattr(primer, field) for field in NoteTensors._fields]).astype(np.int32)
        config = self._model.config
        if config.positions == "every":
            return np.insert(fields, 0, [START_PITCH, 0, 0, 0], axis=1)
        if not len(primer):
            raise UserError("a model with positions=last cannot start without notes. Give a --primer")
        return fields[:, -config.seq_length :]


def _recall(primers: list[Notes], inputs: int) -> PitchRecall:
    """Returns the candidates after each of the last `inputs` inputs of primers; the start of a performance is one."""
    table = notes_table(primers)
    numbers = table.lengths[:, np.newaxis] + np.arange(-inputs, 1)
    return RecallTable(table).in_performances(np.arange(len(primers)), numbers)[0]


def _append(primer: Notes, continuation: np.ndarray) -> Notes:
    """Returns the primer followed by the notes `[fields, notes]` of its continuation."""
    pitch, step_us, duration_us, velocity = (
        np.append(getattr(primer, name), values) for name, values in zip(NoteTensors._fields, continuation, strict=True)
    )
    step_us[0] = 0  # Without a primer, time starts at the first note.
    return Notes(pitch, step_us, duration_us, velocity)
