"""Plays: calls the model again and again, each note it draws being the next input, its state carried along."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.errors import UserError
from sostenuto.music.notes import FIELDS, Notes
from sostenuto.progress import ProgressCounter, silenced
from trainer.data.windows import START_PITCH, NoteTensors
from trainer.model.density_heads import UNIFORMS_PER_NOTE
from trainer.model.next_note import ModelState, NextNoteModel

logger = logging.getLogger(__name__)

_NOTES_PER_CALL = 128  # notes drawn per call of the compiled loop, whatever is asked for


class Samples(NamedTuple):
    """What was played.

    Attributes:
        notes: each sample, its primer and the continuation.
        notes_per_second: generated notes of all samples a second, without reading primers and compiling.
    """

    notes: list[Notes]
    notes_per_second: float


class NoteSampler:
    """Generates with one model; the compiled loop is kept for further calls with as many samples."""

    def __init__(self, model: NextNoteModel) -> None:
        self._model = model

        @tf.function(autograph=False, jit_compile=True)
        def draw(notes, hidden, state, weights, uniforms, temperature, top_p):
            """Draws some notes, at most as many as uniforms `[most, samples, UNIFORMS_PER_NOTE]` has rows."""
            most = uniforms.shape[0]
            drawn = tf.TensorArray(tf.int32, most, element_shape=[len(NoteTensors._fields), uniforms.shape[1]])

            def draw_one(index, hidden, state, drawn):
                note = model.heads.sample(hidden, tf.gather(uniforms, index), temperature, top_p)
                hidden, state = model.step(note, state, weights)
                return index + 1, hidden, state, drawn.write(index, tf.stack(note))

            _, hidden, state, drawn = tf.while_loop(
                lambda index, *_: index < notes, draw_one, (0, hidden, state, drawn), maximum_iterations=most
            )
            return hidden, state, NoteTensors(*tf.unstack(drawn.stack(), axis=1))

        self._draw = draw
        self._read = tf.function(model.read, autograph=False, reduce_retracing=True)

    def play(
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
        """Continues primers, or plays from silence, all samples at once.

        Sample i depends on the seed, on i and on its own primer, not on what is drawn beside it.

        Args:
            primers: what to continue: one, or several of any lengths; after one without notes, a sample starts from
                silence.
            num_notes: notes to generate for each sample; all pitches are within the model's range.
            num_samples: how many samples of each primer; those of the first primer come first.
            temperature: above 0; below 1 plays the likely more often, above 1 the unlikely. One for all, or one for
                each of `sostenuto.music.notes.FIELDS`.
            seed: of the numbers drawn.
            top_p: above 0, at most 1: a field is drawn from its smallest set of likeliest values whose probability, at
                that temperature, reaches it. One for all, or one for each field.
            quiet: shows no progress.

        Raises:
            UserError: a primer is empty and the model cannot begin from silence.
        """
        primers = [primers] if isinstance(primers, Notes) else primers
        hidden, state = tf.nest.map_structure(
            lambda part: tf.repeat(part, num_samples, axis=0), self._after_each(primers)
        )
        samples = len(primers) * num_samples
        weights = self._model.step_weights()
        calls = -(-num_notes // _NOTES_PER_CALL)
        streams = [np.random.Generator(np.random.Philox(key=[seed, sample])) for sample in range(samples)]
        temperatures = tf.constant(_by_field(temperature), hidden.dtype)
        # Where nothing is left out, nothing is compiled for it.
        shares = tuple(None if share == 1 else tf.constant(share, hidden.dtype) for share in _by_field(top_p))
        with silenced(quiet):
            logger.info(
                f"playing {samples:,} x {num_notes:,} notes",
                extra={"figures": {"samples": samples, "num_notes": num_notes}},
            )
        # Compiles, and draws nothing: the speed is that of playing.
        nothing = tf.zeros([_NOTES_PER_CALL, samples, UNIFORMS_PER_NOTE])
        self._draw(tf.constant(0), hidden, state, weights, nothing, temperatures, shares)
        begun = time.monotonic()
        drawn = []
        with ProgressCounter(total=num_notes * samples, unit="note", description="playing", quiet=quiet) as meter:
            for call in range(calls):
                count = min(_NOTES_PER_CALL, num_notes - call * _NOTES_PER_CALL)
                uniforms = tf.constant(_uniforms(streams))
                hidden, state, notes = self._draw(
                    tf.constant(count), hidden, state, weights, uniforms, temperatures, shares
                )
                drawn.append([field.numpy()[:count] for field in notes])
                meter.advance(count * samples)
        seconds = time.monotonic() - begun
        fields = NoteTensors(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))
        return Samples(
            [
                _continued(primers[sample // num_samples], NoteTensors(*(field[:, sample] for field in fields)))
                for sample in range(samples)
            ],
            num_notes * samples / seconds,
        )

    def _after_each(self, primers: Sequence[Notes]) -> tuple[tf.Tensor, ModelState]:
        """What the heads read, `[primers, units]`, and the state, after each primer."""
        heard = [self._heard(primer) for primer in primers]
        lengths = np.array([len(inputs.pitch) for inputs in heard])
        groups, after = [], []
        for length in np.unique(lengths):  # Those of one length are read together.
            group = np.flatnonzero(lengths == length)
            inputs = (np.stack(fields) for fields in zip(*(heard[index] for index in group), strict=True))
            hidden, state = self._read(
                NoteTensors(*(tf.constant(field, tf.int32) for field in inputs)), self._model.initial_state(len(group))
            )
            groups.append(group)
            after.append((hidden[:, -1], state))
        places = np.argsort(np.concatenate(groups))
        hidden, state = tf.nest.map_structure(lambda *parts: tf.gather(tf.concat(parts, axis=0), places), *after)
        # `step` goes on in the variables' precision; what is counted stays whole.
        state = tf.nest.map_structure(
            lambda part: tf.cast(part, hidden.dtype) if part.dtype.is_floating else part, state
        )
        return hidden, state

    def _heard(self, primer: Notes) -> NoteTensors:
        """What the model reads of a primer: `[notes]` each, at least one."""
        fields = NoteTensors(*(getattr(primer, field).astype(np.int32) for field in NoteTensors._fields))
        config = self._model.config
        if config.positions == "last":
            if not len(primer):
                raise UserError("this model was never shown how a performance begins: give a --primer")
            return fields.map(lambda field: field[-config.seq_length :])
        start = NoteTensors(START_PITCH, 0, 0, 0)
        return NoteTensors(*(np.append(first, field) for first, field in zip(start, fields, strict=True)))


def _by_field(values: float | Mapping[str, float]) -> list[float]:
    return [values[field] if isinstance(values, Mapping) else values for field in FIELDS]


def _uniforms(streams: Sequence[np.random.Generator]) -> np.ndarray:
    """Returns the next uniform numbers in [0, 1) of each stream, float32 `[notes, streams, UNIFORMS_PER_NOTE]`."""
    shape = (_NOTES_PER_CALL, UNIFORMS_PER_NOTE)
    return np.stack([stream.random(shape, np.float32) for stream in streams], axis=1)


def _continued(primer: Notes, drawn: NoteTensors) -> Notes:
    """The primer and, in the order they were drawn, the notes after it, `[notes]` each."""
    step_us = np.append(primer.step_us, drawn.step_us)
    step_us[0] = 0  # From silence, time begins with the first note.
    return Notes(
        np.append(primer.pitch, drawn.pitch),
        step_us,
        np.append(primer.duration_us, drawn.duration_us),
        np.append(primer.velocity, drawn.velocity),
    )
