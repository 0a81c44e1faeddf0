"""What is recalled at each note of whole performances."""

import tensorflow as tf

from trainer.data.matches import find_matches
from trainer.data.note_table import NoteTable
from trainer.data.recall import PitchRecall, TimeRecall, recall_pitches


class RecallTable:
    """What is recalled at each note of a table."""

    def __init__(self, table: NoteTable) -> None:
        with tf.device("CPU:0"):
            self._pitch, self._step_us, self._duration_us = (
                tf.constant(table.notes[field]) for field in ("pitch", "step_us", "duration_us")
            )
            self._matches = tf.constant(find_matches(table.notes["pitch"], table.offsets))

    def __call__(self, rows: tf.Tensor, is_note: tf.Tensor) -> tuple[PitchRecall, TimeRecall]:
        """Returns what is recalled for each note but the first of sequences of rows `[..., notes]` of the table."""
        distance = tf.where(is_note[..., tf.newaxis], tf.cast(tf.gather(self._matches, rows), tf.int64), 0)
        rows = rows[..., tf.newaxis]
        before, later = distance[..., :-1, :], distance[..., 1:, :]
        pitches = recall_pitches(
            before, lambda back: tf.cast(tf.gather(self._pitch, rows[..., :-1, :] - back), tf.int64)
        )
        places = rows[..., 1:, :] - later
        step_us, duration_us = (
            tf.cast(tf.gather(column, places), tf.int64) for column in (self._step_us, self._duration_us)
        )
        return pitches, TimeRecall(step_us, duration_us, later)
