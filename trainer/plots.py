"""Charts as PNG files: a piano roll, distributions of generated notes beside those of real music, and loss curves.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart. Figures are drawn without pyplot,
so nothing global is touched and no display is needed.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from notes.errors import UserError
from notes.representation import TICK_US, Notes, note_name
from notes.statistics import Histograms
from notes.storage import atomic_write
from trainer.judging import DISTRIBUTIONS, Judgement

BLUE: Final = "#0072b2"
ORANGE: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#cc79a7"

NOTES_COLOUR: Final = BLUE
"""Of notes that are not a primer's; lighter where they are softer."""
PRIMER_COLOUR: Final = ORANGE
"""Of the primer's notes; lighter where they are softer."""

CUT_QUANTILE: Final = 0.975
"""The share of the corpus' steps and durations that the distributions show."""

_DPI: Final = 110
_INK, _FAINT_INK, _GRID, _OCTAVE_LINE, _BLACK_KEY_ROW = "#222222", "#666666", "#e6e6e6", "#c4c4c4", "#f3f3f3"
_BLACK_KEYS: Final = (1, 3, 6, 8, 10)  # semitones above C
_TICK_GAPS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # seconds
_MAX_TICKS: Final = 14  # in a row of a piano roll
_ROW_SECONDS, _MAX_ROWS = 80, 8
_MAX_BINS: Final = 60
# A panel of a judgement shows the bins between which each set has all but this share, at either end.
_CUT_SHARE: Final = 0.004
# What a judgement compares, as `Judgement.counts` names it, and as the legend does.
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


def piano_roll(
    notes: Notes,
    path: str | os.PathLike,
    *,
    title: str = "",
    max_notes: int | None = None,
    primer_notes: int = 0,
) -> None:
    """Draws notes as bars over time, the louder the darker, on a keyboard whose black keys are shaded.

    A long performance is broken into rows, as on a page of music.

    Args:
        notes: what to draw.
        path: the PNG file, written whole or not at all.
        title: above the chart, at its left.
        max_notes: draw only so many from the start; None draws all.
        primer_notes: so many notes at the start are a primer and get `PRIMER_COLOUR`.

    Raises:
        UserError: there are no notes.
    """
    if not len(notes):
        raise UserError(f"{os.fspath(path)}: no notes to draw, expected at least one")
    shown = notes[:max_notes]
    primer_notes = min(primer_notes, len(shown))
    low, high = _pitch_range(shown)
    starts, row_seconds = _rows(shown.seconds)
    # Inches: of a row, between rows, and around all of them. A semitone keeps its height whatever the range.
    row_width, row_height, gap = 12.0, 0.062 * (high - low + 1), 0.35
    left, right, bottom, top = 0.6, 0.3, 0.55, 0.7
    width = left + row_width + right
    height = bottom + len(starts) * row_height + (len(starts) - 1) * gap + top
    figure = _figure(width, height)

    # Half a pixel of colour is no bar: the shortest notes are drawn a little longer than they sound.
    bars = _bars(shown, shortest=1.5 * row_seconds / (row_width * _DPI))
    shades = {"primer": _shades(PRIMER_COLOUR), "continuation": _shades(NOTES_COLOUR)}
    colours = shades["continuation"](shown.velocity / 127)
    colours[:primer_notes] = shades["primer"](shown.velocity[:primer_notes] / 127)
    for row, start in enumerate(starts):
        row_bottom = height - top - row_height - row * (row_height + gap)
        axes = figure.add_axes((left / width, row_bottom / height, row_width / width, row_height / height))
        _draw_keyboard(axes, low, high)
        _time_axis(axes, start, start + row_seconds, in_minutes=shown.seconds >= 60)
        sounds = (bars[:, 0, 0] < start + row_seconds) & (bars[:, 1, 0] > start)
        axes.add_collection(PolyCollection(bars[sounds], facecolors=colours[sounds], edgecolors="none", zorder=3))
        if 0 < primer_notes < len(shown):
            end_of_primer = shown.onset_us[primer_notes] / 1e6
            axes.axvline(end_of_primer, color=_FAINT_INK, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xlabel("time (minutes:seconds)" if shown.seconds >= 60 else "time (seconds)", color=_FAINT_INK)

    for words, depth, size, weight, colour in (
        (title, 0.18, 12, "bold", _INK),
        (_summary(notes, shown), 0.41, 9, "normal", _FAINT_INK),
    ):
        style = {"fontsize": size, "weight": weight, "color": colour, "parse_math": False}
        figure.text(left / width, 1 - depth / height, words, style, va="top")
    key = shades if 0 < primer_notes < len(shown) else {"": shades["primer" if primer_notes else "continuation"]}
    _draw_velocity_key(figure, key, right_edge=left + row_width, top_edge=height - 0.18)
    _save(figure, path)


def distributions(histograms: Mapping[str, Histograms], path: str | os.PathLike, *, title: str = "") -> None:
    """Draws the distributions of pitch, step and duration of several sets of notes over each other.

    Shares of notes are drawn, so that sets of unequal size compare. Steps and durations are cut at the first set's
    `CUT_QUANTILE`; how much of each set lies beyond is written into the panel.

    Args:
        histograms: by the name that the legend shows, in order; the first is drawn as an area, the others as lines.
        path: the PNG file, written whole or not at all.
        title: above the chart.

    Raises:
        UserError: a set has fewer than two notes, which make no step.
    """
    for name, histogram in histograms.items():
        if not histogram.step.sum():
            raise UserError(f"{os.fspath(path)}: {name} has no two notes in a row, nothing to draw")
    figure = _figure(15, 4.4)
    panels = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.08, top=0.75, wspace=0.19)
    _draw_pitches(panels[0], histograms)
    _draw_times(panels[1], histograms, "step")
    _draw_times(panels[2], histograms, "duration")
    panels[0].set_ylabel("share of notes", color=_FAINT_INK)
    for axes in panels:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.set_ylim(bottom=0)
    figure.text(0.05, 0.955, title, fontsize=12, weight="bold", va="top", color=_INK, parse_math=False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.043, 0.9), ncols=len(names), frameon=False)
    _save(figure, path)


