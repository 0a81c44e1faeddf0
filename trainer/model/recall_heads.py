"""Layers that use recall: scores of candidate pitches, and the times of matches."""

from collections.abc import Iterator
from typing import Final

import keras
import tensorflow as tf

from sostenuto.music.notes import PITCHES
from trainer.config import Config
from trainer.data.matches import MATCHES
from trainer.data.recall import CANDIDATES, PitchRecall
from trainer.model.activations import gelu
from trainer.model.layers import MixedDense, glorot
from trainer.model.note_history import sum_by_column
from trainer.model.time_bins import BINS
from trainer.model.time_distribution import bins

_VOTES: Final = 2  # distributions over the matches
_SCALE: Final = 8.0  # factor of small weights, which an optimizer step moves little, as in `trainer.model.heads`


class PitchScorer(keras.layers.Layer):
    """Scores of the candidate pitches, from one small network for all pitches."""

    def __init__(self, config: Config, dtype: str, seeds: Iterator[int]) -> None:
        super().__init__(dtype=dtype, name="pitch_recall")
        units = config.memory_units
        self._hidden = MixedDense(units, kernel_initializer=glorot(seeds), dtype=config.precision, name="hidden")
        initializer = keras.initializers.RandomNormal(stddev=0.3 / _SCALE, seed=next(seeds))
        self._present = self.add_weight(shape=[CANDIDATES, units], initializer=initializer, name="present")
        self._distance = self.add_weight(shape=[CANDIDATES, units], initializer="zeros", name="distance")
        initializer = keras.initializers.RandomNormal(stddev=0.1 / _SCALE, seed=next(seeds))
        self._score = self.add_weight(shape=[units], initializer=initializer, name="score")

    def call(self, hidden: tf.Tensor, recall: PitchRecall) -> tf.Tensor:
        """Returns scores to add to the logits, 0 for other pitches: `[..., PITCHES]`; hidden is `[..., head_units]`."""
        is_candidate = recall.distance > 0
        present = tf.cast(is_candidate, self.compute_dtype)
        distance = _log_distance(recall.distance, self.compute_dtype)
        features = _SCALE * (present[..., tf.newaxis] * self._present + distance[..., tf.newaxis] * self._distance)
        # The features of candidates with the same pitch are summed. The first of them has the score of the pitch.
        pitch = tf.where(is_candidate, recall.pitch, -1)
        is_same = tf.equal(pitch[..., tf.newaxis], pitch[..., tf.newaxis, :])
        same = tf.cast(is_same, self.compute_dtype)
        earlier = tf.linalg.band_part(same, -1, 0)
        is_first = is_candidate & (tf.reduce_sum(earlier, axis=-1) < 2)
        summed = gelu(tf.matmul(same, features) + self._hidden(hidden)[..., tf.newaxis, :])
        scores = tf.where(is_first, tf.reduce_sum(summed * (_SCALE * self._score), axis=-1), 0)
        return _scatter(scores, tf.where(is_first, recall.pitch, 0), PITCHES)


class TimeVotes(keras.layers.Layer):
    """Histograms of the times of matches, weighted by a learned attention, for the hidden layer of a time's head."""

    def __init__(self, config: Config, dtype: str, field: str, seeds: Iterator[int]) -> None:
        super().__init__(dtype=dtype, name=f"{field}_recall")
        self._attention = MixedDense(
            _VOTES * (MATCHES + 1), kernel_initializer=glorot(seeds), dtype=config.precision, name="attention"
        )
        self._distance = self.add_weight(shape=[_VOTES, MATCHES], initializer="zeros", name="distance")
        self._times = MixedDense(
            config.head_units, use_bias=False, kernel_initializer=glorot(seeds), dtype=config.precision, name="times"
        )

    def call(self, hidden: tf.Tensor, times_us: tf.Tensor, distance: tf.Tensor) -> tf.Tensor:
        """Returns what to add to the head's hidden layer, `[..., head_units]` both; times are `[..., MATCHES]`."""
        shape = tf.shape(distance)[:-1]
        logits = tf.reshape(self._attention(hidden), tf.concat([shape, [_VOTES, MATCHES + 1]], axis=0))
        is_match = (distance > 0)[..., tf.newaxis, :]
        log_distance = _log_distance(distance, self.compute_dtype)[..., tf.newaxis, :]
        weights = logits[..., 1:] + _SCALE * self._distance * log_distance
        weights = tf.where(is_match, weights, tf.constant(-1e9, weights.dtype))
        weights = tf.nn.softmax(tf.concat([logits[..., :1], weights], axis=-1))[..., 1:]
        column = tf.repeat(bins(times_us)[..., tf.newaxis, :], _VOTES, axis=-2)
        votes = _scatter(weights, column, BINS)
        return self._times(tf.reshape(votes, tf.concat([shape, [_VOTES * BINS]], axis=0)))


def expected_keys(recall: PitchRecall, dtype: str) -> tf.Tensor:
    """Counts the candidates of each key, those farther back with less weight: `[..., PITCHES]`."""
    weights = tf.where(recall.distance > 0, 1 - 0.8 * _log_distance(recall.distance, dtype), 0)
    return sum_by_column(weights[..., tf.newaxis], recall.pitch, PITCHES)


def _log_distance(distance: tf.Tensor, dtype: str) -> tf.Tensor:
    """Returns logarithms of distances, scaled to about 0 to 1; 0 for 0."""
    return tf.math.log1p(tf.cast(distance, dtype)) / 8


def _scatter(values: tf.Tensor, columns: tf.Tensor, size: int) -> tf.Tensor:
    """Sums values `[..., n]` by int64 column: `[..., size]`."""
    shape = tf.shape(values)[:-1]
    ones = tf.ones([tf.reduce_prod(shape), 1], tf.int64)
    first = size * tf.cumsum(ones, exclusive=True)
    segments = tf.reshape(first + tf.reshape(columns, [-1, values.shape[-1]]), [-1])
    sums = tf.math.unsorted_segment_sum(tf.reshape(values, [-1]), segments, size * tf.size(ones))
    return tf.reshape(sums, tf.concat([shape, [size]], axis=0))
