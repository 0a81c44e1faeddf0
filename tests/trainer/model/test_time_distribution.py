import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sostenuto.music import notes
from sostenuto.music.notes import MAX_TICK, TICK_US
from trainer.model import time_distribution
from trainer.model.time_bins import BIN_STARTS, BIN_WIDTHS, BINS

EDGES = [0, 4_999, 5_000, 14_999, 15_000, 9_994_999, 9_995_000, 10**7, 2**31 - 5_001, 2**31 - 5_000, 2**31 - 1]
TICKS = np.arange(MAX_TICK + 1)

# From a head's first logits to logits that no head should ever give.
sizes = st.sampled_from([0.0, 0.3, 1.0, 5.0, 30.0, 1e3, 1e6])
seeds = st.integers(0, 10**6)


def logits_of(seed, size, rows=3, dtype=np.float32):
    return tf.constant(size * np.random.default_rng(seed).normal(0, 1, (rows, BINS)), dtype)


def nll_of_every_tick(row):
    """The nats of all ticks under one row of logits `[1, BINS]`."""
    return time_distribution.nll(tf.repeat(row, MAX_TICK + 1, axis=0), tf.constant(TICKS * TICK_US, tf.int32))


def grid(draws):
    """The middles of equal parts of [0, 1)."""
    return ((np.arange(draws) + 0.5) / draws).astype(np.float32)


def draw(row, side=160, temperature=1.0, top_p=None, compiled=False):
    """Ticks drawn from one row of logits `[1, BINS]`, with a grid of `side` by `side` uniforms."""
    uniform, in_bin = (tf.constant(axis.ravel(), row.dtype) for axis in np.meshgrid(grid(side), grid(side)))
    options = [tf.constant(temperature, row.dtype), None if top_p is None else tf.constant(top_p, row.dtype)]
    sample = time_distribution.sample_time
    sample = tf.function(sample, jit_compile=True) if compiled else sample
    drawn = sample(tf.repeat(row, side**2, axis=0), uniform, *options, uniform_in_bin=in_bin)
    assert drawn.dtype == tf.int32
    assert (drawn.numpy() % TICK_US == 0).all()
    return drawn.numpy() // TICK_US


def by_bin(probabilities):
    return np.add.reduceat(probabilities, BIN_STARTS)


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
@given(seeds, sizes)
def test_tick_probabilities_sum_to_one_and_are_those_of_the_nll(seed, size):
    logits = logits_of(seed, size)
    probabilities = time_distribution.tick_probabilities(logits).numpy()
    assert probabilities.shape == (3, MAX_TICK + 1)
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    nll = nll_of_every_tick(logits[:1]).numpy()
    assert np.isfinite(nll).all()
    shown = probabilities[0] > 1e-30
    np.testing.assert_allclose(nll[shown], -np.log(probabilities[0][shown]), rtol=1e-4, atol=1e-5)
    assert (nll[~shown] > 60).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compiled", [False, True])
def test_nll_and_gradients_are_finite_at_extremes(dtype, compiled):
    tick = np.tile([0, 1, 2, 20, 500, 999, 1000], 50)

    @tf.function(jit_compile=compiled, reduce_retracing=True)
    def nll_and_gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            nll = time_distribution.nll(logits, tf.constant(tick * TICK_US, tf.int32))
        return nll, tape.gradient(nll, logits)

    @settings(max_examples=25, deadline=None)
    @example(0, 1e6, True)
    @given(seeds, sizes, st.booleans())
    def check(seed, size, alike):
        logits = logits_of(seed, size, len(tick), dtype)
        logits = size * tf.sign(logits[:, :1]) * tf.ones_like(logits) if alike else logits
        nll, gradient = nll_and_gradient(logits)
        assert nll.dtype == gradient.dtype == dtype
        assert np.isfinite(nll).all()
        assert np.isfinite(gradient).all()
        assert (nll.numpy() > -1e-4).all()

    check()


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.3, 1.0, 5.0, 30.0]))
def test_the_median_is_the_first_tick_that_reaches_a_half(seed, size):
    logits = logits_of(seed, size, 20, np.float64)
    median = time_distribution.median_tick(logits)
    assert median.dtype == tf.int64
    cumulative = np.cumsum(time_distribution.tick_probabilities(logits).numpy(), axis=-1)
    rows = np.arange(20)
    assert (cumulative[rows, median] >= 0.5 - 1e-6).all()
    assert (cumulative[rows, np.maximum(median - 1, 0)] < 0.5 + 1e-6)[median.numpy() > 0].all()