def judgement(judged: Judgement, path: str | os.PathLike, *, title: str = "") -> None:
    """Draws the distributions by which generated music is judged: held-out music, generated, and real in its place.

    Each panel says how much of generated music, and of real, overlaps with held-out music. Steps and durations stand
    on a logarithmic axis, as shares per octave, since their bins grow.

    Args:
        judged: what `trainer.judging.judge` found.
        path: the PNG file, written whole or not at all.
        title: above the chart.
    """
    figure = _figure(15, 7.6)
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
        _style(axes)
        for index, (label, values) in enumerate(heights.items()):
            _draw_shares(axes, index, edges, values, label, linewidth=1.3)
        axes.set_xlim(edges[first], edges[last])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
        _label_values(axes, name, int(distribution.edges[first]), int(distribution.edges[last]))
        per_octave = " (share per octave)" if axes.get_xscale() == "log" else ""
        axes.set_title(distribution.title + per_octave, loc="left", fontsize=10, color=_INK, pad=19)
        nearness = judged.figures["distributions"][name]
        words = f"overlap: generated {nearness['generated']['overlap']:.2f}, real {nearness['real']['overlap']:.2f}"
        axes.text(0, 1.03, words, transform=axes.transAxes, fontsize=9, color=_FAINT_INK)
    for axes in panels[:, 0]:
        axes.set_ylabel("share", color=_FAINT_INK)
    figure.text(0.05, 0.975, title, fontsize=12, weight="bold", va="top", color=_INK, parse_math=False)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.043, 0.95), ncols=len(names), frameon=False)
    _save(figure, path)


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
    figure = _figure(4 * len(curves) + 0.4, 3.8)
    row = figure.subplots(1, len(curves), squeeze=False)[0]
    figure.subplots_adjust(left=0.14 / len(curves), right=1 - 0.05 / len(curves), bottom=0.14, top=0.8, wspace=0.2)
    for axes, (title, (training, validation)) in zip(row, curves.items(), strict=True):
        _style(axes)
        axes.plot(*training.T, color=BLUE, linewidth=1.2, label="training")
        marker = "o" if len(validation) <= 60 else None
        axes.plot(*validation.T, color=ORANGE, linewidth=1.6, marker=marker, markersize=3.5, label="validation")
        axes.set_title(title, loc="left", fontsize=10, color=_INK)
        axes.set_xlabel("train_step", color=_FAINT_INK)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda train_step, _: f"{train_step:,.0f}"))
        axes.set_ylim(*_loss_range(training, validation))
    handles, names = row[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.1 / len(curves), 0.99), ncols=2, frameon=False)
    _save(figure, path)


