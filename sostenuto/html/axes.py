"""Axes of charts: positions of values and tick labels."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Axis:
    """Positions of values from 0 to 1, ticks as (position, text), and the room of a single value, 0 if continuous."""

    place: Callable[[Any], float]
    ticks: list[tuple[float, str]]
    room: float = 0.0


def continuous(low: float, high: float, *, log: bool = False, inset: float = 0.0, count: int = 5) -> Axis:
    """Returns an axis of about `count` ticks; `inset` is the fraction of the axis that stays free at each end."""
    if low == high:
        return Axis(lambda value: 0.5, [(0.5, f"{low:g}")])
    scale: Callable[[float], float] = math.log if log else float
    bottom, span = scale(low), scale(high) - scale(low)

    def place(value: float) -> float:
        return inset + (1 - 2 * inset) * (scale(value) - bottom) / span

    ticks = _log_ticks(low, high) if log else _linear_ticks(low, high, count)
    return Axis(place, [(place(value), f"{value:,g}" if value < 1e6 else f"{value:.3g}") for value in ticks])


def percent(axis: Axis) -> Axis:
    """Returns an axis of fractions with its labels as percentages."""
    return Axis(axis.place, [(place, f"{100 * float(text):g}%") for place, text in axis.ticks])


def _linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    exact = (high - low) / count
    power = 10 ** math.floor(math.log10(exact))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= exact * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{step * index:.10g}") for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [float(f"{factor * 10.0**decade:.6g}") for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 7)]
    return _linear_ticks(low, high)
