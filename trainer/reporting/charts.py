"""Charts of report.html: training curves, and distributions of held-out, real and generated music."""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sostenuto.html.axes import Axis, continuous, percent
from sostenuto.html.charts import Figure, Series, plot
from sostenuto.music.notes import TICK_US, note_name
from trainer.evaluation.distributions import DISTRIBUTIONS
from trainer.reporting.load import RunReport
from trainer.workdir.evaluation_formats import GenerationEvaluation
from trainer.workdir.formats import SCORED_FIELDS, MetricsRecord, MusicKind

_MAX_POINTS: Final = 400  # of a curve; more would be indistinguishable
_MAX_DOTS: Final = 60  # of a curve whose points are marked
_MAX_ROWS: Final = 40  # of the table of scores
_WARM_UP: Final = 0.03  # fraction of the train_steps at the start, while the loss falls from its random value
_FIELDS: Final = SCORED_FIELDS[1:]
_MUSIC: Final[dict[MusicKind, tuple[str, str]]] = {
    "held_out": ("held-out music", "held area"),
    "real": ("real continuations", "real thin"),
    "generated": ("generated", "generated"),
}
"""Name and classes of each kind of music, from the lowest layer to the highest."""
_TIMES: Final = ("step", "duration")
_TAIL: Final = 0.004  # fraction of each distribution beyond either end of the axis
_TIME_TICKS: Final = (0.0035, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)  # seconds; the first one stands for 0

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
    _Panel("end of a performance", "nats/note", ("end_nll",)),
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


def plot_distributions(generated: GenerationEvaluation) -> list[Figure]:
    """Returns a chart for each distribution."""
    return [_plot_distribution(name, generated) for name in DISTRIBUTIONS]


def _plot_distribution(name: str, generated: GenerationEvaluation) -> Figure:
    """Plots three histograms over each other; times on a logarithmic axis, per octave."""
    distribution = DISTRIBUTIONS[name]
    counts = {music: np.array(generated.counts[music][name], float) for music in _MUSIC}
    shares = {music: values / max(values.sum(), 1) for music, values in counts.items()}
    first, last = _visible_bins(shares)
    edges, middles, heights = _scale(name, shares)
    along = continuous(float(edges[first]), float(edges[last]), log=name in _TIMES)
    if ticks := _named_ticks(name, int(distribution.edges[first]), int(distribution.edges[last])):
        along = Axis(along.place, [(along.place(value), text) for value, text in ticks])
    up = continuous(0, 1.05 * max(float(values[first:last].max()) for values in heights.values()))
    up = percent(up)
    series = [
        Series(
            label,
            kind,
            list(zip(middles[first:last].tolist(), heights[music][first:last].tolist(), strict=True)),
            [_describe_bin(name, distribution.edges, index) for index in range(first, last)],
            [f"{share:.1%}" for share in shares[music][first:last]],
            edges[first : last + 1].tolist(),
        )
        for music, (label, kind) in _MUSIC.items()
    ]
    distances = generated.distributions[name]
    title, _, unit = distribution.title.partition(", ")
    description = (
        f"Distribution of {title}: generated music overlaps {distances['generated'].overlap:.0%} with held-out "
        f"music, real continuations {distances['real'].overlap:.0%}."
    )
    unit = f"{unit + ', ' if unit else ''}{'share per octave' if name in _TIMES else 'share'}"
    return plot(title, unit, series, along, up, description=description)


def _visible_bins(shares: Mapping[MusicKind, NDArray[np.floating]]) -> tuple[int, int]:
    """Returns the first bin and the one after the last, without the tails of all distributions."""
    tails = [np.minimum(np.cumsum(values), np.cumsum(values[::-1])[::-1]) for values in shares.values()]
    inside = np.flatnonzero(np.max(tails, axis=0) > _TAIL)
    return int(inside[0]), int(inside[-1]) + 1


def _scale(
    name: str, shares: Mapping[MusicKind, NDArray[np.floating]]
) -> tuple[NDArray[np.floating], NDArray[np.floating], Mapping[MusicKind, NDArray[np.floating]]]:
    """Returns edges and middles of the bins on the axis, and the heights of the bars."""
    edges: NDArray[np.floating]
    if name in _TIMES:
        # Tick 0, all times below 5 ms, is drawn as the octave below 5 ms.
        edges = np.append(0.25, DISTRIBUTIONS[name].edges[1:] - 0.5) * TICK_US / 1e6
        octaves = np.log2(edges[1:] / edges[:-1])
        return edges, np.sqrt(edges[1:] * edges[:-1]), {music: values / octaves for music, values in shares.items()}
    edges = DISTRIBUTIONS[name].edges - (0.0 if name == "notes_per_second" else 0.5)
    return edges, (edges[1:] + edges[:-1]) / 2, shares


def _named_ticks(name: str, low: int, high: int) -> list[tuple[float, str]]:
    """Returns the ticks of an axis in a musician's terms; none where plain numbers suffice."""
    octaves = range(-(-low // 12) * 12, high, 12)
    if name == "pitch":
        return [(pitch, note_name(pitch)) for pitch in octaves]
    if name == "pitch_class":
        return [(pitch_class, note_name(60 + pitch_class)[:-1]) for pitch_class in range(low, high)]
    if name == "interval":
        return [(semitones, f"{semitones:+d}" if semitones else "0") for semitones in octaves]
    if name in _TIMES:
        start, end = (max(edge - 0.5, 0.25) * TICK_US / 1e6 for edge in (low, high))
        return [(time, f"{time:g}" if time > 0.005 else "0") for time in _TIME_TICKS if start <= time <= end]
    return []


def _describe_bin(name: str, edges: NDArray[np.integer], index: int) -> str:
    low, high = int(edges[index]), int(edges[index + 1])
    if name == "pitch":
        return note_name(low)
    if name == "pitch_class":
        return note_name(60 + low)[:-1]
    unit = {"step": " ms", "duration": " ms", "interval": " semitones"}.get(name, "")
    scale = 10 if unit == " ms" else 1
    if high - low == 1 and name != "notes_per_second":
        return f"{low * scale}{unit}"
    return f"{low * scale} to {(high - (name != 'notes_per_second')) * scale}{unit}"
