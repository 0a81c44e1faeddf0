"""Training curves of a run as charts."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

from sostenuto.html.axes import Axis, continuous
from sostenuto.html.charts import Figure, Series, plot
from trainer.reporting.load import RunReport
from trainer.workdir.formats import SCORED_FIELDS, MetricsRecord

_MAX_POINTS: Final = 400  # of a curve; more would be indistinguishable
_MAX_DOTS: Final = 60  # of a curve whose points are marked
_MAX_ROWS: Final = 40  # of the table of scores
_WARM_UP: Final = 0.03  # fraction of the train_steps at the start, while the loss falls from its random value
_FIELDS: Final = SCORED_FIELDS[1:]

T = TypeVar("T")


class _Panel(NamedTuple):
    """A chart of training and validation curves; a curve is the sum of some metrics."""

    title: str
    unit: str
    training: tuple[str, ...]
    validation: tuple[str, ...] = ()


_PANELS: Final = (
    _Panel("loss", "weighted, as it is minimized", ("loss",)),
    _Panel("total", "nats/note", tuple(f"{field}_nll" for field in _FIELDS), ("val_nats",)),
    *(_Panel(field, "nats/note", (f"{field}_nll",), (f"val_{field}_nll",)) for field in _FIELDS),
    _Panel("velocity", "nats/note", ("velocity_nll",)),
    _Panel("step", "squared error, seconds²", ("step_mse",)),
    _Panel("duration", "squared error, seconds²", ("duration_mse",)),
)


def plot_curves(report: RunReport) -> list[Figure]:
    """Returns a chart for each metric that the run has."""
    records = report.records
    last = max(records[-1].train_step, 1)
    along = continuous(0, last, count=4)
    figures = []
    for panel in _PANELS:
        training, validation = _points(records, panel.training), _points(records, panel.validation)
        dots = " dots" if len(validation) <= _MAX_DOTS else ""
        curves = [("training", "train thin", training), ("validation", f"validation{dots}", validation)]
        if series := [_series(name, kind, points, "{:.3f}") for name, kind, points in curves if points]:
            figures.append(_plot(panel.title, panel.unit, series, along, _late_range(series, last)))
    for title, unit, metric, form in (
        ("learning rate", "of the next update", "learning_rate", "{:.3g}"),
        ("throughput", "notes/s, scoring left out", "notes_per_second", "{:,.0f}"),
    ):
        curve = _series(title, "rate", _points(records, (metric,)), form)
        up = continuous(0, 1.05 * max(value for _, value in curve.points) or 1)
        figures.append(_plot(title, unit, [curve], along, up))
    return figures


def select_scored_records(report: RunReport) -> Sequence[MetricsRecord]:
    """Returns the records with a validation score, thinned to what a table has room for."""
    return _thin([record for record in report.records if record.val_nats is not None], _MAX_ROWS)


def _points(records: Sequence[MetricsRecord], metrics: Sequence[str]) -> Sequence[tuple[float, float]]:
    """Returns (train_step, sum of some metrics) of the records that have them all, thinned."""
    points = []
    for record in records if metrics else []:
        values = [getattr(record, metric) for metric in metrics]
        if None not in values and math.isfinite(sum(values)):
            points.append((float(record.train_step), float(sum(values))))
    return _thin(points, _MAX_POINTS)


def _thin(values: Sequence[T], limit: int) -> Sequence[T]:
    """Returns evenly spaced values, no more than the limit; keeps the last one."""
    return values[::-1][:: max(-(-len(values) // limit), 1)][::-1]


def _series(name: str, kind: str, points: Sequence[tuple[float, float]], form: str) -> Series:
    at = [f"train_step {train_step:,.0f}" for train_step, _ in points]
    return Series(name, kind, points, at, [form.format(value) for _, value in points])


def _late_range(series: Sequence[Series], last: int) -> Axis:
    """Returns an axis for the values after the start of the run, with a margin."""
    late = [value for curve in series for train_step, value in curve.points if train_step >= _WARM_UP * last]
    low, high = min(late), max(late)
    margin = 0.05 * (high - low) or 0.5
    return continuous(low - margin, high + margin)


def _plot(title: str, unit: str, series: Sequence[Series], along: Axis, up: Axis) -> Figure:
    curves = []
    for curve in series:
        lowest = min(range(len(curve.points)), key=lambda index: curve.points[index][1])
        curves.append(
            f"{curve.name} goes from {curve.values[0]} at {curve.at[0]} to {curve.values[-1]} at {curve.at[-1]}, "
            f"lowest {curve.values[lowest]} at {curve.at[lowest]}"
        )
    description = f"{title[:1].upper()}{title[1:]}, {unit}, over train_steps: {'; '.join(curves)}."
    return plot(title, unit, series, along, up, description=description)
