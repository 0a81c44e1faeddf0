"""Densities around predicted times: they turn the single numbers of a regression model into nats (NumPy only)."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sostenuto.music.notes import MAX_TICK, TICK_US, ticks
from trainer.evaluation.statistics import Floats, Ints, NoteScores
from trainer.workdir.evaluation_formats import ResidualDensity

TOLERANCE_TICKS = 3
"""A step counts as right within 30 ms, which listeners perceive as simultaneous."""


class TimeResiduals(NamedTuple):
    """Residual densities of both times."""

    step: ResidualDensity
    duration: ResidualDensity


def residual_nats(density: ResidualDensity, predicted: Floats, tick: Ints) -> Floats:
    """Computes the negative log mass of each note's tick around its predicted time in seconds, `[notes]`.

    Tick 0 takes all mass below its 10 ms too, the last tick all mass above.
    """
    edges = (tick * TICK_US - TICK_US // 2) * 1e-6
    low = np.where(tick == 0, -np.inf, (edges - predicted - density.centre) / density.scale)
    high = np.where(tick == MAX_TICK, np.inf, (edges + TICK_US * 1e-6 - predicted - density.centre) / density.scale)
    # In the upper tail both cumulative masses are near 1. Mirrored, their difference keeps its digits.
    mirrored = low > 0
    low, high = np.where(mirrored, -high, low), np.where(mirrored, -low, high)
    cumulative = _laplace_log_cdf if density.kind == "laplace" else _gaussian_log_cdf
    upper, lower = cumulative(high), cumulative(low)
    with np.errstate(divide="ignore"):
        return -(upper + np.log1p(-np.exp(np.minimum(lower - upper, -1e-12))))


def fit_density(predicted: Floats, target_us: Ints) -> ResidualDensity:
    """Fits a Laplace and a Gaussian density around predicted seconds; returns the one with fewer nats/note."""
    error = target_us * 1e-6 - predicted
    median = float(np.median(error))
    candidates = [
        ResidualDensity("laplace", median, max(float(np.mean(np.abs(error - median))), 1e-4)),
        ResidualDensity("gaussian", float(np.mean(error)), max(float(np.std(error)), 1e-4)),
    ]
    tick = ticks(target_us)
    return min(candidates, key=lambda density: float(np.mean(residual_nats(density, predicted, tick))))


def score_with_residuals(
    outputs: Mapping[str, Floats], step_us: Ints, duration_us: Ints, residuals: TimeResiduals
) -> NoteScores:
    """Scores notes by the outputs of a regression model, `[notes]` each, and residual densities."""
    step_tick = ticks(step_us)
    predicted_tick = ticks(np.maximum(np.rint(outputs["step"] * 1e6), 0).astype(np.int64))
    return NoteScores(
        pitch=outputs["pitch"],
        step=residual_nats(residuals.step, outputs["step"], step_tick),
        duration=residual_nats(residuals.duration, outputs["duration"], ticks(duration_us)),
        pitch_top1=outputs["pitch_top1"],
        pitch_top5=outputs["pitch_top5"],
        step_within_30ms=(np.abs(predicted_tick - step_tick) <= TOLERANCE_TICKS).astype(np.float64),
        end=np.zeros(len(step_us)),
    )


def _laplace_log_cdf(x: Floats) -> Floats:
    return np.where(x < 0, x - math.log(2), np.log1p(-0.5 * np.exp(-np.maximum(x, 0))))


def _gaussian_log_cdf(x: Floats) -> Floats:
    from scipy.special import log_ndtr  # Only a model without densities needs it.

    return log_ndtr(x)
