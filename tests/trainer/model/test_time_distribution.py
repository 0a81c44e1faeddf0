import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sostenuto.music import notes
from sostenuto.music.notes import MAX_TICK, TICK_US
from trainer.model import time_distribution
from trainer.model.time_bins import BIN_STARTS, BIN_WIDTHS, BINS
from trainer.model.time_distribution import TimeDistribution

EDGES = [0, 4_999, 5_000, 14_999, 15_000, 9_994_999, 9_995_000, 10**7, 2**31 - 5_001, 2**31 - 5_000, 2**31 - 1]
TICKS = np.arange(MAX_TICK + 1)

# From a head's first logits to logits that no head should ever give.
sizes = st.sampled_from([0.0, 0.3, 1.0, 5.0, 30.0, 1e3, 1e6])
seeds = st.integers(0, 10**6)


def logits_of(seed, size, rows=3, dtype=np.float32):
    return tf.constant(size * np.random.default_rng(seed).normal(0, 1, (rows, BINS)), dtype)


def times_of(size, seed=0, dtype=np.float32):
    """A distribution whose logits of ticks are of a size; of size 0, as before training."""
    times = TimeDistribution(dtype=np.dtype(dtype).name, name="times")
    (weights,) = times.trainable_variables
    weights.assign(size / 32 * np.random.default_rng(seed).normal(0, 1, weights.shape))
    return times


def nll_of_every_tick(times, row):
    """The nats of all ticks under one row of logits `[1, BINS]`."""
    return times.nll(tf.repeat(row, MAX_TICK + 1, axis=0), tf.constant(TICKS * TICK_US, tf.int32))


def grid(draws):
    """The middles of equal parts of [0, 1)."""
    return ((np.arange(draws) + 0.5) / draws).astype(np.float32)


def draw(times, row, side=160, temperature=1.0, top_p=None, compiled=False):
    """Ticks drawn from one row of logits `[1, BINS]`, with a grid of `side` by `side` uniforms."""
    uniform, in_bin = (tf.constant(axis.ravel(), row.dtype) for axis in np.meshgrid(grid(side), grid(side)))
    options = [tf.constant(temperature, row.dtype), None if top_p is None else tf.constant(top_p, row.dtype)]
    sample = tf.function(times.sample, jit_compile=True) if compiled else times.sample
    drawn = sample(tf.repeat(row, side**2, axis=0), uniform, *options, uniform_in_bin=in_bin)
    assert drawn.dtype == tf.int32
    assert (drawn.numpy() % TICK_US == 0).all()
    return drawn.numpy() // TICK_US


def by_bin(probabilities):
    return np.add.reduceat(probabilities, BIN_STARTS)


def within_bin(probabilities):
    """The share of each tick in its bin."""
    return probabilities / np.maximum(np.repeat(by_bin(probabilities), BIN_WIDTHS), 1e-30)


# The grid and the bins.


@given(st.one_of(st.sampled_from(EDGES), st.integers(0, 2**31 - 1)))
def test_ticks_are_those_of_the_representation(microseconds):
    assert time_distribution.ticks(tf.constant(microseconds)).numpy() == notes.ticks(np.array(microseconds))


def test_bins_cut_the_whole_grid_in_order():
    bins = time_distribution.bins(tf.range(0, (MAX_TICK + 1) * TICK_US, TICK_US)).numpy()
    np.testing.assert_array_equal(np.unique(bins), np.arange(BINS))
    assert (np.diff(bins) >= 0).all()
    np.testing.assert_array_equal(np.flatnonzero(np.diff(bins, prepend=-1)), BIN_STARTS)
    np.testing.assert_array_equal(np.bincount(bins), BIN_WIDTHS)


def test_bins_are_fine_where_the_ear_is_and_never_coarse():
    assert (BIN_WIDTHS[BIN_STARTS < 20] == 1).all()
    assert BIN_WIDTHS[-1] == 1
    assert (BIN_WIDTHS / np.maximum(BIN_STARTS, 12.5) <= 0.08).all()


# Probabilities.


@settings(max_examples=40, deadline=None)
@given(seeds, sizes, sizes)
def test_tick_probabilities_sum_to_one_and_are_those_of_the_nll(seed, size, tick_size):
    logits, times = logits_of(seed, size), times_of(tick_size, seed)
    probabilities = times.tick_probabilities(logits).numpy()
    assert probabilities.shape == (3, MAX_TICK + 1)
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    nll = nll_of_every_tick(times, logits[:1]).numpy()
    assert np.isfinite(nll).all()
    shown = probabilities[0] > 1e-30
    np.testing.assert_allclose(nll[shown], -np.log(probabilities[0][shown]), rtol=1e-4, atol=1e-5)
    assert (nll[~shown] > 60).all()


