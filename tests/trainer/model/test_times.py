import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import special

from sostenuto.music import notes
from sostenuto.music.notes import MAX_TICK, TICK_US
from trainer.config import Config
from trainer.model import times
from trainer.model.times import BIN_STARTS, BIN_WIDTHS, BINS, LogBins, LogisticMixture, time_distribution

EDGES = [0, 4_999, 5_000, 14_999, 15_000, 9_994_999, 9_995_000, 10**7, 2**31 - 5_001, 2**31 - 5_000, 2**31 - 1]
TICKS = np.arange(MAX_TICK + 1)
COMPONENTS = 4

FORMS = [LogBins(), LogisticMixture(COMPONENTS), LogisticMixture(1)]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{type(form).__name__}-{form.size}")

# From what a head gives at first to what none ever should.
sizes = st.sampled_from([0.0, 0.3, 1.0, 5.0, 30.0, 1e3, 1e6])
seeds = st.integers(0, 10**6)


def outputs_of(form, seed, size, rows=3, dtype=np.float32):
    return tf.constant(size * np.random.default_rng(seed).normal(0, 1, (rows, form.size)), dtype)


def of_every_tick(form, row):
    """The nats of all ticks under one row of outputs `[1, size]`."""
    return form.nats(tf.repeat(row, MAX_TICK + 1, axis=0), tf.constant(TICKS * TICK_US, tf.int32))


def grid(draws):
    """The middles of equal parts of [0, 1)."""
    return ((np.arange(draws) + 0.5) / draws).astype(np.float32)


def draw(form, row, side=160, temperature=1.0, top_p=None, compiled=False):
    """Ticks drawn from one row of outputs `[1, size]`, with a grid of `side` by `side` uniforms."""
    uniform, within = (tf.constant(axis.ravel(), row.dtype) for axis in np.meshgrid(grid(side), grid(side)))
    how = [tf.constant(temperature, row.dtype), None if top_p is None else tf.constant(top_p, row.dtype)]
    sample = tf.function(form.sample, jit_compile=True) if compiled else form.sample
    drawn = sample(tf.repeat(row, side**2, axis=0), uniform, *how, within=within)
    assert drawn.dtype == tf.int32
    assert (drawn.numpy() % TICK_US == 0).all()
    return drawn.numpy() // TICK_US


def sharp(form, tick):
    """Outputs `[1, size]` of a mixture that is all in one place, as sharp as can be."""
    components = form.size // 3
    first_centre = -1 + (np.log(1000) + 1) / components / 2
    outputs = np.zeros((1, form.size), np.float32)
    outputs[0, 0] = 30
    outputs[0, components] = np.log(tick + 0.5) - first_centre
    outputs[0, 2 * components] = -20
    return tf.constant(outputs)


def by_bin(probabilities):
    return np.add.reduceat(probabilities, BIN_STARTS)


# The grid and the bins.


@given(st.one_of(st.sampled_from(EDGES), st.integers(0, 2**31 - 1)))
def test_ticks_are_those_of_the_representation(microseconds):
    assert times.ticks(tf.constant(microseconds)).numpy() == notes.ticks(np.array(microseconds))


def test_bins_cut_the_whole_grid_in_order():
    bins = times.bins(tf.range(0, (MAX_TICK + 1) * TICK_US, TICK_US)).numpy()
    np.testing.assert_array_equal(np.unique(bins), np.arange(BINS))
    assert (np.diff(bins) >= 0).all()
    np.testing.assert_array_equal(np.flatnonzero(np.diff(bins, prepend=-1)), BIN_STARTS)
    np.testing.assert_array_equal(np.bincount(bins), BIN_WIDTHS)


def test_bins_are_fine_where_the_ear_is_and_never_coarse():
    assert (BIN_WIDTHS[BIN_STARTS < 20] == 1).all()
    assert BIN_WIDTHS[-1] == 1
    assert (BIN_WIDTHS / np.maximum(BIN_STARTS, 12.5) <= 0.08).all()


def test_the_config_chooses_the_form():
    assert isinstance(time_distribution(Config()), LogBins)
    chosen = time_distribution(Config(time_distribution="logistics", mixtures=7))
    assert isinstance(chosen, LogisticMixture)
    assert chosen.size == 21


# Probabilities.


