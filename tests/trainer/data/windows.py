"""Tables of distinguishable notes, and windows sampled from them."""

import numpy as np
import tensorflow as tf

from trainer.data.note_table import NoteTable

PLAIN = {"transpose": 0, "stretch": 0.0}
"""Config fields without augmentation."""


def table_of(lengths, *, lowest=40, highest=80) -> NoteTable:
    """Returns performances of distinguishable notes: the i-th of all lasts 1,000 + i ms."""
    random = np.random.default_rng(sum(lengths))
    total = sum(lengths)
    notes = np.empty(total, [("pitch", "u1"), ("velocity", "u1"), ("step_us", "<i4"), ("duration_us", "<i4")])
    notes["pitch"] = random.integers(lowest, highest + 1, total)
    notes["velocity"] = random.integers(1, 128, total)
    notes["step_us"] = random.integers(0, 2_000_000, total)
    notes["duration_us"] = (1_000 + np.arange(total)) * 1_000
    offsets = np.cumsum([0, *lengths])
    notes["step_us"][offsets[:-1][np.diff(offsets) > 0]] = 0
    return NoteTable(notes, offsets)


def draw(windows, first_example, count):
    """Returns a batch as NumPy arrays."""
    batch = windows.batch(tf.constant(first_example, tf.int64), count)
    return tf.nest.map_structure(lambda part: part.numpy(), batch)


def draw_epoch(windows, epoch):
    return draw(windows, epoch * windows.per_epoch, windows.per_epoch)


def numbers(notes) -> np.ndarray:
    """Returns the index of each note in the table; negative for padding and start markers."""
    return notes.duration_us // 1_000 - 1_000


def assert_equal(one, other):
    for left, right in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(left, right)


def joined(batches):
    """Returns batches that follow each other as one, whose first example is that of the first."""
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts) if parts[0].ndim else parts[0], *batches)