def test_before_training_the_ticks_of_a_bin_are_equally_likely():
    probabilities = times_of(0).tick_probabilities(logits_of(0, 1.0, 1)).numpy()[0]
    np.testing.assert_allclose(within_bin(probabilities), np.repeat(1 / BIN_WIDTHS, BIN_WIDTHS), rtol=1e-5)


def test_the_logits_of_the_bins_leave_the_shares_within_a_bin_alone():
    times = times_of(1.0, dtype=np.float64)
    one, other = times.tick_probabilities(logits_of(0, 1.0, 2, np.float64)).numpy()
    np.testing.assert_allclose(within_bin(one), within_bin(other), rtol=1e-9)
    assert np.ptp(within_bin(one)[BIN_STARTS[-2] : MAX_TICK]) > 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compiled", [False, True])
def test_nll_and_gradients_are_finite_at_extremes(dtype, compiled):
    tick = np.tile([0, 1, 2, 20, 500, 999, 1000], 50)
    times = times_of(0, dtype=dtype)
    (weights,) = times.trainable_variables

    @tf.function(jit_compile=compiled, reduce_retracing=True)
    def nll_and_gradients(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            nll = times.nll(logits, tf.constant(tick * TICK_US, tf.int32))
        return nll, *tape.gradient(nll, [logits, weights.value])

    @settings(max_examples=25, deadline=None)
    @example(0, 1e6, 1e6, True)
    @given(seeds, sizes, sizes, st.booleans())
    def check(seed, size, tick_size, alike):
        logits = logits_of(seed, size, len(tick), dtype)
        logits = size * tf.sign(logits[:, :1]) * tf.ones_like(logits) if alike else logits
        weights.assign(times_of(tick_size, seed, dtype).trainable_variables[0])
        nll, *gradients = nll_and_gradients(logits)
        assert nll.dtype == gradients[0].dtype == gradients[1].dtype == dtype
        assert np.isfinite(nll).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        assert (nll.numpy() > -1e-4).all()

    check()


def test_the_gradient_of_the_ticks_is_that_of_differences():
    times = times_of(1.0, dtype=np.float64)
    (weights,) = times.trainable_variables
    logits = tf.reshape(logits_of(0, 1.0, 6, np.float64), [2, 3, BINS])
    microseconds = tf.constant([[0, 333_000, 3_330_000], [9_000_000, 20_000_000, 9_020_000]])
    importance = tf.constant([[1.0, -2.0, 3.0], [0.5, 4.0, 0.0]], tf.float64)

    def loss():
        return tf.reduce_sum(importance * times.nll(logits, microseconds))

    with tf.GradientTape() as tape:
        value = loss()
    gradient = tape.gradient(value, weights.value).numpy()
    assert np.count_nonzero(gradient) > 50  # other ticks of the same four bins too
    start, way = weights.numpy(), np.random.default_rng(1).normal(0, 1e-6, (20, *weights.shape))
    for step in way:
        weights.assign(start + step)
        above = loss()
        weights.assign(start - step)
        np.testing.assert_allclose(above - loss(), 2 * np.sum(gradient * step), rtol=1e-5, atol=1e-10)


def test_strict_time_is_learned_within_some_hundred_updates():
    times = times_of(0)
    (weights,) = times.trainable_variables
    optimizer = keras.optimizers.Adam(2e-3)
    microseconds = tf.constant([400_000, 800_000, 800_000, 1_200_000])
    logits = 50.0 * tf.one_hot(time_distribution.bins(microseconds), BINS)

    @tf.function
    def update():
        with tf.GradientTape() as tape:
            nll = times.nll(logits, microseconds)
        optimizer.apply([tape.gradient(nll, weights.value)], [weights])
        return nll

    nats = [update().numpy() for _ in range(300)]
    np.testing.assert_allclose(nats[0], np.log([2, 5, 5, 7]), rtol=1e-4)
    assert nats[-1].max() < 0.02


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.3, 1.0, 5.0, 30.0]), sizes)
def test_the_median_is_the_first_tick_that_reaches_a_half(seed, size, tick_size):
    logits, times = logits_of(seed, size, 20, np.float64), times_of(tick_size, seed, np.float64)
    median = times.median_tick(logits)
    assert median.dtype == tf.int64
    cumulative = np.cumsum(times.tick_probabilities(logits).numpy(), axis=-1)
    rows = np.arange(20)
    assert (cumulative[rows, median] >= 0.5 - 1e-6).all()
    assert (cumulative[rows, np.maximum(median - 1, 0)] < 0.5 + 1e-6)[median.numpy() > 0].all()


@pytest.mark.parametrize(("bin_index", "tick"), [(0, 0), (BINS - 1, MAX_TICK)])
def test_medians_of_either_end(bin_index, tick):
    logits = 100.0 * tf.one_hot([[bin_index]], BINS)
    np.testing.assert_array_equal(times_of(0).median_tick(logits), [[tick]])


