"""Sampling from a softmax, with temperature, nucleus (top_p) and bounds."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

_MIN_TEMPERATURE = 1e-30  # Lower temperatures would overflow, and act the same.


def categorical_nll(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns the negative log likelihood in nats, `[...]`, of labels `[...]` under logits `[..., classes]`."""

    @tf.custom_gradient
    def nll(logits: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        # A product with ones and zeros: on a GPU, the gradient of a gather would be slow if it is deterministic.
        chosen = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        log_probabilities = tf.nn.log_softmax(logits)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return (tf.exp(log_probabilities) - chosen) * upstream[..., tf.newaxis]

        return -tf.reduce_sum(chosen * log_probabilities, axis=-1), gradient

    return nll(logits)


def sample_categorical(
    logits: tf.Tensor,
    uniform: tf.Tensor,
    temperature: tf.Tensor,
    top_p: tf.Tensor | None = None,
    bounds: tuple[int, int] | None = None,
    *,
    allowed: tf.Tensor | None = None,
) -> tf.Tensor:
    """Samples from softmax(logits / temperature) by inverting its distribution function: int32 `[batch]`.

    With bounds, it samples from the same distribution restricted to the classes within them. A uniform number that
    yields a class within the bounds without them yields the same class with them, if the likeliest class is within.

    Args:
        logits: `[batch, classes]`.
        uniform: `[batch]` in [0, 1).
        temperature: scalar above 0.
        top_p: scalar above 0, at most 1: samples from the smallest set of likeliest classes whose probability reaches
            it; None samples from all of them.
        bounds: the lowest and the highest class to sample; None permits all.
        allowed: which classes may be sampled, bool `[batch, classes]`, at least one of them within the bounds: the
            others get probability 0, before temperature and top_p; None permits all.
    """
    classes = logits.shape[-1]
    lowest, highest = bounds or (0, classes - 1)
    if allowed is not None:
        logits = tf.where(allowed, logits, logits.dtype.min)
    is_bounded = (lowest, highest) != (0, classes - 1)
    # Relative to the likeliest class, so that it remains at a temperature near 0, and nothing is divided by 0.
    relative = logits - tf.reduce_max(logits[:, lowest : highest + 1], axis=-1, keepdims=True)
    if is_bounded:
        relative = tf.minimum(relative, 0)  # A likelier class outside must not overflow.
    likelihood = tf.exp(relative / tf.maximum(temperature, _MIN_TEMPERATURE))
    if top_p is not None:
        if is_bounded:
            within = (np.arange(classes) >= lowest) & (np.arange(classes) <= highest)
            likelihood = tf.where(within, likelihood, 0)
        likelihood = _nucleus(likelihood, top_p)
    # Cumulative sums as a product with a triangle of ones: XLA compiles tf.cumsum to a far slower loop. They are
    # compared with a fraction of their own total, which coarse rounding on some GPUs makes differ from a plain sum.
    cumulative = tf.matmul(likelihood, tf.constant(np.triu(np.ones((classes, classes))), logits.dtype))
    threshold = tf.cast(uniform, logits.dtype)[:, tf.newaxis] * cumulative[:, -1:]
    if is_bounded:
        threshold = _move_within(threshold, cumulative, lowest, highest)
    if allowed is not None:
        return _first_above(threshold, cumulative, allowed[:, lowest : highest + 1], lowest)
    sampled = tf.reduce_sum(tf.cast(cumulative[:, :-1] <= threshold, tf.int32), axis=-1)
    return tf.clip_by_value(sampled, lowest, highest) if is_bounded else sampled


def _first_above(threshold: tf.Tensor, cumulative: tf.Tensor, allowed: tf.Tensor, lowest: int) -> tf.Tensor:
    """Returns the first allowed class from `lowest` on whose cumulative sum is above the threshold: int32 `[batch]`.

    No rounding of the sums makes it another than an allowed class.
    """
    number = tf.range(allowed.shape[-1])
    is_above = cumulative[:, lowest : lowest + allowed.shape[-1]] > threshold
    last = tf.reduce_max(tf.where(allowed, number, 0), axis=-1, keepdims=True)
    return lowest + tf.reduce_min(tf.where(allowed & is_above, number, last), axis=-1)


def _move_within(threshold: tf.Tensor, cumulative: tf.Tensor, lowest: int, highest: int) -> tf.Tensor:
    """Moves thresholds `[batch, 1]` of classes outside the bounds to the classes within, and keeps the others."""
    begin = cumulative[:, lowest - 1 : lowest] if lowest else tf.zeros_like(threshold)
    end = cumulative[:, highest : highest + 1]
    # A threshold outside is uniform over the mass of the classes outside, so it serves as a new uniform number.
    outside = begin + cumulative[:, -1:] - end
    position = tf.where(threshold < begin, threshold, threshold - end + begin)
    moved = begin + tf.math.divide_no_nan(position, outside) * (end - begin)
    return tf.where((threshold < begin) | (threshold >= end), moved, threshold)


def _nucleus(likelihood: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Keeps the fewest likeliest classes whose fraction of the sum reaches `top_p`, and sets the others to 0.

    The largest likelihood of each row must be 1. Classes within a ten-thousandth of each other's likelihood are kept or
    dropped together. Nucleus sampling: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020.
    """
    # Bisection over the bits of the limit: non-negative numbers are ordered as their bits. A sort would take many times
    # as long. The sums are products with ones, because XLA compiles tf.reduce_sum to a slower loop.
    integer, exponent_and_13_bits = (
        (tf.int64, range(39, 62)) if likelihood.dtype == tf.float64 else (tf.int32, range(10, 30))
    )
    ones = tf.ones([likelihood.shape[-1], 1], likelihood.dtype)
    required = tf.maximum(top_p * tf.matmul(likelihood, ones), 1)  # Keeps the likeliest class at any top_p.
    bits = tf.zeros_like(required, integer)
    for position in reversed(exponent_and_13_bits):
        higher = bits + tf.constant(1 << position, integer)
        enough = tf.matmul(_zero_below(likelihood, higher), ones) >= required
        bits = tf.where(enough, higher, bits)
    return _zero_below(likelihood, bits)


def _zero_below(values: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Sets values below the number with the given bits to 0."""
    return tf.where(values >= tf.bitcast(bits, values.dtype), values, 0)
