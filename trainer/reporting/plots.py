"""Charts of a model as PNG files: how its music is judged, and loss curves."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from sostenuto.errors import UserError
from sostenuto.music.notes import TICK_US, note_name
from sostenuto.music.plots import (
    BLUE,
    FAINT_INK,
    INK,
    ORANGE,
    draw_shares,
    new_figure,
    save_figure,
    shares,
    style_axes,
)
from trainer.evaluation.generation_metrics import DISTRIBUTIONS, GenerationMetrics

# A panel of a judgement shows the bins between which each set has all but this share, at either end.
_CUT_SHARE: Final = 0.004
# What a judgement compares, as `GenerationMetrics.counts` names it, and as the legend does.
_JUDGED: Final = {
    "held_out": "held-out music",
    "generated": "generated continuations",
    "real": "real continuations of the same primers",
}
# Of the train_steps at the start of a run, while the loss falls from where chance put it.
_WARM_UP_SHARE: Final = 0.03
_NLLS: Final = ("pitch_nll", "step_nll", "duration_nll")
# Title of a panel -> the metrics whose sum is its training curve, and the one that is its validation curve.
_PANELS: Final = {
    "total, nats/note": (_NLLS, "val_nats"),
    "pitch, nats/note": (("pitch_nll",), "val_pitch_nll"),
    "step, nats/note": (("step_nll",), "val_step_nll"),
    "duration, nats/note": (("duration_nll",), "val_duration_nll"),
}
# For a model without densities, whose total cannot be trained on and whose loss is no such sum.
_LOSS_PANEL: Final = {"loss": (("loss",), "val_loss")}


def judgement(judged: GenerationMetrics, path: str | os.PathLike, *, title: str = "") -> None:
    """Draws the distributions by which generated music is judged: held-out music, generated, and real in its place.

    Each panel says how much of generated music, and of real, overlaps with held-out music. Steps and durations stand
    on a logarithmic axis, as shares per octave, since their bins grow.

    Args:
        judged: what `trainer.evaluation.generation_metrics.judge` found.
        path: the PNG file, written whole or not at all.
        title: above the chart.
    """
    figure = new_figure(15, 7.6)
    panels = figure.subplots(2, len(DISTRIBUTIONS) // 2)
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.05, top=0.82, wspace=0.19, hspace=0.38)
    for axes, (name, distribution) in zip(panels.flat, DISTRIBUTIONS.items(), strict=True):
        heights: dict[str, NDArray] = {label: shares(judged.counts[music][name]) for music, label in _JUDGED.items()}
        first, last = _span(list(heights.values()))
        edges: NDArray
        if name in ("step", "duration"):
            # Tick 0, all below 5 ms, is drawn as the octave below that.
            edges = np.append(0.25, distribution.edges[1:] - 0.5) * TICK_US / 1e6
            octaves = np.log2(edges[1:] / edges[:-1])
            heights = {label: values / octaves for label, values in heights.items()}
            axes.set_xscale("log")
        else:
            # All but notes per second are whole numbers, and drawn around them.
            edges = distribution.edges - (name != "notes_per_second") / 2
        style_axes(axes)
        for index, (label, values) in enumerate(heights.items()):
            draw_shares(axes, index, edges, values, label, linewidth=1.3)
        axes.set_xlim(edges[first], edges[last])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
        _label_values(axes, name, int(distribution.edges[first]), int(distribution.edges[last]))
        per_octave = " (share per octave)" if axes.get_xscale() == "log" else ""
        axes.set_title(distribution.title + per_octave, loc="left", fontsize=10, color=INK, pad=19)
        nearness = judged.figures["distributions"][name]
        words = f"overlap: generated {nearness['generated']['overlap']:.2f}, real {nearness['real']['overlap']:.2f}"
        axes.text(0, 1.03, words, transform=axes.transAxes, fontsize=9, color=FAINT_INK)
    for axes in panels[:, 0]:
        axes.set_ylabel("share", color=FAINT_INK)
    figure.text(0.05, 0.975, title, fontsize=12, weight="bold", va="top", color=INK, parse_math=False)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.043, 0.95), ncols=len(names), frameon=False)
    save_figure(figure, path)


def loss_curves(metrics: Sequence[Mapping[str, float]], path: str | os.PathLike) -> None:
    """Draws the losses over train_steps, training and validation: a panel for the total and one a field.

    The total is that of pitch, step and duration, in nats per note. Where training reports no such total, the loss
    it does report gets a panel of its own. Where the start of a run lies far above the rest, it is left outside.

    Args:
        metrics: the objects of metrics.jsonl; where a train_step occurs twice, the later one counts.
        path: the PNG file, written whole or not at all.

    Raises:
        UserError: no object holds a loss.
    """
    latest = {report["train_step"]: report for report in metrics}
    reports = [latest[train_step] for train_step in sorted(latest)]
    panels = dict(_PANELS) if len(_curve(reports, _NLLS)) else _LOSS_PANEL | _PANELS
    curves = {
        title: (_curve(reports, training), _curve(reports, (validation,)))
        for title, (training, validation) in panels.items()
    }
    curves = {title: pair for title, pair in curves.items() if any(len(curve) for curve in pair)}
    if not curves:
        raise UserError(f"{os.fspath(path)}: no report holds a loss, nothing to draw")
    figure = new_figure(4 * len(curves) + 0.4, 3.8)
    row = figure.subplots(1, len(curves), squeeze=False)[0]
    figure.subplots_adjust(left=0.14 / len(curves), right=1 - 0.05 / len(curves), bottom=0.14, top=0.8, wspace=0.2)
    for axes, (title, (training, validation)) in zip(row, curves.items(), strict=True):
        style_axes(axes)
        axes.plot(*training.T, color=BLUE, linewidth=1.2, label="training")
        marker = "o" if len(validation) <= 60 else None
        axes.plot(*validation.T, color=ORANGE, linewidth=1.6, marker=marker, markersize=3.5, label="validation")
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_xlabel("train_step", color=FAINT_INK)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda train_step, _: f"{train_step:,.0f}"))
        axes.set_ylim(*_loss_range(training, validation))
    handles, names = row[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.1 / len(curves), 0.99), ncols=2, frameon=False)
    save_figure(figure, path)


def _span(heights: Sequence[NDArray[np.float64]]) -> tuple[int, int]:
    """The first bin, and the end of the last, outside which each set has no more than `_CUT_SHARE` at either side."""
    inside = [np.flatnonzero(np.minimum(np.cumsum(one), np.cumsum(one[::-1])[::-1]) > _CUT_SHARE) for one in heights]
    return int(min(one[0] for one in inside)), int(max(one[-1] for one in inside)) + 1


def _label_values(axes: Axes, name: str, low: int, high: int) -> None:
    """Names the values of a judgement's axis, from low to below high, as a musician reads them."""
    if name == "pitch":
        octaves = range(-(-low // 12) * 12, high, 12)
        axes.set_xticks(octaves, [note_name(pitch) for pitch in octaves])
    elif name == "pitch_class":
        axes.set_xticks(range(low, high), [note_name(60 + pitch_class)[:-1] for pitch_class in range(low, high)])
    elif name == "interval":
        axes.set_xticks(range(-(-low // 12) * 12, high, 12))
    elif name in ("step", "duration"):
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(FixedLocator((0.0035, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:g}" if time > 0.005 else "0"))


def _curve(reports: Sequence[Mapping[str, float]], names: Sequence[str]) -> NDArray[np.float64]:
    """The finite sums of some metrics, where a report holds them all: `[points, 2]`, train_step and sum."""
    points = [
        (report["train_step"], sum(report[name] for name in names))
        for report in reports
        if all(report.get(name) is not None for name in names)
    ]
    return np.array([point for point in points if math.isfinite(point[1])]).reshape(-1, 2)


def _loss_range(*curves: NDArray[np.float64]) -> tuple[float, float]:
    """The range of the values that come after the start of the run, with a margin."""
    points = np.concatenate(curves)
    late = points[points[:, 0] >= _WARM_UP_SHARE * points[:, 0].max()][:, 1]
    low, high = late.min(), late.max()
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin
