"""The end of generated pieces: where the model ends them, or near a number of seconds to which they are led."""

import math
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf

from trainer.data.note_tensors import NoteTensors
from trainer.model.heads import HeadInput
from trainer.model.next_note import NextNoteModel

# With a number of seconds, a piece may end in this last part of them. The log-odds of an end rise there by _RISE in
# all: from about one end in 4,000 notes, as in MAESTRO, to nearly certain.
_LAST_PART: Final = 0.25
_RISE: Final = 14.0

_NO_LIMIT_US: Final = 2**62


class Ending(NamedTuple):
    """When samples end: inputs of the compiled loop.

    Attributes:
        log_odds: added to the model's log-odds of an end, a float64 scalar; minus infinity for no end.
        limit_us: the longest time from the first generated note to the last, an int64 scalar.
        has_limit: whether there is one, a bool scalar.
    """

    log_odds: tf.Tensor
    limit_us: tf.Tensor
    has_limit: tf.Tensor


class Progress(NamedTuple):
    """Progress of samples, `[samples]` each.

    Attributes:
        length: int64, the generated notes.
        elapsed_us: int64, the time from the first of them to the last.
        has_ended: bool.
    """

    length: tf.Tensor
    elapsed_us: tf.Tensor
    has_ended: tf.Tensor


def make_ending(end_odds: float, seconds: float | None) -> Ending:
    """Returns the inputs for a factor on the odds of an end, 0 for none, and a limit in seconds, None for none."""
    limit_us = _NO_LIMIT_US if seconds is None else round(seconds * 1e6)
    log_odds = math.log(end_odds) if end_odds else -math.inf
    return Ending(tf.constant(log_odds, tf.float64), tf.constant(limit_us, tf.int64), tf.constant(seconds is not None))


def no_progress(samples: int) -> Progress:
    """Returns the progress before the first note."""
    zeros = tf.zeros([samples], tf.int64)
    return Progress(zeros, zeros, tf.zeros([samples], tf.bool))


def advance(progress: Progress, note: NoteTensors, ends: tf.Tensor, ending: Ending | None) -> Progress:
    """Returns the progress after a sampled note, which a sample that has ended does not play.

    Args:
        progress: before the note.
        note: int32 `[samples]` each.
        ends: from `draw_ends`.
        ending: when samples end; None if they never do.
    """
    is_later = progress.length > 0
    elapsed_us = progress.elapsed_us + tf.where(is_later, tf.cast(note.step_us, tf.int64), 0)
    has_ended = progress.has_ended
    if ending is not None:
        # A piece has at least one note.
        has_ended |= is_later & (ends | (elapsed_us > ending.limit_us))
    return Progress(
        progress.length + tf.cast(~has_ended, tf.int64),
        tf.where(has_ended, progress.elapsed_us, elapsed_us),
        has_ended,
    )


def draw_ends(
    model: NextNoteModel, head_input: HeadInput, uniform: tf.Tensor, progress: Progress, ending: Ending | None
) -> tf.Tensor:
    """Draws which samples end after their last note, by a uniform number of each: bool `[samples]`."""
    if ending is None or model.heads.end is None:
        return tf.zeros(tf.shape(uniform), tf.bool)
    logits = model.heads.end(head_input.body, head_input.position)
    left = 1 - tf.cast(progress.elapsed_us, tf.float64) / tf.cast(ending.limit_us, tf.float64)
    rise = _RISE * (1 - left / _LAST_PART)
    led = tf.where(left > _LAST_PART, tf.constant(-np.inf, rise.dtype), rise)
    logits += tf.cast(ending.log_odds + tf.where(ending.has_limit, led, 0), logits.dtype)
    return tf.cast(uniform, logits.dtype) < tf.sigmoid(logits)
