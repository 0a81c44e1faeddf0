import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.model.categorical import categorical_nll, sample_categorical


def softmax(logits):
    return tf.nn.softmax(tf.cast(logits, tf.float64)).numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_categorical_draws_as_often_as_it_should(temperature):
    logits = np.array([0.0, 1.0, -30.0, 2.0, -1.0, -30.0], np.float32)
    draws = 40_000
    # The middles of equal parts of [0, 1): what is drawn must then be exact to a part.
    uniform = ((np.arange(draws) + 0.5) / draws).astype(np.float32)
    chosen = sample_categorical(tf.repeat(logits[np.newaxis], draws, axis=0), tf.constant(uniform), temperature)
    assert chosen.dtype == tf.int32
    frequencies = np.bincount(chosen.numpy(), minlength=6) / draws
    np.testing.assert_allclose(frequencies, softmax(logits / temperature), atol=2 / draws)


@pytest.mark.parametrize("temperature", [1e-2, 1e-6, 1e-30, 1e-45])
def test_categorical_takes_the_likeliest_where_the_temperature_vanishes(temperature):
    logits = tf.random.stateless_normal([200, 30], [0, 1])
    uniform = tf.random.stateless_uniform([200], [0, 2])
    chosen = sample_categorical(logits, uniform, tf.constant(temperature))
    clear = np.diff(np.sort(logits, axis=-1), axis=-1)[:, -1] > 0.2
    np.testing.assert_array_equal(chosen.numpy()[clear], np.argmax(logits, axis=-1)[clear])


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 2.0**-24, 0.5, 1 - 2.0**-23, 1 - 2.0**-24]))
def test_categorical_never_draws_what_has_no_probability(seed, uniform):
    logits = np.random.default_rng(seed).normal(0, 2, (20, 128)).astype(np.float32)
    logits[:, :5] = logits[:, 90:] = -200
    chosen = sample_categorical(tf.constant(logits), tf.fill([20], tf.constant(uniform)), tf.constant(1.0)).numpy()
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
    chosen = sample_categorical(rows, uniform, tf.constant(1.0, dtype), tf.constant(top_p, dtype)).numpy()
    for row, drawn in zip(logits, chosen.reshape(40, draws), strict=True):
        frequencies = np.bincount(drawn, minlength=128) / draws
        np.testing.assert_allclose(frequencies, nucleus(row, top_p), atol=2 / draws)


def test_what_top_p_leaves_is_drawn_as_often_as_before_among_itself():
    logits = np.random.default_rng(1).normal(0, 1, 128).astype(np.float32)
    draws = 20_000
    uniform = tf.constant(np.random.default_rng(2).random(draws, np.float32))
    rows = tf.repeat(logits[np.newaxis], draws, axis=0)
    counts = np.bincount(sample_categorical(rows, uniform, tf.constant(0.8), tf.constant(0.7)), minlength=128)
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
    chosen = sample_categorical(rows, uniform, tf.constant(1.0), tf.constant(0.1)).numpy()
    assert set(chosen) == {1, 2}


BOUNDS = (20, 107)


@pytest.mark.parametrize("temperature", [1e-6, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.9])
@pytest.mark.parametrize("favoured", [0, 127, 60])
def test_bounds_hold_however_likely_the_classes_outside_are(temperature, top_p, favoured):
    logits = np.random.default_rng(5).normal(0, 3, (500, 128)).astype(np.float32)
    logits[:, favoured] += 60
    uniform = tf.constant((np.arange(500) / 500).astype(np.float32))
    top_p = None if top_p is None else tf.constant(top_p)
    chosen = sample_categorical(tf.constant(logits), uniform, tf.constant(temperature), top_p, BOUNDS).numpy()
    assert BOUNDS[0] <= chosen.min()
    assert chosen.max() <= BOUNDS[1]
    if temperature < 1e-3:
        np.testing.assert_array_equal(chosen, 20 + np.argmax(logits[:, 20:108], axis=-1))


@pytest.mark.parametrize("outside", [-2.0, 5.0, 40.0])
def test_within_bounds_classes_are_drawn_as_often_as_among_themselves(outside):
    logits = np.array([outside, 0.0, 1.0, 2.0, outside + 1], np.float32)
    draws = 40_000
    uniform = ((np.arange(draws) + 0.5) / draws).astype(np.float32)
    rows = tf.repeat(logits[np.newaxis], draws, axis=0)
    chosen = sample_categorical(rows, tf.constant(uniform), tf.constant(1.0), bounds=(1, 3)).numpy()
    frequencies = np.bincount(chosen, minlength=5) / draws
    np.testing.assert_allclose(frequencies[1:4], softmax(logits[1:4]), atol=8 / draws)


