"""Pictures of notes as PNG files: a piano roll, and distributions of several sets of notes over each other.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart. Figures are drawn without pyplot,
so nothing global is touched and no display is needed. A Beam worker has no matplotlib, so nothing that runs there
imports this module.
"""

import math
import os
import warnings
from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter
from numpy.typing import NDArray

from sostenuto.errors import UserError
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import TICK_US, Notes, note_name
from sostenuto.storage import atomic_write

BLUE: Final = "#0072b2"
ORANGE: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#cc79a7"

INK: Final = "#222222"
"""Of headings."""
FAINT_INK: Final = "#666666"
"""Of what explains: labels, numbers on axes."""

NOTES_COLOUR: Final = BLUE
"""Of notes that are not a primer's; lighter where they are softer."""
PRIMER_COLOUR: Final = ORANGE
"""Of the primer's notes; lighter where they are softer."""

CUT_QUANTILE: Final = 0.975
"""The share of the first set's steps and durations that the distributions show."""

_DPI: Final = 110
_GRID, _OCTAVE_LINE, _BLACK_KEY_ROW = "#e6e6e6", "#c4c4c4", "#f3f3f3"
_BLACK_KEYS: Final = (1, 3, 6, 8, 10)  # semitones above C
_TICK_GAPS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # seconds
_MAX_TICKS: Final = 14  # in a row of a piano roll
_ROW_SECONDS, _MAX_ROWS = 80, 8
_MAX_BINS: Final = 60


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
    figure = new_figure(width, height)

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
            axes.axvline(end_of_primer, color=FAINT_INK, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xlabel("time (minutes:seconds)" if shown.seconds >= 60 else "time (seconds)", color=FAINT_INK)

    for words, depth, size, weight, colour in (
        (title, 0.18, 12, "bold", INK),
        (_summary(notes, shown), 0.41, 9, "normal", FAINT_INK),
    ):
        style = {"fontsize": size, "weight": weight, "color": colour, "parse_math": False}
        figure.text(left / width, 1 - depth / height, words, style, va="top")
    key = shades if 0 < primer_notes < len(shown) else {"": shades["primer" if primer_notes else "continuation"]}
    _draw_velocity_key(figure, key, right_edge=left + row_width, top_edge=height - 0.18)
    save_figure(figure, path)


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
    figure = new_figure(15, 4.4)
    panels = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.08, top=0.75, wspace=0.19)
    _draw_pitches(panels[0], histograms)
    _draw_times(panels[1], histograms, "step")
    _draw_times(panels[2], histograms, "duration")
    panels[0].set_ylabel("share of notes", color=FAINT_INK)
    for axes in panels:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.set_ylim(bottom=0)
    figure.text(0.05, 0.955, title, fontsize=12, weight="bold", va="top", color=INK, parse_math=False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.043, 0.9), ncols=len(names), frameon=False)
    save_figure(figure, path)


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


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty white figure; width and height in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as a PNG file, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write(path) as file, warnings.catch_warnings():
        # A title may be a file's name, in any script; what the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png", metadata={"Software": None})


def style_axes(axes: Axes) -> None:
    """Makes the frame, the numbers and the grid of a panel faint, so that what is drawn stands out."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_OCTAVE_LINE)
    axes.tick_params(labelsize=9, colors=FAINT_INK, color=_OCTAVE_LINE)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def draw_shares(
    axes: Axes, index: int, edges: NDArray, heights: NDArray, label: str, *, linewidth: float = 1.6
) -> None:
    """Draws a set as an area, if it is the first, or as a line; earlier lines lie above later ones.

    Args:
        axes: the panel.
        index: which of the panel's sets it is.
        edges: `[bins + 1]`, of the bins.
        heights: `[bins]`, a share each, or a density.
        label: its name in the legend.
        linewidth: of a line, in points.
    """
    if index == 0:
        axes.stairs(heights, edges, fill=True, color=_mix(BLUE, "white", 0.55), label=label)
    else:
        colour = (ORANGE, GREEN, PURPLE)[(index - 1) % 3]
        axes.stairs(
            heights, edges, color=colour, linewidth=linewidth, baseline=None, label=label, zorder=3 - 0.1 * index
        )


def _pitch_range(notes: Notes) -> tuple[int, int]:
    """The lowest and highest row: the notes', a margin of two, and never less than two octaves."""
    low, high = int(notes.pitch.min()) - 2, int(notes.pitch.max()) + 2
    missing = max(0, 24 - (high - low))
    return low - (missing + 1) // 2, high + missing // 2


def _draw_keyboard(axes: Axes, low: int, high: int) -> None:
    style_axes(axes)
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
    axes.tick_params(length=0, labelsize=8, labelcolor=INK, pad=2)
    axes.set_xlabel("velocity", fontsize=8, color=FAINT_INK, labelpad=0)
    axes.spines[:].set_visible(False)


def _draw_pitches(axes: Axes, histograms: Mapping[str, Histograms]) -> None:
    style_axes(axes)
    occurring = np.flatnonzero(sum(histogram.pitch for histogram in histograms.values()))
    low, high = int(occurring[0]), int(occurring[-1])
    edges = np.arange(low, high + 2) - 0.5
    for index, (name, histogram) in enumerate(histograms.items()):
        label = f"{name} ({int(histogram.pitch.sum()):,} notes)"
        draw_shares(axes, index, edges, shares(histogram.pitch)[low : high + 1], label)
    octaves = [pitch for pitch in range(low, high + 1) if pitch % 12 == 0]
    axes.set_xticks(octaves, [note_name(pitch) for pitch in octaves])
    axes.set_xlim(edges[0], edges[-1])
    axes.set_title("pitch", loc="left", fontsize=10, color=INK)


def _draw_times(axes: Axes, histograms: Mapping[str, Histograms], field: str) -> None:
    style_axes(axes)
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
        draw_shares(axes, index, edges, drawn, name)
        beyond.append(f"{name} {1 - drawn.sum():.1%}")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_title(f"{field} (seconds, bins of {bin_width * tick * 1000:.0f} ms)", loc="left", fontsize=10, color=INK)
    axes.text(
        *(0.98, 0.95),
        "\n".join([f"beyond {edges[-1]:.2f} s:", *beyond]),
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=8.5,
        color=FAINT_INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
        parse_math=False,
    )
