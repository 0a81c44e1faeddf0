"""The last notes as they stand at the newest onset: what has just been struck, what still sounds, what is to end when.

An LSTM would have to add up steps and durations to know it, which it is bad at. Here it is counted exactly, in
integers, so that reading all notes at once and one by one give the same.
"""

from typing import Final, NamedTuple

import tensorflow as tf

from sostenuto.music.notes import PITCHES
from trainer.data.windows import START_PITCH, NoteTensors
from trainer.model.times import BINS, bins

HISTORY_LENGTH: Final = 32
"""How many notes are remembered."""

# The age at which a note has left no trace; longer times are not counted. Below 2 ** 24, so that float32 is exact too.
_FORGOTTEN_US: Final = 16_000_000
_TRACE_SECONDS: Final = (0.3, 3.0)  # in which the trace of a struck key fades to 1/e: about a chord, about a bar

KEY_FEATURES: Final = PITCHES * (1 + len(_TRACE_SECONDS))
"""Columns of `keys`."""


class NoteHistory(NamedTuple):
    """The last `HISTORY_LENGTH` notes, oldest first: int32 `[..., RECENT]` each.

    Attributes:
        pitch: of each; anything where there was no note yet.
        age_us: since its onset, at most 16 s, which also stands for no note.
        remaining_us: until its release, at most 16 s; 0 once it is released.
    """

    pitch: tf.Tensor
    age_us: tf.Tensor
    remaining_us: tf.Tensor

    def map(self, function) -> "NoteHistory":
        """The same function applied to each field; what it returns is of one shape too."""
        return NoteHistory(*(function(field) for field in self))


def no_notes(batch: int | tf.Tensor) -> NoteHistory:
    """What there is before a performance's start.

    Args:
        batch: how many performances; a scalar.

    Returns:
        `[batch, RECENT]`.
    """
    return NoteHistory(
        tf.zeros([batch, HISTORY_LENGTH], tf.int32),
        tf.fill([batch, HISTORY_LENGTH], _FORGOTTEN_US),
        tf.zeros([batch, HISTORY_LENGTH], tf.int32),
    )


def extend_history(notes: NoteTensors, before: NoteHistory) -> NoteHistory:
    """The last notes at the onset of each note, itself included.

    Args:
        notes: `[batch, notes]`; where a performance begins, `START_PITCH`, which is no note.
        before: at the onset of the note before them, `[batch, RECENT]`.

    Returns:
        `[batch, notes, RECENT]`.
    """
    is_note = notes.pitch != START_PITCH
    # In 64 bits, since the rests of a long window add up to more than int32 holds. Time 0 is the note before.
    onset = tf.cumsum(tf.cast(notes.step_us, tf.int64), axis=1)
    onsets = tf.concat([-_wide(before.age_us), tf.where(is_note, onset, onset - _FORGOTTEN_US)], axis=1)
    duration = tf.where(is_note, tf.minimum(notes.duration_us, _FORGOTTEN_US), 0)
    offsets = tf.concat([_wide(before.remaining_us), onset + _wide(duration)], axis=1)
    last = tf.range(tf.shape(onset)[1])[:, tf.newaxis] + tf.range(1, HISTORY_LENGTH + 1)
    now = onset[:, :, tf.newaxis]
    return NoteHistory(
        tf.gather(tf.concat([before.pitch, tf.where(is_note, notes.pitch, 0)], axis=1), last, axis=1),
        tf.cast(tf.minimum(now - tf.gather(onsets, last, axis=1), _FORGOTTEN_US), tf.int32),
        tf.cast(tf.maximum(tf.gather(offsets, last, axis=1) - now, 0), tf.int32),
    )


def _wide(microseconds: tf.Tensor) -> tf.Tensor:
    return tf.cast(microseconds, tf.int64)


def keys(recent: NoteHistory, dtype: tf.DType) -> tf.Tensor:
    """What of the last notes is left at each key: whether it sounds, and two traces that fade since it was struck.

    Args:
        recent: `[..., RECENT]`.
        dtype: of the result.

    Returns:
        `[..., KEY_FEATURES]`; a key that was struck several times has their sum.
    """
    seconds = tf.cast(recent.age_us, dtype) * 1e-6
    is_note = tf.cast(recent.age_us < _FORGOTTEN_US, dtype)
    sounds = tf.cast(recent.remaining_us > 0, dtype)
    left = tf.stack([sounds, *(is_note * tf.exp(-seconds / fades) for fades in _TRACE_SECONDS)], axis=-1)
    return _summed(left, recent.pitch, PITCHES)


def releases(remaining_us: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """How many of the last notes are to end in each bin of time from now.

    Args:
        remaining_us: `[..., RECENT]`; those of 0 or less have ended.
        dtype: of the result.

    Returns:
        `[..., BINS]`.
    """
    sounds = tf.cast(remaining_us > 0, dtype)
    return _summed(sounds[..., tf.newaxis], bins(tf.maximum(remaining_us, 0)), BINS)


def _summed(values: tf.Tensor, columns: tf.Tensor, size: int) -> tf.Tensor:
    """Values `[..., RECENT, kinds]` added up by column `[..., RECENT]`, 0 to `size` - 1: `[..., size * kinds]`."""
    kinds = values.shape[-1]
    rows = tf.size(columns) // HISTORY_LENGTH
    row = tf.range(rows)[:, tf.newaxis] * size
    sums = tf.math.unsorted_segment_sum(
        tf.reshape(values, [-1, kinds]), tf.reshape(row + tf.reshape(columns, [-1, HISTORY_LENGTH]), [-1]), rows * size
    )
    # Numbers that follow from the notes alone: no gradient is to be worked out for them.
    return tf.stop_gradient(tf.reshape(sums, tf.concat([tf.shape(columns)[:-1], [size * kinds]], axis=0)))