# Sampling. The uniforms are a grid, so the result is exact to a part of it.


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_times_are_drawn_as_often_as_is_likely(compiled, seed):
    row, times = logits_of(seed, 1.0, 1), times_of(seed, seed)
    side = 160
    frequencies = np.bincount(draw(times, row, side, compiled=compiled), minlength=MAX_TICK + 1) / side**2
    probabilities = times.tick_probabilities(row).numpy()[0]
    np.testing.assert_allclose(by_bin(frequencies), by_bin(probabilities), atol=1.1 / side)
    drawn = np.repeat(by_bin(frequencies) > 0, BIN_WIDTHS)
    np.testing.assert_allclose(within_bin(frequencies)[drawn], within_bin(probabilities)[drawn], atol=1.1 / side)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_temperature_acts_on_bins_and_on_the_ticks_of_a_bin(temperature):
    row, times = logits_of(7, 1.0, 1), times_of(1.0)
    probabilities = times.tick_probabilities(row).numpy()[0].astype(np.float64)
    frequencies = np.bincount(draw(times, row, temperature=temperature), minlength=MAX_TICK + 1) / 160**2
    expected = by_bin(probabilities) ** (1 / temperature)
    np.testing.assert_allclose(by_bin(frequencies), expected / expected.sum(), atol=1.1 / 160)
    drawn = np.repeat(by_bin(frequencies) > 0, BIN_WIDTHS)
    expected = within_bin(within_bin(probabilities) ** (1 / temperature))
    np.testing.assert_allclose(within_bin(frequencies)[drawn], expected[drawn], atol=1.1 / 160)


@pytest.mark.parametrize("options", [{"temperature": 1e-6}, {"top_p": 1e-6}])
@pytest.mark.parametrize("compiled", [False, True])
def test_at_no_temperature_or_top_p_the_likeliest_tick_of_the_likeliest_bin_is_drawn(options, compiled):
    row, times = logits_of(3, 1.0, 1) + 5.0 * tf.one_hot([60], BINS), times_of(1.0)
    probabilities = times.tick_probabilities(row).numpy()[0]
    likeliest = np.argmax(by_bin(probabilities))
    assert BIN_WIDTHS[likeliest] > 5
    first, width = BIN_STARTS[likeliest], BIN_WIDTHS[likeliest]
    expected = first + np.argmax(probabilities[first : first + width])
    assert set(draw(times, row, 20, compiled=compiled, **options)) == {expected}


def test_top_p_leaves_out_unlikely_bins():
    row, times = logits_of(3, 1.0, 1), times_of(0)
    shares = by_bin(times.tick_probabilities(row).numpy()[0])
    order = np.argsort(-shares)
    kept = set(order[: np.searchsorted(np.cumsum(shares[order]), 0.7) + 1].tolist())
    everything = time_distribution.bins(tf.constant(draw(times, row, 120) * TICK_US)).numpy()
    narrowed = time_distribution.bins(tf.constant(draw(times, row, 120, top_p=0.7) * TICK_US)).numpy()
    assert set(narrowed) == kept < set(everything)


def test_top_p_leaves_out_unlikely_ticks_of_a_bin():
    row, times = 50.0 * tf.one_hot([80], BINS), times_of(1.0)
    shares = times.tick_probabilities(row).numpy()[0]
    order = np.argsort(-shares)
    kept = set(order[: np.searchsorted(np.cumsum(shares[order]), 0.7) + 1].tolist())
    assert set(draw(times, row, top_p=0.7)) == kept < set(draw(times, row))


@settings(max_examples=20, deadline=None)
@given(seeds, sizes, sizes, st.sampled_from([np.float32, np.float64]), st.sampled_from([0.1, 1.0, 8.0]))
def test_for_any_logits_the_drawn_tick_is_possible(seed, size, tick_size, dtype, temperature):
    row, times = logits_of(seed, size, 1, dtype), times_of(tick_size, seed, dtype)
    drawn = draw(times, row, 12, temperature, 0.98)
    assert drawn.min() >= 0
    assert drawn.max() <= MAX_TICK
    probabilities = times.tick_probabilities(row).numpy()[0]
    assert (by_bin(probabilities)[time_distribution.bins(tf.constant(drawn * TICK_US))] > 0).all()


def test_uniform_numbers_next_to_1_give_the_last_tick_of_the_bin():
    below_1 = np.nextafter(np.float32(1), np.float32(0))
    uniform = tf.fill([BINS], tf.constant(below_1))
    for times in (times_of(0), times_of(30.0)):
        drawn = times.sample(50.0 * tf.eye(BINS), uniform / 2, tf.constant(1.0), uniform_in_bin=uniform)
        np.testing.assert_array_equal(time_distribution.bins(drawn), np.arange(BINS))
