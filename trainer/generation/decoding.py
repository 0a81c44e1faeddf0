"""The compiled loops over notes: one samples each note and reads it, the other reads notes that are given."""

from typing import NamedTuple

import tensorflow as tf

from trainer.data.note_tensors import NoteTensors
from trainer.generation.ending import Ending, Progress, advance, draw_ends
from trainer.generation.steering import Steering, SteeringState, constrain, follow
from trainer.model.heads import HeadInput, TopP
from trainer.model.lstm_layers import DecodeWeights
from trainer.model.next_note import ModelState, NextNoteModel

Prefix = tuple[HeadInput, ModelState, SteeringState]
"""The heads' input `[batch, ...]`, the model's state and that of the steering after the notes before."""


class LoopOptions(NamedTuple):
    """Inputs of the loops that stay the same in all calls."""

    weights: list[DecodeWeights]
    temperature: tf.Tensor
    top_p: TopP
    ending: Ending | None
    steering: Steering


class RandomNumbers(NamedTuple):
    """Random numbers of a call of `decode_notes`, float32 `[limit, batch, ...]`.

    Attributes:
        uniforms: of each note, `UNIFORMS_PER_NOTE`.
        returns: as for `NextNoteModel.decode_step`.
        ends: uniform, of the end before each note.
    """

    uniforms: tf.Tensor
    returns: tf.Tensor
    ends: tf.Tensor


def decode_notes(
    model: NextNoteModel,
    notes: tf.Tensor,
    prefix: Prefix,
    progress: Progress,
    options: LoopOptions,
    *,
    numbers: RandomNumbers,
) -> tuple[Prefix, Progress, tf.Tensor]:
    """Samples at most `notes` notes, until all samples have ended; returns them as int32 `[limit, fields, batch]`."""
    limit, samples = numbers.uniforms.shape[:2]
    sampled = tf.TensorArray(tf.int32, limit, element_shape=[len(NoteTensors._fields), samples])

    def decode_note(
        index: tf.Tensor, prefix: Prefix, progress: Progress, sampled: tf.TensorArray
    ) -> tuple[tf.Tensor, Prefix, Progress, tf.TensorArray]:
        head_input, state, past = prefix
        uniforms, returns, ends = (tf.gather(part, index) for part in numbers)
        ends = draw_ends(model, head_input, ends, progress, options.ending)
        note, matches = model.heads.sample(
            head_input,
            uniforms,
            options.temperature,
            options.top_p,
            memory=state.memory,
            constraints=constrain(options.steering, past),
        )
        progress = advance(progress, note, ends, options.ending)
        after = model.decode_step(note, state, options.weights, matches, returns)
        prefix = *after, follow(options.steering, past, note)
        return index + 1, prefix, progress, sampled.write(index, tf.stack(note))

    def is_left(index: tf.Tensor, prefix: Prefix, progress: Progress, sampled: tf.TensorArray) -> tf.Tensor:
        return (index < notes) & ~tf.reduce_all(progress.has_ended)

    _, prefix, progress, sampled = tf.while_loop(
        is_left, decode_note, (0, prefix, progress, sampled), maximum_iterations=limit
    )
    return prefix, progress, sampled.stack()


def read_notes(
    model: NextNoteModel,
    notes: tf.Tensor,
    state: tuple[HeadInput, ModelState],
    weights: list[DecodeWeights],
    given: tf.Tensor,
) -> tuple[HeadInput, ModelState]:
    """Returns the state after the first `notes` of the given notes, int32 `[limit, fields, batch]`."""

    def read_note(index: tf.Tensor, state: tuple[HeadInput, ModelState]) -> tuple[tf.Tensor, tuple]:
        note = NoteTensors(*tf.unstack(tf.gather(given, index)))
        return index + 1, model.decode_step(note, state[1], weights)

    _, state = tf.while_loop(lambda index, _: index < notes, read_note, (0, state), maximum_iterations=given.shape[0])
    return state
