"""The last 32 notes, relative to the newest onset: recently struck keys, sounding keys and pending releases.

An LSTM would have to sum steps and durations to know them, which it does badly. They are counted exactly, in integers,
so reading all notes at once or one by one gives the same result, on any device.
"""

from typing import Final, NamedTuple

import tensorflow as tf

from sostenuto.music.notes import PITCHES
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.model.time_bins import BINS
from trainer.model.time_distribution import bins

HISTORY_LENGTH: Final = 32  # The number of remembered notes.

# Longer ages are not counted. Below 2 ** 24, so that float32 is exact too.
_MAX_AGE_US: Final = 16_000_000
_UNIT: Final = 2.0**24  # A feature is counted in steps of its inverse; the sum of 64 fits int32.
_TRACE_SECONDS: Final = (0.3, 3.0)  # Decay times to 1/e of a struck key's traces: about a chord, about a bar.


class NoteHistory(NamedTuple):
    """The last `HISTORY_LENGTH` notes, oldest first: int64 `[..., HISTORY_LENGTH]` each, times at most 16 s.

    Before the first note, the pitch is arbitrary and the age is 16 s. After a release, 0 remains.
    """

    pitch: tf.Tensor
    age_us: tf.Tensor
    remaining_us: tf.Tensor


def empty_history(batch: int | tf.Tensor) -> NoteHistory:
    """Returns the history of `batch` performances before their first note, `[batch, HISTORY_LENGTH]`."""
    zeros = tf.zeros([batch, HISTORY_LENGTH], tf.int64)
    return NoteHistory(zeros, zeros + _MAX_AGE_US, zeros)


def extend_history(notes: NoteTensors, before: NoteHistory) -> NoteHistory:
    """Returns the history at the onset of each note `[batch, notes]`, from that of the note before them.

    The note itself is included, but for `START_PITCH`, which is not a note.
    """
    # In 64 bits, which a GPU needs (`time_distribution`), and the rests of a long window too.
    notes = notes.map(lambda field: tf.cast(field, tf.int64))
    is_note = notes.pitch != START_PITCH
    onset = tf.cumsum(notes.step_us, axis=1)  # Time 0 is the previous note.
    onsets = tf.concat([-before.age_us, tf.where(is_note, onset, onset - _MAX_AGE_US)], axis=1)
    duration = tf.where(is_note, tf.minimum(notes.duration_us, _MAX_AGE_US), 0)
    offsets = tf.concat([before.remaining_us, onset + duration], axis=1)
    last = tf.range(tf.shape(onset)[1])[:, tf.newaxis] + tf.range(1, HISTORY_LENGTH + 1)
    now = onset[:, :, tf.newaxis]
    return NoteHistory(
        tf.gather(tf.concat([before.pitch, tf.where(is_note, notes.pitch, 0)], axis=1), last, axis=1),
        tf.minimum(now - tf.gather(onsets, last, axis=1), _MAX_AGE_US),
        tf.maximum(tf.gather(offsets, last, axis=1) - now, 0),
    )


def remaining_us(history: NoteHistory | tuple[()]) -> tf.Tensor | tuple[()]:
    """Returns a history's `remaining_us`; an empty tuple for a model without history."""
    return history.remaining_us if isinstance(history, NoteHistory) else ()


def key_features(history: NoteHistory, dtype: tf.DType) -> tf.Tensor:
    """Returns features of each key, `[..., 3 * PITCHES]`: it sounds, and two traces that fade after it is struck.

    The notes of a repeatedly struck key are summed.
    """
    seconds = tf.cast(history.age_us, dtype) * 1e-6
    is_note = tf.cast(history.age_us < _MAX_AGE_US, dtype)
    sounds = tf.cast(history.remaining_us > 0, dtype)
    features = tf.stack([sounds, *(is_note * tf.exp(-seconds / decay) for decay in _TRACE_SECONDS)], axis=-1)
    return sum_by_column(features, history.pitch, PITCHES)


def release_histogram(remaining_us: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Counts times above 0 `[..., HISTORY_LENGTH]` until releases by their bin: `[..., BINS]`."""
    sounds = tf.cast(remaining_us > 0, dtype)
    return sum_by_column(sounds[..., tf.newaxis], bins(tf.maximum(remaining_us, 0)), BINS)


def sum_by_column(values: tf.Tensor, columns: tf.Tensor, size: int) -> tf.Tensor:
    """Sums values `[..., n, kinds]` from 0 to 1 by int64 column `[..., n]`, n at most 64: `[..., size * kinds]`."""
    kinds = values.shape[-1]
    # A GPU sums in any order, and integers have the same sum in each. The reshape comes before the cast, because the
    # host would reshape 32-bit integers.
    integers = tf.cast(tf.reshape(tf.round(values * _UNIT), [-1, kinds]), tf.int32)
    sums = tf.cast(segment_sums(integers, columns, size), values.dtype) / _UNIT
    # The sums depend on the notes alone: they need no gradient.
    return tf.stop_gradient(tf.reshape(sums, tf.concat([tf.shape(columns)[:-1], [size * kinds]], axis=0)))


def segment_sums(values: tf.Tensor, columns: tf.Tensor, size: int) -> tf.Tensor:
    """Sums the values of flattened rows, `[rows * n, ...]`, by int64 column `[..., n]`: `[rows * size, ...]`."""
    count = columns.shape[-1]
    # Numbers of the rows: tf.range would be computed on the host of a GPU.
    ones = tf.ones([tf.size(columns) // count, 1], tf.int64)
    first = size * tf.cumsum(ones, exclusive=True)
    segments = tf.reshape(first + tf.reshape(columns, [-1, count]), [-1])
    return tf.math.unsorted_segment_sum(values, segments, size * tf.size(ones))
