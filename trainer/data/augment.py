"""Random transposition and time stretching of training windows."""

import numpy as np
import tensorflow as tf

from sostenuto.music.notes import MAX_TIME_US
from trainer.config import Config
from trainer.data import random
from trainer.data.note_tensors import NoteTensors

_LOWEST_KEY, _HIGHEST_KEY = 21, 108  # A0 and C8, the ends of a piano's keyboard
_NUMBERS_PER_WINDOW = 4


def augment(config: Config, notes: NoteTensors, is_note: tf.Tensor, first_example: tf.Tensor) -> NoteTensors:
    """Transposes windows `[windows, notes]` within the keyboard and stretches time, each by its own amounts.

    `is_note` is False for the start marker and padding; the first window has example index `first_example`, int64.
    """
    windows = tf.shape(notes.pitch)[0]
    uniform = random.uniform_rows(config.seed, random.Purpose.AUGMENT, first_example, windows, _NUMBERS_PER_WINDOW)
    if config.transpose:
        notes = notes._replace(pitch=_transpose(notes.pitch, is_note, uniform[:, 0], config.transpose))
    if config.stretch:
        # A ratio and its inverse are equally likely.
        factor = tf.exp(tf.cast(2 * uniform[:, 1:2] - 1, tf.float64) * np.log1p(config.stretch))
        notes = notes._replace(
            step_us=_stretch(notes.step_us, factor),
            # A note must not become shorter than 1 us.
            duration_us=tf.maximum(_stretch(notes.duration_us, factor), tf.minimum(notes.duration_us, 1)),
        )
    return notes


def _transpose(pitch: tf.Tensor, is_note: tf.Tensor, uniform: tf.Tensor, semitones: int) -> tf.Tensor:
    """Shifts each window by up to `semitones`, clipped so that no note leaves the keyboard."""
    lowest = tf.reduce_min(tf.where(is_note, pitch, _HIGHEST_KEY), axis=1)
    highest = tf.reduce_max(tf.where(is_note, pitch, _LOWEST_KEY), axis=1)
    shift = tf.cast(uniform * (2 * semitones + 1), tf.int32) - semitones
    shift = tf.clip_by_value(shift, tf.minimum(_LOWEST_KEY - lowest, 0), tf.maximum(_HIGHEST_KEY - highest, 0))
    return tf.where(is_note, pitch + shift[:, tf.newaxis], pitch)


def _stretch(times_us: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    # The limit keeps a stretched rest of half an hour within int32.
    return tf.cast(tf.minimum(tf.round(tf.cast(times_us, tf.float64) * factor), MAX_TIME_US), tf.int32)
