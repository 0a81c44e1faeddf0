"""Recall at the notes of whole performances."""

import numpy as np
import tensorflow as tf

from trainer.data.matches import find_matches
from trainer.data.note_table import NoteTable
from trainer.data.note_tensors import NoteTensors
from trainer.data.recall import PitchRecall, TimeRecall, empty_recall, recall_pitches


class RecallTable:
    """Recall at each note of a table, whose matches are found once: 32 bytes a note, in host memory.

    Args:
        table: the performances, also an attribute.
        columns: the table's notes as tensors in host memory, `[notes]` each; by default they are copied.
    """

    def __init__(self, table: NoteTable, columns: NoteTensors | None = None) -> None:
        self.table = table
        with tf.device("CPU:0"):
            self._columns = columns or NoteTensors(*(tf.constant(table.notes[field]) for field in NoteTensors._fields))
            self._matches = tf.constant(find_matches(table.notes["pitch"], table.offsets))

    def __call__(self, rows: tf.Tensor, is_note: tf.Tensor) -> tuple[PitchRecall, TimeRecall]:
        """Returns what is recalled for each note but the first of sequences of rows `[..., notes]` of the table.

        Rows where `is_note` is False may be any rows; nothing is recalled after them, and no times for them.
        """
        with tf.device("CPU:0"):
            distance = tf.where(is_note[..., tf.newaxis], tf.cast(tf.gather(self._matches, rows), tf.int64), 0)
            rows = rows[..., tf.newaxis]
            before, later = distance[..., :-1, :], distance[..., 1:, :]
            pitches = recall_pitches(
                before, lambda back: tf.cast(tf.gather(self._columns.pitch, rows[..., :-1, :] - back), tf.int64)
            )
            places = rows[..., 1:, :] - later
            # Without a match, the place is that of the note itself, whose times must not be known.
            step_us, duration_us = (
                tf.where(later > 0, tf.cast(tf.gather(column, places), tf.int64), 0) for column in self._columns[1:3]
            )
            return pitches, TimeRecall(step_us, duration_us, later)

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