@pytest.mark.parametrize(("bin_index", "tick"), [(0, 0), (BINS - 1, MAX_TICK)])
def test_medians_of_either_end(bin_index, tick):
    logits = 100.0 * tf.one_hot([[bin_index]], BINS)
    np.testing.assert_array_equal(time_distribution.median_tick(logits), [[tick]])


# Sampling. The uniforms are a grid, so the result is exact to a part of it.


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_times_are_drawn_as_often_as_is_likely(compiled, seed):
    row = logits_of(seed, 1.0, 1)
    side = 160
    frequencies = np.bincount(draw(row, side, compiled=compiled), minlength=MAX_TICK + 1) / side**2
    probabilities = time_distribution.tick_probabilities(row).numpy()[0]
    bin_probabilities = by_bin(probabilities)
    np.testing.assert_allclose(by_bin(frequencies), bin_probabilities, atol=1.1 / side)
    # The ticks within a bin are equally likely.
    within = frequencies / np.maximum(np.repeat(by_bin(frequencies), BIN_WIDTHS), 1e-9)
    expected = probabilities / np.maximum(np.repeat(bin_probabilities, BIN_WIDTHS), 1e-30)
    drawn = np.repeat(by_bin(frequencies) > 0, BIN_WIDTHS)
    np.testing.assert_allclose(within[drawn], expected[drawn], atol=1.1 / side)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_temperature_acts_on_bins(temperature):
    row = logits_of(7, 1.0, 1)
    expected = by_bin(time_distribution.tick_probabilities(row).numpy()[0].astype(np.float64)) ** (1 / temperature)
    frequencies = np.bincount(draw(row, temperature=temperature), minlength=MAX_TICK + 1) / 160**2
    np.testing.assert_allclose(by_bin(frequencies), expected / expected.sum(), atol=1.1 / 160)


@pytest.mark.parametrize("options", [{"temperature": 1e-6}, {"top_p": 1e-6}])
def test_at_no_temperature_or_top_p_the_likeliest_bin_is_drawn(options):
    row = logits_of(3, 1.0, 1)
    likeliest = np.argmax(by_bin(time_distribution.tick_probabilities(row).numpy()[0]))
    assert set(time_distribution.bins(tf.constant(draw(row, 20, **options) * TICK_US)).numpy()) == {likeliest}


def test_top_p_leaves_out_unlikely_bins():
    row = logits_of(3, 1.0, 1)
    shares = by_bin(time_distribution.tick_probabilities(row).numpy()[0])
    order = np.argsort(-shares)
    kept = set(order[: np.searchsorted(np.cumsum(shares[order]), 0.7) + 1].tolist())
    everything = time_distribution.bins(tf.constant(draw(row, 120) * TICK_US)).numpy()
    narrowed = time_distribution.bins(tf.constant(draw(row, 120, top_p=0.7) * TICK_US)).numpy()
    assert set(narrowed) == kept < set(everything)


@settings(max_examples=20, deadline=None)
@given(seeds, sizes, st.sampled_from([np.float32, np.float64]), st.sampled_from([0.1, 1.0, 8.0]))
def test_for_any_logits_the_drawn_tick_is_possible(seed, size, dtype, temperature):
    row = logits_of(seed, size, 1, dtype)
    drawn = draw(row, 12, temperature, 0.98)
    assert drawn.min() >= 0
    assert drawn.max() <= MAX_TICK
    probabilities = by_bin(time_distribution.tick_probabilities(row).numpy()[0])
    assert (probabilities[time_distribution.bins(tf.constant(drawn * TICK_US))] > 0).all()
