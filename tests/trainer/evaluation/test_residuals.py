"""Densities around a predicted time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sostenuto.music.notes import MAX_TICK
from trainer.evaluation.residuals import residual_nats
from trainer.workdir.evaluation_formats import ResidualDensity

SCALES = st.floats(1e-3, 20)
CENTRES = st.floats(-5, 5)
PREDICTED = st.one_of(st.floats(-30, 30), st.sampled_from([-1e3, 0.0, 0.005, 9.995, 10.0, 1e3]))


@given(st.sampled_from(["laplace", "gaussian"]), CENTRES, SCALES, PREDICTED)
def test_the_masses_of_all_ticks_sum_to_one(kind, centre, scale, predicted):
    grid = np.arange(MAX_TICK + 1)
    nats = residual_nats(ResidualDensity(kind, centre, scale), np.full(len(grid), predicted), grid)
    assert np.isfinite(nats).all()
    assert nats.min() >= -1e-9
    assert abs(np.exp(-nats).sum() - 1) < 1e-6


@given(st.sampled_from(["laplace", "gaussian"]), st.floats(-1, 1), st.floats(0.05, 2), st.floats(-1, 11))
def test_a_mass_is_the_integral_over_the_ticks_10_ms(kind, centre, scale, predicted):
    grid = np.arange(MAX_TICK + 1)
    distribution = {"laplace": stats.laplace, "gaussian": stats.norm}[kind](predicted + centre, scale)
    edges = np.concatenate([[-np.inf], np.arange(MAX_TICK) * 0.01 + 0.005, [np.inf]])
    mass = np.diff(distribution.cdf(edges))
    nats = residual_nats(ResidualDensity(kind, centre, scale), np.full(len(grid), predicted), grid)
    np.testing.assert_allclose(np.exp(-nats), mass, atol=1e-12)


@pytest.mark.parametrize("kind", ["laplace", "gaussian"])
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0])
def test_far_tails_cost_much_but_never_infinitely(kind, scale):
    density = ResidualDensity(kind, 0.0, scale)
    for predicted in (-100.0, 1e5):
        tick = np.arange(MAX_TICK + 1)
        nats = residual_nats(density, np.full(len(tick), predicted), tick)
        assert np.isfinite(nats).all()
        # A model that predicts far below the grid pays more for each later tick, up to the last, which stands for many.
        toward = nats if predicted < 0 else nats[::-1]
        assert (np.diff(toward)[1:-1] > 0).all()
        assert toward[-2] > 90 / scale