@every_form
@settings(max_examples=40, deadline=None)
@given(seeds, sizes)
def test_tick_probabilities_sum_to_one_and_are_those_of_the_nats(form, seed, size):
    outputs = outputs_of(form, seed, size)
    probabilities = form.tick_probabilities(outputs).numpy()
    assert probabilities.shape == (3, MAX_TICK + 1)
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    nats = of_every_tick(form, outputs[:1]).numpy()
    assert np.isfinite(nats).all()
    shown = probabilities[0] > 1e-30
    np.testing.assert_allclose(nats[shown], -np.log(probabilities[0][shown]), rtol=1e-4, atol=1e-5)
    assert (nats[~shown] > 60).all()


def test_a_mixture_is_what_its_distribution_functions_gain_between_the_edges_of_ticks():
    """Worked out plainly, in float64: the logarithm of the time, counted in ticks from half a tick before 0."""
    form = LogisticMixture(COMPONENTS)
    outputs = np.concatenate([np.zeros((1, form.size)), outputs_of(form, 5, 1.0, dtype=np.float64)])
    spacing = (np.log(1000) + 1) / COMPONENTS
    centres = -1 + spacing * (np.arange(COMPONENTS) + 0.5)
    edges = np.concatenate([[-np.inf], np.log(TICKS[1:]), [np.inf]])
    for row, found in zip(outputs, form.tick_probabilities(tf.constant(outputs)).numpy(), strict=True):
        weight, location, scale = np.split(row, 3)
        # Half of the spacing at first, and between exp(-5) and exp(3) whatever the outputs.
        at_first = special.logit((np.log(spacing / 2) + 5) / 8)
        scales = np.exp(-5 + 8 * special.expit(at_first + scale / 2))
        at_edges = special.expit((edges[:, np.newaxis] - centres - location) / scales)
        np.testing.assert_allclose(found, np.diff(at_edges @ special.softmax(weight)), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("components", [1, 3, 10, 100])
def test_a_mixture_begins_spread_over_all_ticks(components):
    form = LogisticMixture(components)
    shares = by_bin(form.tick_probabilities(tf.zeros([form.size])).numpy())
    # As a share of what a bin takes of the axis, from 10 ms to 10 s.
    density = shares[1:-1] / np.log((BIN_STARTS + BIN_WIDTHS)[1:-1] / BIN_STARTS[1:-1])
    assert density.max() < (2.5 if components > 1 else 6) * density.min()
    assert 0.05 < shares[0] < 0.4


@pytest.mark.parametrize("tick", [0, 1, 7, 19, 1000])
def test_a_mixture_can_be_sure_of_a_tick(tick):
    """Those of the shortest times above all: chords are of steps of 0."""
    form = LogisticMixture(10)
    place = 1050 if tick == MAX_TICK else tick
    assert form.tick_probabilities(sharp(form, place)).numpy()[0, tick] > 0.8


@every_form
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compiled", [False, True])
def test_nats_and_gradients_are_finite_at_extremes(form, dtype, compiled):
    tick = np.tile([0, 1, 2, 20, 500, 999, 1000], 50)

    @tf.function(jit_compile=compiled, reduce_retracing=True)
    def nats_and_gradient(outputs):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            nats = form.nats(outputs, tf.constant(tick * TICK_US, tf.int32))
        return nats, tape.gradient(nats, outputs)

    @settings(max_examples=25, deadline=None)
    @example(0, 1e6, True)
    @given(seeds, sizes, st.booleans())
    def check(seed, size, alike):
        outputs = outputs_of(form, seed, size, len(tick), dtype)
        # All weights, all locations, all scales at one extreme.
        outputs = size * tf.sign(outputs[:, :1]) * tf.ones_like(outputs) if alike else outputs
        nats, gradient = nats_and_gradient(outputs)
        assert nats.dtype == gradient.dtype == dtype
        assert np.isfinite(nats).all()
        assert np.isfinite(gradient).all()
        assert (nats.numpy() > -1e-4).all()

    check()


@pytest.mark.parametrize("sign", [-1, 1])
def test_far_away_components_are_drawn_to_the_tick_and_grow_wider(sign):
    """However far, whatever the scale: no gradient is lost there."""
    form = LogisticMixture(1)
    outputs = tf.Variable([[0.0, sign * 50.0, -3.0], [0.0, sign * 50.0, 6.0]])
    with tf.GradientTape() as tape:
        nats = form.nats(outputs, tf.constant([500_000, 500_000]))
    gradient = tape.gradient(nats, outputs).numpy()
    assert (sign * gradient[:, 1] > 1e-4).all()
    assert (gradient[:, 2] < -0.01).all()


@every_form
@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.3, 1.0, 5.0, 30.0]))
def test_the_median_is_the_first_tick_that_reaches_a_half(form, seed, size):
    outputs = outputs_of(form, seed, size, 20, np.float64)
    median = form.median(outputs)
    assert median.dtype == tf.int32
    cumulative = np.cumsum(form.tick_probabilities(outputs).numpy(), axis=-1)
    rows = np.arange(20)
    assert (cumulative[rows, median] >= 0.5 - 1e-6).all()
    assert (cumulative[rows, np.maximum(median - 1, 0)] < 0.5 + 1e-6)[median.numpy() > 0].all()


