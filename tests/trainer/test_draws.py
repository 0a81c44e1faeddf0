import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.draws import categorical


def softmax(logits):
    return tf.nn.softmax(tf.cast(logits, tf.float64)).numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_categorical_draws_as_often_as_it_should(temperature):
    logits = np.array([0.0, 1.0, -30.0, 2.0, -1.0, -30.0], np.float32)
    draws = 40_000
    # The middles of equal parts of [0, 1): what is drawn must then be exact to a part.
    uniform = ((np.arange(draws) + 0.5) / draws).astype(np.float32)
    chosen = categorical(tf.repeat(logits[np.newaxis], draws, axis=0), tf.constant(uniform), temperature)
    assert chosen.dtype == tf.int32
    frequencies = np.bincount(chosen.numpy(), minlength=6) / draws
    np.testing.assert_allclose(frequencies, softmax(logits / temperature), atol=2 / draws)


@pytest.mark.parametrize("temperature", [1e-2, 1e-6, 1e-30, 1e-45])
def test_categorical_takes_the_likeliest_where_the_temperature_vanishes(temperature):
    logits = tf.random.stateless_normal([200, 30], [0, 1])
    uniform = tf.random.stateless_uniform([200], [0, 2])
    chosen = categorical(logits, uniform, tf.constant(temperature))
    clear = np.diff(np.sort(logits, axis=-1), axis=-1)[:, -1] > 0.2
    np.testing.assert_array_equal(chosen.numpy()[clear], np.argmax(logits, axis=-1)[clear])


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 2.0**-24, 0.5, 1 - 2.0**-23, 1 - 2.0**-24]))
def test_categorical_never_draws_what_has_no_probability(seed, uniform):
    logits = np.random.default_rng(seed).normal(0, 2, (20, 128)).astype(np.float32)
    logits[:, :5] = logits[:, 90:] = -200
    chosen = categorical(tf.constant(logits), tf.fill([20], tf.constant(uniform)), tf.constant(1.0)).numpy()
    assert chosen.min() >= 5
    assert chosen.max() < 90


def nucleus(logits, top_p):
    """Softmax of logits `[classes]`, cut to the likeliest classes that reach the share, by sorting."""
    probability = softmax(logits)
    order = np.argsort(-probability)
    kept = order[: np.searchsorted(np.cumsum(probability[order]), top_p) + 1]
    cut = np.zeros_like(probability)
    cut[kept] = probability[kept] / probability[kept].sum()
    return cut


@pytest.mark.parametrize("top_p", [1e-45, 0.05, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_top_p_leaves_the_fewest_that_reach_it(top_p, dtype):
    logits = np.random.default_rng(3).normal(0, 3, (40, 128)).astype(np.float32)
    draws = 400
    uniform = tf.constant(np.tile((np.arange(draws) + 0.5) / draws, 40), dtype)
    rows = tf.constant(np.repeat(logits, draws, axis=0), dtype)
    chosen = categorical(rows, uniform, tf.constant(1.0, dtype), tf.constant(top_p, dtype)).numpy()
    for row, drawn in zip(logits, chosen.reshape(40, draws), strict=True):
        frequencies = np.bincount(drawn, minlength=128) / draws
        np.testing.assert_allclose(frequencies, nucleus(row, top_p), atol=2 / draws)


def test_what_top_p_leaves_is_drawn_as_often_as_before_among_itself():
    logits = np.random.default_rng(1).normal(0, 1, 128).astype(np.float32)
    draws = 20_000
    uniform = tf.constant(np.random.default_rng(2).random(draws, np.float32))
    rows = tf.repeat(logits[np.newaxis], draws, axis=0)
    counts = np.bincount(categorical(rows, uniform, tf.constant(0.8), tf.constant(0.7)), minlength=128)
    # At the temperature: first the one, then the other.
    expected = draws * nucleus(logits / 0.8, 0.7)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = np.sum((counts - expected)[possible] ** 2 / expected[possible])
    degrees = possible.sum() - 1
    assert degrees > 5
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees)


def test_of_equally_likely_classes_top_p_leaves_all():
    uniform = tf.constant(np.linspace(0, 0.999, 300, dtype=np.float32))
    rows = tf.repeat(tf.constant([[0.0, 2.0, 2.0, -1.0]]), 300, axis=0)
    chosen = categorical(rows, uniform, tf.constant(1.0), tf.constant(0.1)).numpy()
    assert set(chosen) == {1, 2}
