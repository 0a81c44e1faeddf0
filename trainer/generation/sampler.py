"""Autoregressive sampling: each sampled note is the model's next input."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.errors import UserError
from sostenuto.music.notes import FIELDS, Notes
from sostenuto.progress import ProgressCounter, silenced
from sostenuto.text import counted
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.model.density_heads import UNIFORMS_PER_NOTE, TopP
from trainer.model.next_note import DecodeWeights, ModelState, NextNoteModel

logger = logging.getLogger(__name__)

_NOTES_PER_CALL = 128  # Fixed, so that the loop is compiled once for any number of notes.


class Samples(NamedTuple):
    """Generated music.

    Attributes:
        notes: each sample, its primer and the continuation.
        notes_per_second: generated notes of all samples per second, without reading primers and compiling.
    """

    notes: list[Notes]
    notes_per_second: float


class _Prefix(NamedTuple):
    """Result of reading the primers: the heads' input `[batch, width]` and the model's state."""

    head_input: tf.Tensor
    state: ModelState


class _Options(NamedTuple):
    """Inputs of the compiled loop that stay the same in all calls."""

    weights: list[DecodeWeights]
    temperature: tf.Tensor
    top_p: TopP


class NoteSampler:
    """Samples from one model; the compiled loop is reused by calls with the same number of samples."""

    def __init__(self, model: NextNoteModel) -> None:
        self._model = model
        self._decode = tf.function(self._decode_notes, autograph=False, jit_compile=True)
        self._forward = tf.function(model.forward, autograph=False, reduce_retracing=True)

    def sample(
        self,
        primers: Notes | Sequence[Notes],
        *,
        num_notes: int,
        num_samples: int = 1,
        temperature: float | Mapping[str, float],
        seed: int,
        top_p: float | Mapping[str, float] = 1.0,
        quiet: bool = True,
    ) -> Samples:
        """Continues primers, or starts without one, all samples in parallel.

        Sample i depends on the seed, on i and on its own primer, not on the other samples.

        Args:
            primers: one or several, of any lengths; after an empty one, a sample starts with its first note.
            num_notes: notes to generate for each sample; all pitches are within the model's range.
            num_samples: samples of each primer; those of the first primer come first.
            temperature: above 0; values below 1 favour likely notes, values above 1 unlikely ones. One for all, or one
                for each of `sostenuto.music.notes.FIELDS`.
            seed: of the random numbers.
            top_p: above 0, at most 1: a field is sampled from its smallest set of likeliest values whose probability,
                at that temperature, reaches it. One for all, or one for each field.
            quiet: shows no progress.

        Raises:
            UserError: a primer is empty and the model cannot start without one.
        """
        primers = [primers] if isinstance(primers, Notes) else primers
        prefix = tf.nest.map_structure(lambda value: tf.repeat(value, num_samples, axis=0), self._read_primers(primers))
        samples = len(primers) * num_samples
        dtype = prefix.head_input.dtype
        options = _Options(
            self._model.decode_weights(),
            tf.constant(_list_by_field(temperature), dtype),
            # None compiles to less where top_p has no effect.
            tuple(None if value == 1 else tf.constant(value, dtype) for value in _list_by_field(top_p)),
        )
        with silenced(quiet):
            logger.info(
                f"playing {samples:,} x {counted(num_notes, 'note')}",
                extra={"figures": {"samples": samples, "num_notes": num_notes}},
            )
        notes, seconds = self._generate(prefix, options, seed, num_notes=num_notes, quiet=quiet)
        continued = [_append(primers[index // num_samples], continuation) for index, continuation in enumerate(notes)]
        return Samples(continued, num_notes * samples / seconds)

    def _generate(
        self, prefix: _Prefix, options: _Options, seed: int, *, num_notes: int, quiet: bool
    ) -> tuple[list[NoteTensors], float]:
        """Returns the notes of each sample, `[num_notes]`, and the seconds without compilation."""
        samples = prefix.head_input.shape[0]
        streams = [np.random.Generator(np.random.Philox(key=[seed, sample])) for sample in range(samples)]
        # Compiles without sampling a note, so that the speed does not include compilation.
        self._decode(tf.constant(0), prefix, options, tf.zeros([_NOTES_PER_CALL, samples, UNIFORMS_PER_NOTE]))
        started = time.monotonic()
        calls = []
        with ProgressCounter(total=num_notes * samples, unit="note", description="playing", quiet=quiet) as counter:
            for first_note in range(0, num_notes, _NOTES_PER_CALL):
                count = min(_NOTES_PER_CALL, num_notes - first_note)
                prefix, notes = self._decode(tf.constant(count), prefix, options, tf.constant(_uniforms(streams)))
                calls.append([field.numpy()[:count] for field in notes])
                counter.advance(count * samples)
        seconds = time.monotonic() - started
        fields = [np.concatenate(parts) for parts in zip(*calls, strict=True)]
        return [NoteTensors(*(field[:, sample] for field in fields)) for sample in range(samples)], seconds

    def _decode_notes(
        self, notes: tf.Tensor, prefix: _Prefix, options: _Options, uniforms: tf.Tensor
    ) -> tuple[_Prefix, NoteTensors]:
        """Samples `notes` notes, at most the rows of uniforms `[limit, samples, UNIFORMS_PER_NOTE]`."""
        limit, samples = uniforms.shape[:2]
        sampled = tf.TensorArray(tf.int32, limit, element_shape=[len(NoteTensors._fields), samples])

        def decode_note(
            index: tf.Tensor, prefix: _Prefix, sampled: tf.TensorArray
        ) -> tuple[tf.Tensor, _Prefix, tf.TensorArray]:
            note = self._model.heads.sample(
                prefix.head_input, tf.gather(uniforms, index), options.temperature, options.top_p
            )
            prefix = _Prefix(*self._model.decode_step(note, prefix.state, options.weights))
            return index + 1, prefix, sampled.write(index, tf.stack(note))

        _, prefix, sampled = tf.while_loop(
            lambda index, *_: index < notes, decode_note, (0, prefix, sampled), maximum_iterations=limit
        )
        return prefix, NoteTensors(*tf.unstack(sampled.stack(), axis=1))

    def _read_primers(self, primers: Sequence[Notes]) -> _Prefix:
        """Returns the heads' input and the state after each primer."""
        inputs = [self._model_inputs(primer) for primer in primers]
        lengths = np.array([len(notes.pitch) for notes in inputs])
        groups, prefixes = [], []
        for length in np.unique(lengths):  # Primers of one length form a batch.
            group = np.flatnonzero(lengths == length)
            fields = (np.stack(columns) for columns in zip(*(inputs[index] for index in group), strict=True))
            batch = NoteTensors(*(tf.constant(field, tf.int32) for field in fields))
            head_input, state = self._forward(batch, self._model.initial_state(len(group)))
            groups.append(group)
            prefixes.append(_Prefix(head_input[:, -1], state))
        order = np.argsort(np.concatenate(groups))
        head_input, state = tf.nest.map_structure(lambda *parts: tf.gather(tf.concat(parts, axis=0), order), *prefixes)
        # `decode_step` expects the variables' precision; counts stay integers.
        state = tf.nest.map_structure(
            lambda value: tf.cast(value, head_input.dtype) if value.dtype.is_floating else value, state
        )
        return _Prefix(head_input, state)

    def _model_inputs(self, primer: Notes) -> NoteTensors:
        """Returns the model's inputs for a primer: `[notes]` each, at least one."""
        fields = NoteTensors(*(getattr(primer, field).astype(np.int32) for field in NoteTensors._fields))
        config = self._model.config
        if config.positions == "last":
            if not len(primer):
                raise UserError("a model with positions=last cannot start without notes. Give a --primer")
            return fields.map(lambda field: field[-config.seq_length :])
        start = NoteTensors(START_PITCH, 0, 0, 0)
        return NoteTensors(*(np.append(first, field) for first, field in zip(start, fields, strict=True)))


def _list_by_field(values: float | Mapping[str, float]) -> list[float]:
    return [values[field] if isinstance(values, Mapping) else values for field in FIELDS]


def _uniforms(streams: Sequence[np.random.Generator]) -> np.ndarray:
    """Returns the next uniform numbers in [0, 1) of each stream, float32 `[notes, streams, UNIFORMS_PER_NOTE]`."""
    shape = (_NOTES_PER_CALL, UNIFORMS_PER_NOTE)
    return np.stack([stream.random(shape, np.float32) for stream in streams], axis=1)


def _append(primer: Notes, continuation: NoteTensors) -> Notes:
    """Returns the primer followed by the notes `[notes]` of its continuation."""
    step_us = np.append(primer.step_us, continuation.step_us)
    step_us[0] = 0  # Without a primer, time starts at the first note.
    return Notes(
        np.append(primer.pitch, continuation.pitch),
        step_us,
        np.append(primer.duration_us, continuation.duration_us),
        np.append(primer.velocity, continuation.velocity),
    )