def shares(counts: NDArray[np.int64], bin_width: int = 1) -> NDArray[np.float64]:
    """Merges `bin_width` neighbouring counts into one bin and divides by the total, so that the shares add up to 1.

    Raises:
        ValueError: every count is 0.
    """
    total = counts.sum()
    if not total:
        raise ValueError("no counts, expected at least one note")
    filled = np.concatenate([counts, np.zeros(-len(counts) % bin_width, counts.dtype)])
    return filled.reshape(-1, bin_width).sum(axis=1) / total


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | os.PathLike) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_OCTAVE_LINE)
    axes.tick_params(labelsize=9, colors=_FAINT_INK, color=_OCTAVE_LINE)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _pitch_range(notes: Notes) -> tuple[int, int]:
    """The lowest and highest row: the notes', a margin of two, and never less than two octaves."""
    low, high = int(notes.pitch.min()) - 2, int(notes.pitch.max()) + 2
    missing = max(0, 24 - (high - low))
    return low - (missing + 1) // 2, high + missing // 2


def _draw_keyboard(axes: Axes, low: int, high: int) -> None:
    _style(axes)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(low - 0.5, high + 0.5)
    for pitch in range(low, high + 1):
        if pitch % 12 in _BLACK_KEYS:
            axes.axhspan(pitch - 0.5, pitch + 0.5, color=_BLACK_KEY_ROW, linewidth=0, zorder=0)
        if pitch % 12 == 0:
            axes.axhline(pitch - 0.5, color=_OCTAVE_LINE, linewidth=0.8, zorder=1)
    octaves = [pitch for pitch in range(low, high + 1) if pitch % 12 == 0 and 0 <= pitch <= 127]
    axes.set_yticks(octaves, [note_name(pitch) for pitch in octaves])


def _rows(seconds: float) -> tuple[NDArray[np.float64], float]:
    """The time at which each row starts, and the seconds that a row shows."""
    count = min(math.ceil(seconds / _ROW_SECONDS), _MAX_ROWS)
    if count == 1:
        return np.zeros(1), seconds
    gap = _tick_gap(seconds / count)
    row_seconds = gap * math.ceil(seconds / count / gap)
    return np.arange(0, seconds, row_seconds), row_seconds


def _tick_gap(seconds: float) -> float:
    """The seconds between the ticks of a row."""
    return next((gap for gap in _TICK_GAPS if seconds / gap <= _MAX_TICKS), _TICK_GAPS[-1])


def _time_axis(axes: Axes, start: float, end: float, *, in_minutes: bool) -> None:
    gap = _tick_gap(end - start)
    axes.set_xlim(start, end)
    axes.xaxis.set_major_locator(FixedLocator(np.arange(start, end + gap / 1e6, gap).tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: _clock(time) if in_minutes else f"{time:g}"))


