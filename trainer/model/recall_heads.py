"""Layers that use recall: scores of candidate pitches, and the times of earlier places."""

from collections.abc import Iterator
from typing import Final

import keras
import numpy as np
import tensorflow as tf

from sostenuto.music.notes import PITCHES
from trainer.config import Config
from trainer.data.alignments import STRONGEST
from trainer.data.matches import MATCHES
from trainer.data.recall import CANDIDATES, TIMES, PitchRecall, TimeRecall
from trainer.model.activations import gelu
from trainer.model.layers import MixedDense, glorot
from trainer.model.note_history import segment_sums, sum_by_column
from trainer.model.time_bins import BINS
from trainer.model.time_distribution import bins

_VOTES: Final = 2  # distributions over the places
_FEATURES: Final = 3 * CANDIDATES - MATCHES  # Matches have no strength.
_SCALE: Final = 8.0  # factor of small weights, which an optimizer step moves little, as in `trainer.model.heads`


class PitchScorer(keras.layers.Layer):
    """Scores of the candidate pitches, from one small network for all pitches."""

    def __init__(self, config: Config, dtype: str, seeds: Iterator[int]) -> None:
        super().__init__(dtype=dtype, name="pitch_recall")
        units = config.memory_units
        self._hidden = MixedDense(units, kernel_initializer=glorot(seeds), dtype=config.precision, name="hidden")
        # Of a candidate that names the pitch: its presence, how far back it is, and the strength of its alignment.
        initializer = keras.initializers.RandomNormal(stddev=0.3 / _SCALE, seed=next(seeds))
        self._candidates = self.add_weight(shape=[_FEATURES, units], initializer=initializer, name="candidates")
        initializer = keras.initializers.RandomNormal(stddev=0.1 / _SCALE, seed=next(seeds))
        self._score = self.add_weight(shape=[units, 1], initializer=initializer, name="score")

    def call(self, hidden: tf.Tensor, recall: PitchRecall) -> tf.Tensor:
        """Returns scores to add to the logits, 0 for other pitches: `[..., PITCHES]`; hidden is `[..., head_units]`."""
        is_candidate = recall.distance > 0
        # Which candidates name the same pitch. The score of a pitch is added once, by the first of them.
        pitch = tf.where(is_candidate, recall.pitch, -1)
        same = tf.cast(pitch[..., tf.newaxis] == pitch[..., tf.newaxis, :], self.compute_dtype)
        is_first = is_candidate & (tf.argmax(same, axis=-1) == np.arange(CANDIDATES))
        present = tf.cast(is_candidate, self.compute_dtype)[..., tf.newaxis, :]
        distance = _log_distance(recall.distance, self.compute_dtype)[..., tf.newaxis, :]
        strength = _strength(recall.strength[..., MATCHES:], self.compute_dtype)[..., tf.newaxis, :]
        features = tf.concat([same * present, same * distance, same[..., MATCHES:] * strength], axis=-1)
        shape = tf.shape(recall.pitch)
        # In two dimensions: TensorFlow would multiply note by note.
        summed = tf.matmul(tf.reshape(features, [-1, _FEATURES]), _SCALE * self._candidates)
        summed += tf.repeat(tf.reshape(self._hidden(hidden), [-1, summed.shape[-1]]), CANDIDATES, axis=0)
        scores = tf.reshape(tf.matmul(gelu(summed), _SCALE * self._score), shape)
        return _scatter(tf.where(is_first, scores, 0), tf.where(is_first, recall.pitch, 0), PITCHES)


class TimeVotes(keras.layers.Layer):
    """Histograms of the times of earlier places, by a learned attention, for the hidden layer of a time's head."""

    def __init__(self, config: Config, dtype: str, field: str, seeds: Iterator[int]) -> None:
        super().__init__(dtype=dtype, name=f"{field}_recall")
        self._attention = MixedDense(
            _VOTES * (TIMES + 1), kernel_initializer=glorot(seeds), dtype=config.precision, name="attention"
        )
        self._distance, self._strength = (
            self.add_weight(shape=[_VOTES, TIMES], initializer="zeros", name=name) for name in ("distance", "strength")
        )
        self._times = MixedDense(
            config.head_units, use_bias=False, kernel_initializer=glorot(seeds), dtype=config.precision, name="times"
        )

    def call(self, hidden: tf.Tensor, times_us: tf.Tensor, places: TimeRecall) -> tf.Tensor:
        """Returns what to add to the head's hidden layer, `[..., head_units]` both; times are `[..., TIMES]`."""
        shape = tf.shape(times_us)[:-1]
        logits = tf.reshape(self._attention(hidden), tf.concat([shape, [_VOTES, TIMES + 1]], axis=0))
        is_place = (places.distance > 0)[..., tf.newaxis, :]
        distance = _log_distance(places.distance, self.compute_dtype)[..., tf.newaxis, :]
        strength = _strength(places.strength, self.compute_dtype)[..., tf.newaxis, :]
        weights = logits[..., 1:] + _SCALE * (self._distance * distance + self._strength * strength)
        weights = tf.where(is_place, weights, tf.constant(-1e9, weights.dtype))
        # The first logit is that of no place.
        weights = tf.nn.softmax(tf.concat([logits[..., :1], weights], axis=-1))[..., 1:]
        column = tf.repeat(bins(times_us)[..., tf.newaxis, :], _VOTES, axis=-2)
        votes = _scatter(weights, column, BINS)
        return self._times(tf.reshape(votes, tf.concat([shape, [_VOTES * BINS]], axis=0)))


def expected_keys(recall: PitchRecall, dtype: str) -> tf.Tensor:
    """Counts the candidates of each key: of matches, fewer if far back, and of alignments, by strength.

    Returns `[..., 2 * PITCHES]`.
    """
    weights = 1 - 0.8 * _log_distance(recall.distance, dtype)
    is_match = (recall.distance > 0) & (recall.strength == 0)
    kinds = tf.stack([tf.where(is_match, weights, 0), _strength(recall.strength, dtype)], axis=-1)
    return sum_by_column(kinds, recall.pitch, PITCHES)


def _log_distance(distance: tf.Tensor, dtype: str) -> tf.Tensor:
    """Returns logarithms of distances, scaled to about 0 to 1; 0 for 0."""
    return tf.math.log1p(tf.cast(distance, dtype)) / 8


def _strength(strength: tf.Tensor, dtype: str) -> tf.Tensor:
    """Returns strengths of alignments, scaled to 0 to 1."""
    return tf.cast(strength, dtype) / STRONGEST


def _scatter(values: tf.Tensor, columns: tf.Tensor, size: int) -> tf.Tensor:
    """Sums values `[..., n]` by int64 column: `[..., size]`."""
    sums = segment_sums(tf.reshape(values, [-1]), columns, size)
    return tf.reshape(sums, tf.concat([tf.shape(values)[:-1], [size]], axis=0))
