"""Sampling for a player who listens: a few notes at a time, each from the state after the notes before it."""

import functools
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.generation.arguments import check_starts_from_silence, list_by_field
from trainer.generation.composers import composer_ids
from trainer.generation.controls import Controls
from trainer.generation.decoding import LoopOptions, RandomNumbers, decode_notes, read_notes
from trainer.generation.ending import no_progress
from trainer.generation.sampling_flags import DEFAULT_RETURNS, TEMPERATURES, TOP_PS
from trainer.generation.steering import SteeringState, make_live_steering, start_live
from trainer.model.heads import UNIFORMS_PER_NOTE, HeadInput
from trainer.model.next_note import ModelState, NextNoteModel, start_note
from trainer.workdir.load_model import LoadedModel

SAMPLED_NOTES: Final = 8  # at most, of a call of `LiveSampler.sample`
_READ_NOTES: Final = 64  # of a call of the compiled loop

LiveState = tuple[HeadInput, ModelState]
"""The state after some notes of one performance."""


class Stream(NamedTuple):
    """A stream of random numbers: that of a seed, and which of several attempts it is."""

    seed: int
    attempt: int = 0


class LiveSampler:
    """Reads and samples the notes of single performances, with loops that are compiled once for any settings.

    Not safe for threads: one thread calls it.

    Args:
        model: the model, or what `load_model` returns.

    Attributes:
        composers: the names of the composers that the model knows.
        pitch_range: the lowest and the highest pitch that it plays.
        has_density: True if the density of its notes can be chosen.

    Raises:
        UserError: the model cannot start from silence.
    """

    def __init__(self, model: NextNoteModel | LoadedModel) -> None:
        self._model = model.model if isinstance(model, LoadedModel) else model
        check_starts_from_silence(self._model.config)
        self.composers, self.pitch_range = self._model.composers, self._model.heads.pitch_range
        self.has_density = self._model.config.model == "density"
        self._weights = self._model.decode_weights()
        self._read = tf.function(functools.partial(read_notes, self._model), autograph=False, jit_compile=True)
        self._sample = tf.function(self._sample_notes, autograph=False, jit_compile=True)
        self._empty = self._make_empty()

    def compile(self) -> None:
        """Compiles the loops, which takes some seconds, so that no player waits for it."""
        self.sample(self.start(), start_live(0.0), self.make_options(1.0, 1.0), Stream(0), position=0, count=1)

    def make_options(
        self,
        temperature: float | Mapping[str, float],
        top_p: float | Mapping[str, float],
        controls: Controls | None = None,
    ) -> LoopOptions:
        """Returns the options of `sample`. Arguments are as for `NoteSampler.sample`, with key, range and density.

        Raises:
            UserError: an argument is of a wrong type or out of its range, or the controls do not suit the model.
        """
        dtype = self._model.config.full_precision
        return LoopOptions(
            self._weights,
            tf.constant(list_by_field("temperature", temperature, TEMPERATURES), dtype),
            tuple(tf.constant(value, dtype) for value in list_by_field("top_p", top_p, TOP_PS)),
            None,
            make_live_steering(controls or Controls(), self._model),
        )

    def start(self, composer: str = "") -> LiveState:
        """Returns the state before the first note, in the style of a composer.

        Raises:
            UserError: the model does not know the composer.
        """
        head_input, state = self._empty
        ids = composer_ids(composer, 1, self.composers)
        if not isinstance(state.composer, tuple):
            state = state._replace(composer=tf.constant(ids))
        silence = np.array([[START_PITCH], [0], [0], [0]])
        return self.read((head_input, state), silence)

    def read(self, state: LiveState, notes: NDArray[np.integer]) -> LiveState:
        """Returns the state after more notes, `[fields, notes]` as of `NoteTensors`."""
        for first in range(0, notes.shape[1], _READ_NOTES):
            part = notes[:, first : first + _READ_NOTES].T
            given = np.zeros([_READ_NOTES, len(NoteTensors._fields), 1], np.int32)
            given[: len(part), :, 0] = part
            state = self._read(tf.constant(len(part)), state, self._weights, tf.constant(given))
        return state

    def sample(
        self,
        state: LiveState,
        steering: SteeringState,
        options: LoopOptions,
        stream: Stream,
        *,
        position: int,
        count: int,
    ) -> tuple[NDArray[np.int32], LiveState, SteeringState]:
        """Samples notes and reads them.

        Args:
            state: after the notes before.
            steering: from `start_live`, or from the call before.
            options: from `make_options`.
            stream: of the random numbers.
            position: the number of notes before, by which a note finds its random numbers.
            count: the number of notes, at most `SAMPLED_NOTES`.

        Returns:
            The notes, int32 `[fields, count]`, and the states after them.
        """
        numbers = _draw(stream, position, DEFAULT_RETURNS / 1000)
        state, steering, notes = self._sample(tf.constant(count), state, steering, options, numbers)
        return notes.numpy()[:count, :, 0].T, state, steering

    def _make_empty(self) -> LiveState:
        """Returns the state before the start of a performance; its heads' input is of zeros, and never used."""
        before = self._model.initial_decode_state(1)
        head_input, _ = self._model.decode_step(start_note(1), before, self._weights)
        return tf.nest.map_structure(tf.zeros_like, head_input), before

    def _sample_notes(
        self,
        count: tf.Tensor,
        state: LiveState,
        steering: SteeringState,
        options: LoopOptions,
        numbers: RandomNumbers,
    ) -> tuple[LiveState, SteeringState, tf.Tensor]:
        prefix = (*state, steering)
        prefix, _, notes = decode_notes(self._model, count, prefix, no_progress(1), options, numbers=numbers)
        head_input, model_state, steering = prefix
        return (head_input, model_state), steering, notes


def _draw(stream: Stream, position: int, return_rate: float) -> RandomNumbers:
    """Returns the random numbers of the notes from a position on: each note has its own, however it is reached."""
    notes = [
        np.random.Generator(np.random.Philox(key=list(stream), counter=[0, 0, 0, position + index]))
        for index in range(SAMPLED_NOTES)
    ]
    uniforms = np.stack([note.random([1, UNIFORMS_PER_NOTE], np.float32) for note in notes])
    happens, place = np.stack([note.random([2, 1]) for note in notes], axis=1)
    returns = np.where(happens < return_rate, place, -1).astype(np.float32)
    return RandomNumbers(*map(tf.constant, (uniforms, returns, np.zeros_like(returns))))