def _clock(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def _bars(notes: Notes, shortest: float) -> NDArray[np.float64]:
    """The corners of each note's bar: `[notes, 4, 2]`, seconds and pitch."""
    start = notes.onset_us / 1e6
    end = start + np.maximum(notes.duration_us / 1e6, shortest)
    low, high = notes.pitch - 0.45, notes.pitch + 0.45
    return np.stack(
        [np.stack([start, end, end, start], axis=1), np.stack([low, low, high, high], axis=1)],
        axis=2,
    )


def _shades(colour: str) -> Colormap:
    """From a tint that still stands out from white to a dark shade, the colour itself between them."""
    stops = [(0.0, _mix(colour, "white", 0.8)), (0.6, colour), (1.0, _mix(colour, "black", 0.55))]
    return LinearSegmentedColormap.from_list(colour, stops)


def _mix(colour: str, other: str, share: float) -> str:
    """The colour with a share of another one in it."""
    red, green, blue = (1 - share) * np.array(to_rgb(colour)) + share * np.array(to_rgb(other))
    return to_hex((red, green, blue))


def _summary(notes: Notes, shown: Notes) -> str:
    count = f"{len(notes):,} notes" if len(shown) == len(notes) else f"first {len(shown):,} of {len(notes):,} notes"
    length = f"{shown.seconds:.1f} s" if shown.seconds < 60 else f"{_clock(shown.seconds)} min"
    return f"{count} · {length}"


def _draw_velocity_key(figure: Figure, shades: Mapping[str, Colormap], *, right_edge: float, top_edge: float) -> None:
    """Draws a strip of shades for each part of the notes, legend and colour bar in one; edges in inches."""
    width, height = figure.get_size_inches()
    strip_width, strip_height = 1.3, 0.12
    key_height = strip_height * len(shades)
    left, bottom = right_edge - strip_width, top_edge - key_height
    axes = figure.add_axes((left / width, bottom / height, strip_width / width, key_height / height))
    velocities = np.linspace(1, 127, 127) / 127
    strips = np.stack([colours(velocities) for colours in shades.values()])
    axes.imshow(strips, aspect="auto", extent=(1, 127, len(shades), 0), interpolation="nearest")
    axes.set_yticks(np.arange(len(shades)) + 0.5, list(shades))
    first, _, last = axes.set_xticks([1, 64, 127], ["1", "64", "127"])
    first.label1.set_horizontalalignment("left")
    last.label1.set_horizontalalignment("right")
    axes.tick_params(length=0, labelsize=8, labelcolor=_INK, pad=2)
    axes.set_xlabel("velocity", fontsize=8, color=_FAINT_INK, labelpad=0)
    axes.spines[:].set_visible(False)


def _draw_pitches(axes: Axes, histograms: Mapping[str, Histograms]) -> None:
    _style(axes)
    occurring = np.flatnonzero(sum(histogram.pitch for histogram in histograms.values()))
    low, high = int(occurring[0]), int(occurring[-1])
    edges = np.arange(low, high + 2) - 0.5
    for index, (name, histogram) in enumerate(histograms.items()):
        label = f"{name} ({int(histogram.pitch.sum()):,} notes)"
        _draw_shares(axes, index, edges, shares(histogram.pitch)[low : high + 1], label)
    octaves = [pitch for pitch in range(low, high + 1) if pitch % 12 == 0]
    axes.set_xticks(octaves, [note_name(pitch) for pitch in octaves])
    axes.set_xlim(edges[0], edges[-1])
    axes.set_title("pitch", loc="left", fontsize=10, color=_INK)


def _draw_times(axes: Axes, histograms: Mapping[str, Histograms], field: str) -> None:
    _style(axes)
    first = next(iter(histograms.values()))
    last_tick = max(round(first.quantile(field, CUT_QUANTILE) * 1e6 / TICK_US), 10)
    bin_width = math.ceil((last_tick + 1) / _MAX_BINS)
    bins = math.ceil((last_tick + 1) / bin_width)
    tick = TICK_US / 1e6
    # Tick t stands for the times from half a tick before it to half a tick after.
    edges = (np.arange(bins + 1) * bin_width - 0.5) * tick
    beyond = []
    for index, (name, histogram) in enumerate(histograms.items()):
        drawn = shares(getattr(histogram, field), bin_width)[:bins]
        _draw_shares(axes, index, edges, drawn, name)
        beyond.append(f"{name} {1 - drawn.sum():.1%}")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_title(f"{field} (seconds, bins of {bin_width * tick * 1000:.0f} ms)", loc="left", fontsize=10, color=_INK)
    axes.text(
        *(0.98, 0.95),
        "\n".join([f"beyond {edges[-1]:.2f} s:", *beyond]),
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=8.5,
        color=_FAINT_INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
        parse_math=False,
    )


def _draw_shares(
    axes: Axes, index: int, edges: NDArray, heights: NDArray, label: str, *, linewidth: float = 1.6
) -> None:
    """Draws a set as an area, if it is the first, or as a line; earlier lines lie above later ones."""
    if index == 0:
        axes.stairs(heights, edges, fill=True, color=_mix(BLUE, "white", 0.55), label=label)
    else:
        colour = (ORANGE, GREEN, PURPLE)[(index - 1) % 3]
        axes.stairs(
            heights, edges, color=colour, linewidth=linewidth, baseline=None, label=label, zorder=3 - 0.1 * index
        )


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
