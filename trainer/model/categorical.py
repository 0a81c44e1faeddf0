"""Draws from a softmax: with a temperature, and from its likeliest classes alone."""

import numpy as np
import tensorflow as tf

_COLDEST = 1e-30  # temperatures below are as good as this one, and divide without overflow


def categorical(
    logits: tf.Tensor,
    uniform: tf.Tensor,
    temperature: tf.Tensor,
    top_p: tf.Tensor | None = None,
    bounds: tuple[int, int] | None = None,
) -> tf.Tensor:
    """Draws from softmax(logits / temperature) by inverting its distribution function.

    With bounds, it draws from the same distribution restricted to the classes within them. A uniform number that
    draws a class within the bounds without them draws it with them too, as long as the likeliest class is within.

    Args:
        logits: `[voices, classes]`.
        uniform: `[voices]` in [0, 1).
        temperature: scalar above 0.
        top_p: scalar above 0, at most 1: draws from the smallest set of likeliest classes whose probability reaches it;
            None draws from all of them.
        bounds: the lowest and the highest class that may be drawn; None permits all.

    Returns:
        int32 `[voices]`.
    """
    classes = logits.shape[-1]
    lowest, highest = bounds or (0, classes - 1)
    # Next to the likeliest class, so that a temperature near 0 leaves it alone instead of dividing by nothing.
    relative = logits - tf.reduce_max(logits[:, lowest : highest + 1], axis=-1, keepdims=True)
    if bounds:
        relative = tf.minimum(relative, 0)  # A likelier class outside must not overflow.
    likelihood = tf.exp(relative / tf.maximum(temperature, _COLDEST))
    if top_p is not None:
        if bounds:
            within = (np.arange(classes) >= lowest) & (np.arange(classes) <= highest)
            likelihood = tf.where(within, likelihood, 0)
        likelihood = _nucleus(likelihood, top_p)
    # Running sums as a product with a triangle of ones: XLA makes a far slower loop of tf.cumsum. They are compared
    # with a share of their own total, which rounding, coarse on some GPUs, leaves a little off that of the likelihoods.
    running = tf.matmul(likelihood, tf.constant(np.triu(np.ones((classes, classes))), logits.dtype))
    drawn = tf.cast(uniform, logits.dtype)[:, tf.newaxis] * running[:, -1:]
    if bounds:
        drawn = _moved_within(drawn, running, lowest, highest)
    chosen = tf.reduce_sum(tf.cast(running[:, :-1] <= drawn, tf.int32), axis=-1)
    return tf.clip_by_value(chosen, lowest, highest) if bounds else chosen


def _moved_within(drawn: tf.Tensor, running: tf.Tensor, lowest: int, highest: int) -> tf.Tensor:
    """Spreads the draws of classes outside of bounds over those within, and leaves the other draws as they are.

    A draw that falls outside is uniform over what the classes outside take up, so that it serves as a new uniform
    number: what is drawn has the distribution of the classes within, and no second number is needed.

    Args:
        drawn: `[voices, 1]`, uniform from 0 to the last running sum.
        running: `[voices, classes]`, running sums of the likelihoods.
        lowest: the first class within the bounds.
        highest: the last one.
    """
    begin = running[:, lowest - 1 : lowest] if lowest else tf.zeros_like(drawn)
    end = running[:, highest : highest + 1]
    outside = begin + running[:, -1:] - end
    place = tf.where(drawn < begin, drawn, drawn - end + begin)
    moved = begin + tf.math.divide_no_nan(place, outside) * (end - begin)
    return tf.where((drawn < begin) | (drawn >= end), moved, drawn)


def _nucleus(likelihood: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Leaves the fewest likeliest classes whose share of the sum reaches `top_p`, and sets the others to 0.

    Of classes within a ten-thousandth of each other's likelihood, all are left or none. It is nucleus sampling:
    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020.

    Args:
        likelihood: `[voices, classes]`, the largest of each voice 1.
        top_p: scalar above 0, at most 1.
    """
    # By halving an interval: numbers that are not negative have the order of their bits. A sort would take many times
    # as long. The sums are products with ones, since XLA makes a slower loop of tf.reduce_sum.
    integer, exponent_and_13_bits = (
        (tf.int64, range(39, 62)) if likelihood.dtype == tf.float64 else (tf.int32, range(10, 30))
    )
    ones = tf.ones([likelihood.shape[-1], 1], likelihood.dtype)
    wanted = tf.maximum(top_p * tf.matmul(likelihood, ones), 1)  # The likeliest stays, however small the share.
    bits = tf.zeros_like(wanted, integer)
    for place in reversed(exponent_and_13_bits):
        higher = bits + tf.constant(1 << place, integer)
        enough = tf.matmul(_at_least(likelihood, higher), ones) >= wanted
        bits = tf.where(enough, higher, bits)
    return _at_least(likelihood, bits)


def _at_least(values: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Sets to 0 what is below the number of those bits."""
    return tf.where(values >= tf.bitcast(bits, values.dtype), values, 0)
