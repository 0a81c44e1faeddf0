"""Recall at the notes of whole performances."""

import numpy as np
import tensorflow as tf

from trainer.data.alignments import find_alignments, find_hits, unpack
from trainer.data.matches import find_matches
from trainer.data.note_table import NoteTable
from trainer.data.note_tensors import NoteTensors
from trainer.data.recall import PitchRecall, TimeRecall, empty_recall, recall_pitches, time_places


class RecallTable:
    """Recall at each note of a table, whose matches and alignments are found once: 24 bytes a note, in host memory.

    Args:
        table: the performances, also an attribute.
        columns: the table's notes as tensors in host memory, `[notes]` each; by default they are copied.
    """

    def __init__(self, table: NoteTable, columns: NoteTensors | None = None) -> None:
        self.table = table
        with tf.device("CPU:0"):
            self._columns = columns or NoteTensors(*(tf.constant(table.notes[field]) for field in NoteTensors._fields))
            matches = find_matches(table.notes["pitch"], table.offsets)
            self._matches = tf.constant(matches)
            self._alignments = tf.constant(find_alignments(table.notes["pitch"], table.offsets, matches))

    def __call__(self, rows: tf.Tensor, is_note: tf.Tensor) -> tuple[PitchRecall, TimeRecall]:
        """Returns what is recalled for each note but the first of sequences of rows `[..., notes]` of the table.

        Rows where `is_note` is False may be any rows; nothing is recalled after them, and no times for them.
        """
        with tf.device("CPU:0"):
            is_note = is_note[..., tf.newaxis]
            distance = tf.where(is_note, _gather(self._matches, rows), 0)
            alignments = unpack(tf.where(is_note, _gather(self._alignments, rows), 0)[..., :-1, :])
            before, later = rows[..., :-1, tf.newaxis], rows[..., 1:, tf.newaxis]
            pitches = recall_pitches(
                distance[..., :-1, :], alignments, lambda back: _gather(self._columns.pitch, before - back)
            )
            hits = find_hits(
                alignments,
                _gather(self._columns.pitch, rows[..., 1:]),
                lambda back: _gather(self._columns.pitch, tf.maximum(later - back, 0)),
            )
            back, strength = time_places(distance[..., 1:, :], alignments, hits & is_note[..., 1:, :, tf.newaxis])
            # Without a place, these are the times of the note itself, which must not be known.
            step_us = tf.where(back > 0, _gather(self._columns.step_us, later - back), 0)
            duration_us = tf.where(back > 0, _gather(self._columns.duration_us, later - back), 0)
            return pitches, TimeRecall(step_us, duration_us, back, strength)

    def in_performances(self, performances: np.ndarray, numbers: np.ndarray) -> tuple[PitchRecall, TimeRecall]:
        """Returns what is recalled for each note but the first of some parts of performances.

        Args:
            performances: the index of each part's performance, `[parts]`.
            numbers: of the part's notes in its performance, `[parts, notes]` or, if all have the same, `[notes]`.
                Below 0 and from the performance's length on there is no note.
        """
        if not len(self.table.notes):
            return empty_recall(tf.constant([len(performances), numbers.shape[-1] - 1]))
        is_note = (numbers >= 0) & (numbers < self.table.lengths[performances, np.newaxis])
        rows = np.where(is_note, self.table.offsets[performances, np.newaxis] + numbers, 0)
        return self(tf.constant(rows), tf.constant(is_note))


def _gather(column: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns the values of rows, int64."""
    return tf.cast(tf.gather(column, rows), tf.int64)