@pytest.mark.parametrize("top_p", [None, 0.8])
def test_a_draw_within_bounds_is_the_same_without_them(top_p):
    logits = np.random.default_rng(7).normal(0, 1, (20_000, 128)).astype(np.float32)
    logits[:, 60] = logits.max(axis=-1)  # The likeliest is within.
    if top_p is not None:
        logits[:, :20] -= 20  # No class outside is among those that top_p leaves.
        logits[:, 108:] -= 20
    uniform = tf.constant(np.random.default_rng(8).random(20_000, np.float32))
    top_p = None if top_p is None else tf.constant(top_p)
    free = sample_categorical(tf.constant(logits), uniform, tf.constant(1.0), top_p).numpy()
    bound = sample_categorical(tf.constant(logits), uniform, tf.constant(1.0), top_p, BOUNDS).numpy()
    within = (free >= BOUNDS[0]) & (free <= BOUNDS[1])
    np.testing.assert_array_equal(bound[within], free[within])
    assert within.mean() > 0.5
    assert within.all() == (top_p is not None)
    # The others are spread over many classes.
    assert top_p is not None or len(set(bound[~within])) > 60


@pytest.mark.parametrize("bounds", [None, (0, 4), (1, 4)])
def test_allowed_classes_are_drawn_as_often_as_among_themselves(bounds):
    logits = np.array([5.0, 0.0, 1.0, 9.0, 2.0, 40.0], np.float32)
    allowed = np.array([False, True, False, True, True, False])
    draws = 40_000
    uniform = ((np.arange(draws) + 0.5) / draws).astype(np.float32)
    rows = tf.repeat(logits[np.newaxis] / 4, draws, axis=0)
    chosen = sample_categorical(
        rows, tf.constant(uniform), tf.constant(1.0), bounds=bounds, allowed=tf.constant(allowed[np.newaxis])
    ).numpy()
    frequencies = np.bincount(chosen, minlength=6) / draws
    np.testing.assert_allclose(frequencies[allowed], softmax(logits[allowed] / 4), atol=8 / draws)
    assert not frequencies[~allowed].any()


@pytest.mark.parametrize("temperature", [1e-6, 1.0])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.9])
@pytest.mark.parametrize("bounds", [None, BOUNDS])
def test_only_allowed_classes_are_drawn_of_each_row(temperature, top_p, bounds):
    random = np.random.default_rng(5)
    logits = random.normal(0, 20, (500, 128)).astype(np.float32)
    allowed = random.random((500, 128)) < 0.05
    allowed[:, 70] |= ~allowed[:, 20:108].any(axis=-1)
    uniform = tf.constant((np.arange(500) / 499 * (1 - 2**-24)).astype(np.float32))
    top_p = None if top_p is None else tf.constant(top_p)
    chosen = sample_categorical(
        tf.constant(logits), uniform, tf.constant(temperature), top_p, bounds, allowed=tf.constant(allowed)
    ).numpy()
    assert allowed[np.arange(500), chosen].all()
    within = slice(*(BOUNDS[0], BOUNDS[1] + 1)) if bounds else slice(None)
    if temperature < 1e-3:
        masked = np.where(allowed, logits, -np.inf)[:, within]
        np.testing.assert_array_equal(chosen - (within.start or 0), np.argmax(masked, axis=-1))


def test_a_draw_is_the_same_where_all_classes_are_allowed():
    logits = tf.constant(np.random.default_rng(7).normal(0, 1, (2_000, 128)).astype(np.float32))
    uniform = tf.constant(np.random.default_rng(8).random(2_000, np.float32))
    for bounds in (None, BOUNDS):
        free = sample_categorical(logits, uniform, tf.constant(1.0), bounds=bounds)
        masked = sample_categorical(logits, uniform, tf.constant(1.0), bounds=bounds, allowed=tf.fill([1, 128], True))
        np.testing.assert_array_equal(free, masked)


def test_the_nll_and_its_gradient_are_those_of_tensorflow():
    random = np.random.default_rng(0)
    logits = tf.constant(random.normal(0, 3, (5, 4, 7)), tf.float32)
    labels = tf.constant(random.integers(0, 7, (5, 4)), tf.int64)
    weights = tf.constant(random.normal(0, 1, (5, 4)), tf.float32)
    results = []
    for function in (
        categorical_nll,
        lambda logits, labels: tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits),
    ):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            nll = function(logits, labels)
            objective = tf.reduce_sum(weights * nll)
        results.append([nll, tape.gradient(objective, logits)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
