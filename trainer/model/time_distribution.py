"""The model's distribution of a time: a softmax over logarithmic bins, times a learned one over the ticks of each bin.

A tick is 10 ms. The probabilities of all `MAX_TICK + 1` ticks sum to one.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sostenuto.music.notes import MAX_TICK, TICK_US
from trainer.model.categorical import categorical_nll, sample_categorical
from trainer.model.time_bins import BIN_STARTS, BIN_WIDTHS, BINS

# TensorFlow computes with 32-bit integers on the host of a GPU, and with 64-bit integers on the GPU itself.
_BIN_OF_TICK = np.repeat(np.arange(BINS, dtype=np.int64), BIN_WIDTHS)
_STARTS, _WIDTHS = BIN_STARTS.astype(np.int64), BIN_WIDTHS.astype(np.int64)
_PLACE_OF_TICK = np.arange(MAX_TICK + 1) - _STARTS[_BIN_OF_TICK]  # within its bin
# Tables of the ticks of each bin have rows as wide as the widest bin.
_PLACES = np.arange(_WIDTHS.max())

# A tick that never occurs must become unlikely within a short run, in which an optimizer step moves a weight little.
_TICK_SCALE = 32.0


def ticks(microseconds: tf.Tensor) -> tf.Tensor:
    """Rounds integer times, not negative, to int64 ticks of 10 ms, as `sostenuto.music.notes.ticks` does."""
    return (tf.minimum(tf.cast(microseconds, tf.int64), MAX_TICK * TICK_US) + TICK_US // 2) // TICK_US


def bins(microseconds: tf.Tensor) -> tf.Tensor:
    """Returns the bin, 0 to `BINS` - 1, of integer times of any shape, not negative: int64."""
    return tf.gather(_BIN_OF_TICK, ticks(microseconds))


class TimeDistribution(keras.layers.Layer):
    """The distribution over all ticks, given logits of the bins `[..., BINS]`.

    The probability of a tick within its bin is the same for all notes; it starts as equal for all ticks of a bin.
    """

    def __init__(self, *, dtype: str, name: str) -> None:
        super().__init__(dtype=dtype, name=name)
        self._ticks = self.add_weight(shape=(MAX_TICK + 1,), initializer="zeros", name="ticks")

    def nll(self, logits: tf.Tensor, microseconds: tf.Tensor) -> tf.Tensor:
        """Returns the negative log probability of the ticks of integer times `[...]`, in nats."""
        tick = ticks(microseconds)
        return categorical_nll(logits, tf.gather(_BIN_OF_TICK, tick)) + _nll_in_bin(self._tick_logits(), tick)

    def tick_probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns the probabilities of all ticks, `[..., MAX_TICK + 1]`."""
        in_bin = _all_ticks(tf.nn.softmax(_ticks_of(self._tick_logits(), np.arange(BINS))))
        return tf.gather(tf.nn.softmax(logits), _BIN_OF_TICK, axis=-1) * in_bin

    def median_tick(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns the first tick at which the probabilities sum to a half, int64 `[...]`."""
        cumulative = tf.cumsum(self.tick_probabilities(logits), axis=-1)
        return tf.reduce_sum(tf.cast(cumulative < 0.5, tf.int64), axis=-1)

    def sample(
        self,
        logits: tf.Tensor,
        uniform: tf.Tensor,
        temperature: tf.Tensor,
        top_p: tf.Tensor | None = None,
        *,
        uniform_in_bin: tf.Tensor,
    ) -> tf.Tensor:
        """Draws the bin of a time for each row, then a tick of the bin: int32 microseconds `[batch]`.

        Temperature and top_p act on the bins and then on the ticks of the drawn bin, as in `sample_categorical`. So a
        temperature near 0 gives the likeliest tick of the likeliest bin; the likeliest of all ticks would mostly be a
        short one, because long ones share their bin with many.
        """
        sampled = sample_categorical(logits, uniform, temperature, top_p)
        place = sample_categorical(_ticks_of(self._tick_logits(), sampled), uniform_in_bin, temperature, top_p)
        place = tf.minimum(place, tf.gather(tf.constant(BIN_WIDTHS - 1), sampled))
        return (tf.gather(tf.constant(BIN_STARTS), sampled) + place) * TICK_US

    def _tick_logits(self) -> tf.Tensor:
        return _TICK_SCALE * tf.convert_to_tensor(self._ticks)


def _nll_in_bin(tick_logits: tf.Tensor, tick: tf.Tensor) -> tf.Tensor:
    """Returns the negative log probability of ticks `[...]` within their bins."""
    bin_index, place = tf.gather(_BIN_OF_TICK, tick), tf.gather(_PLACE_OF_TICK, tick)

    @tf.custom_gradient
    def nll(tick_logits: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        log_probabilities = tf.nn.log_softmax(_ticks_of(tick_logits, np.arange(BINS)))

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # A product of ones and zeros: on a GPU, the gradient of a gather would be slow if it is deterministic.
            of_bin, of_place = (
                tf.one_hot(tf.reshape(index, [-1]), size, dtype=upstream.dtype)
                for index, size in ((bin_index, BINS), (place, len(_PLACES)))
            )
            chosen = tf.matmul(tf.reshape(upstream, [-1, 1]) * of_bin, of_place, transpose_a=True)
            return _all_ticks(tf.exp(log_probabilities) * tf.reduce_sum(chosen, axis=-1, keepdims=True) - chosen)

        return -tf.gather(_all_ticks(log_probabilities), tick), gradient

    return nll(tick_logits)


def _ticks_of(tick_logits: tf.Tensor, bin_index: tf.Tensor | NDArray[np.int64]) -> tf.Tensor:
    """Returns the logits of the ticks of bins `[rows]`, a row each; the lowest number after a bin's last tick."""
    start, width = (tf.gather(values, bin_index)[:, tf.newaxis] for values in (_STARTS, _WIDTHS))
    logits = tf.gather(tick_logits, tf.minimum(start + _PLACES, MAX_TICK))
    return tf.where(width > _PLACES, logits, logits.dtype.min)


def _all_ticks(by_bin: tf.Tensor) -> tf.Tensor:
    """Returns the values of all ticks from the rows of all bins."""
    return tf.gather(tf.reshape(by_bin, [-1]), _BIN_OF_TICK * len(_PLACES) + _PLACE_OF_TICK)