def test_medians_of_either_end():
    form = LogisticMixture(1)
    median = form.median(tf.constant([[[0.0, -100.0, 0.0]], [[0.0, 100.0, 0.0]]]))
    np.testing.assert_array_equal(median, [[0], [MAX_TICK]])


# Drawing. The uniforms are a grid, so that what is drawn is exact to a part of it.


@every_form
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_times_are_drawn_as_often_as_is_likely(form, compiled, seed):
    row = outputs_of(form, seed, 1.0, 1)
    side = 160
    frequencies = np.bincount(draw(form, row, side, compiled=compiled), minlength=MAX_TICK + 1) / side**2
    probabilities = form.tick_probabilities(row).numpy()[0]
    bin_probabilities = by_bin(probabilities)
    np.testing.assert_allclose(by_bin(frequencies), bin_probabilities, atol=1.1 / side)
    # Within a bin as likely as they are.
    within = frequencies / np.maximum(np.repeat(by_bin(frequencies), BIN_WIDTHS), 1e-9)
    expected = probabilities / np.maximum(np.repeat(bin_probabilities, BIN_WIDTHS), 1e-30)
    drawn = np.repeat(by_bin(frequencies) > 0, BIN_WIDTHS)
    np.testing.assert_allclose(within[drawn], expected[drawn], atol=1.1 / side)


@pytest.mark.parametrize("tick", [94, 400])
def test_within_a_bin_a_sharp_mixture_is_followed(tick):
    """A bin is wider there than the component: were its ticks equally likely, this would be another distribution."""
    form = LogisticMixture(10)
    row = sharp(form, tick)
    frequencies = np.bincount(draw(form, row), minlength=MAX_TICK + 1) / 160**2
    probabilities = form.tick_probabilities(row).numpy()[0]
    assert probabilities[tick] > 2 * probabilities[tick + 5]
    np.testing.assert_allclose(frequencies, probabilities, atol=0.01)


@every_form
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_temperature_acts_on_bins(form, temperature):
    row = outputs_of(form, 7, 1.0, 1)
    expected = by_bin(form.tick_probabilities(row).numpy()[0].astype(np.float64)) ** (1 / temperature)
    frequencies = np.bincount(draw(form, row, temperature=temperature), minlength=MAX_TICK + 1) / 160**2
    np.testing.assert_allclose(by_bin(frequencies), expected / expected.sum(), atol=1.1 / 160)


@every_form
@pytest.mark.parametrize("how", [{"temperature": 1e-6}, {"top_p": 1e-6}])
def test_at_no_temperature_or_top_p_the_likeliest_bin_is_drawn(form, how):
    row = outputs_of(form, 3, 1.0, 1)
    likeliest = np.argmax(by_bin(form.tick_probabilities(row).numpy()[0]))
    assert set(times.bins(tf.constant(draw(form, row, 20, **how) * TICK_US)).numpy()) == {likeliest}


@every_form
def test_top_p_leaves_out_unlikely_bins(form):
    row = outputs_of(form, 3, 1.0, 1)
    shares = by_bin(form.tick_probabilities(row).numpy()[0])
    order = np.argsort(-shares)
    kept = set(order[: np.searchsorted(np.cumsum(shares[order]), 0.7) + 1].tolist())
    everything = times.bins(tf.constant(draw(form, row, 120) * TICK_US)).numpy()
    narrowed = times.bins(tf.constant(draw(form, row, 120, top_p=0.7) * TICK_US)).numpy()
    assert set(narrowed) == kept < set(everything)


@every_form
@settings(max_examples=20, deadline=None)
@given(seeds, sizes, st.sampled_from([np.float32, np.float64]), st.sampled_from([0.1, 1.0, 8.0]))
def test_whatever_the_outputs_what_is_drawn_is_a_tick_that_may_be(form, seed, size, dtype, temperature):
    row = outputs_of(form, seed, size, 1, dtype)
    drawn = draw(form, row, 12, temperature, 0.98)
    assert drawn.min() >= 0
    assert drawn.max() <= MAX_TICK
    assert (by_bin(form.tick_probabilities(row).numpy()[0])[times.bins(tf.constant(drawn * TICK_US))] > 0).all()
