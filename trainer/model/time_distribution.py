"""The model's distribution of a time: a softmax over logarithmic bins whose ticks of 10 ms are equally likely.

Logits are `[..., BINS]`; the probabilities of all `MAX_TICK + 1` ticks sum to one.
"""

import numpy as np
import tensorflow as tf

from sostenuto.music.notes import MAX_TICK, TICK_US
from trainer.model.categorical import categorical_nll, sample_categorical
from trainer.model.time_bins import BIN_STARTS, BIN_WIDTHS, BINS

# TensorFlow computes with 32-bit integers on the host of a GPU, and with 64-bit integers on the GPU itself.
_BIN_OF_TICK = np.repeat(np.arange(BINS, dtype=np.int64), BIN_WIDTHS)


def ticks(microseconds: tf.Tensor) -> tf.Tensor:
    """Rounds integer times, not negative, to int64 ticks of 10 ms, as `sostenuto.music.notes.ticks` does."""
    return (tf.minimum(tf.cast(microseconds, tf.int64), MAX_TICK * TICK_US) + TICK_US // 2) // TICK_US


def bins(microseconds: tf.Tensor) -> tf.Tensor:
    """Returns the bin, 0 to `BINS` - 1, of integer times of any shape, not negative: int64."""
    return tf.gather(_BIN_OF_TICK, ticks(microseconds))


def nll(logits: tf.Tensor, microseconds: tf.Tensor) -> tf.Tensor:
    """Returns the negative log probability of the ticks of integer times `[...]`, in nats."""
    label = bins(microseconds)
    return categorical_nll(logits, label) + tf.gather(tf.math.log(tf.constant(BIN_WIDTHS, logits.dtype)), label)


def tick_probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Returns the probabilities of all ticks, `[..., MAX_TICK + 1]`."""
    probability_per_tick = tf.nn.softmax(logits) / tf.constant(BIN_WIDTHS, logits.dtype)
    return tf.gather(probability_per_tick, _BIN_OF_TICK, axis=-1)


def median_tick(logits: tf.Tensor) -> tf.Tensor:
    """Returns the first tick at which the probabilities sum to a half, int64 `[...]`."""
    cumulative = tf.cumsum(tick_probabilities(logits), axis=-1)
    return tf.reduce_sum(tf.cast(cumulative < 0.5, tf.int64), axis=-1)


def sample_time(
    logits: tf.Tensor,
    uniform: tf.Tensor,
    temperature: tf.Tensor,
    top_p: tf.Tensor | None = None,
    *,
    uniform_in_bin: tf.Tensor,
) -> tf.Tensor:
    """Draws the bin of a time for each row as `sample_categorical`, then a tick of the bin: microseconds `[batch]`."""
    sampled = sample_categorical(logits, uniform, temperature, top_p)
    width = tf.gather(tf.constant(BIN_WIDTHS), sampled)
    offset = tf.cast(uniform_in_bin * tf.cast(width, uniform_in_bin.dtype), tf.int32)
    return (tf.gather(tf.constant(BIN_STARTS), sampled) + tf.minimum(offset, width - 1)) * TICK_US
