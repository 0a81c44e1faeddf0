"""PNG pictures of notes: a piano roll, and distributions of several sets of notes drawn over each other.

Figures are drawn without pyplot, which would need a display. Beam workers have no Matplotlib: no module that runs there
may import this one.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter
from numpy.typing import NDArray

from sostenuto.errors import UserError
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import TICK_US, Notes, note_name
from sostenuto.storage import atomic_write
from sostenuto.storage.paths import StrPath
from sostenuto.text import counted

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
NOTES_COLOUR, PRIMER_COLOUR = BLUE, ORANGE  # soft notes have a lighter shade

_INK, _FAINT_INK = "#222222", "#666666"
_CUT_QUANTILE: Final = 0.975  # of the first set's steps and durations
_DPI: Final = 110
_GRID, _OCTAVE_LINE, _BLACK_KEY_ROW = "#e6e6e6", "#c4c4c4", "#f3f3f3"
_BLACK_KEYS: Final = (1, 3, 6, 8, 10)  # semitones above C
_TICK_GAPS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # seconds
_MAX_TICKS: Final = 14  # in a row of a piano roll
_ROW_SECONDS, _MAX_ROWS = 80, 8
_MAX_BINS: Final = 60
# Inches: of a row, between rows, and around all of them.
_ROW_WIDTH, _SEMITONE, _GAP = 12.0, 0.062, 0.35
_LEFT, _RIGHT, _BOTTOM, _TOP = 0.6, 0.3, 0.55, 0.7


def piano_roll(
    notes: Notes,
    path: StrPath,
    *,
    title: str = "",
    max_notes: int | None = None,
    primer_notes: int | NDArray[np.bool_] = 0,
) -> None:
    """Draws notes as bars over time, the louder the darker, in a PNG file, written atomically.

    A long performance is broken into rows. Black keys are shaded.

    Args:
        notes: the notes.
        path: the PNG file.
        title: the heading.
        max_notes: the number of notes to draw, from the start; None draws all.
        primer_notes: the number of notes at the start that are a primer, drawn in another colour; or bool `[n]`, for
            each note whether it is the primer's.

    Raises:
        UserError: there are no notes.
    """
    if not len(notes):
        raise UserError(f"{path}: no notes to draw, expected at least one")
    shown = notes[:max_notes]
    count = counted(len(notes), "note") if len(shown) == len(notes) else f"first {len(shown):,} of {len(notes):,} notes"
    length = f"{shown.seconds:.1f} s" if shown.seconds < 60 else f"{_clock(shown.seconds)} min"
    is_primer = np.arange(len(notes)) < primer_notes if isinstance(primer_notes, int) else primer_notes
    is_primer = is_primer[:max_notes]
    has_both = is_primer.any() and not is_primer.all()
    shades = {"primer": _shades(PRIMER_COLOUR), "continuation": _shades(NOTES_COLOUR)}
    colours = shades["continuation"](shown.velocity / 127)
    colours[is_primer] = shades["primer"](shown.velocity[is_primer] / 127)
    figure = _draw_rows(shown, colours, seam=shown.onset_us[~is_primer][0] / 1e6 if has_both else None)

    left, height = _LEFT / figure.get_figwidth(), figure.get_figheight()
    style = {"fontsize": 12, "weight": "bold", "color": _INK, "va": "top", "parse_math": False}
    figure.text(left, 1 - 0.18 / height, title, style)
    style |= {"fontsize": 9, "weight": "normal", "color": _FAINT_INK}
    figure.text(left, 1 - 0.41 / height, f"{count} · {length}", style)
    _draw_velocity_key(figure, shades if has_both else {"": shades["primer" if is_primer.any() else "continuation"]})
    _save_figure(figure, path)


def distributions(histograms: Mapping[str, Histograms], path: StrPath, *, title: str = "") -> None:
    """Draws the distributions of pitch, step and duration of several sets of notes over each other.

    Sets of unequal size are comparable, because fractions are drawn. Steps and durations end at a quantile of the
    first set; a line below the panel states the fraction of each set beyond.

    Args:
        histograms: by their names in the legend; the first is drawn as an area, the others as lines.
        path: the PNG file, written atomically.
        title: the heading.

    Raises:
        UserError: a set has fewer than two notes, so that it has no step.
    """
    for name, histogram in histograms.items():
        if not histogram.step.sum():
            raise UserError(f"{path}: {name} has no two notes in a row, so there is nothing to draw")
    figure = Figure(figsize=(15, 4.4), dpi=_DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(1, 3)
    for axes in panels:
        _style_axes(axes)
    _draw_pitches(panels[0], histograms)
    _draw_times(panels[1], histograms, "step")
    _draw_times(panels[2], histograms, "duration")
    panels[0].set_ylabel("share of notes", color=_FAINT_INK)
    for axes in panels:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.set_ylim(bottom=0)
    handles, names = panels[0].get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside upper left", ncols=len(names), frameon=False, alignment="left")
    legend.set_title(title, FontProperties(size=12, weight="bold"))
    legend.get_title().set(color=_INK, parse_math=False)
    _save_figure(figure, path)


def shares(counts: NDArray[np.int64], bin_width: int = 1) -> NDArray[np.float64]:
    """Returns the fraction of each `bin_width` neighbouring counts; raises ValueError if every count is 0."""
    if not counts.any():
        raise ValueError("no counts, expected at least one note")
    return np.pad(counts, (0, -len(counts) % bin_width)).reshape(-1, bin_width).sum(axis=1) / counts.sum()


def _save_figure(figure: Figure, path: StrPath) -> None:
    """Writes a figure as a PNG file, atomically."""
    with atomic_write(path) as file, warnings.catch_warnings():
        # A title may be a file's name in any script; missing glyphs are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png", metadata={"Software": None})


def _style_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_OCTAVE_LINE)
    axes.tick_params(labelsize=9, colors=_FAINT_INK, color=_OCTAVE_LINE)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_shares(axes: Axes, index: int, edges: NDArray, heights: NDArray, label: str) -> None:
    """Draws a panel's first set as an area and the others as lines, the earlier above the later."""
    if index == 0:
        axes.stairs(heights, edges, fill=True, color=_mix(BLUE, "white", 0.55), label=label)
    else:
        colour = (ORANGE, GREEN, PURPLE)[(index - 1) % 3]
        axes.stairs(heights, edges, color=colour, linewidth=1.6, baseline=None, label=label, zorder=3 - 0.1 * index)


def _draw_rows(notes: Notes, colours: NDArray[np.float64], *, seam: float | None) -> Figure:
    """Draws the notes on as many keyboards as needed, with a line at a time in seconds."""
    # A margin of two semitones around the notes, and at least two octaves.
    low, high = int(notes.pitch.min()) - 2, int(notes.pitch.max()) + 2
    missing = max(0, 24 - (high - low))
    low, high = low - (missing + 1) // 2, high + missing // 2
    starts, row_seconds = _rows(notes.seconds)
    row_height = _SEMITONE * (high - low + 1)
    width = _LEFT + _ROW_WIDTH + _RIGHT
    height = _BOTTOM + len(starts) * row_height + (len(starts) - 1) * _GAP + _TOP
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    # Half a pixel of colour is invisible, so the shortest notes are drawn longer.
    bars = _bars(notes, shortest=1.5 * row_seconds / (_ROW_WIDTH * _DPI))
    in_minutes = notes.seconds >= 60
    for row, start in enumerate(starts):
        row_bottom = height - _TOP - row_height - row * (row_height + _GAP)
        axes = figure.add_axes((_LEFT / width, row_bottom / height, _ROW_WIDTH / width, row_height / height))
        _draw_keyboard(axes, low, high)
        _draw_time_axis(axes, start, start + row_seconds, in_minutes=in_minutes)
        is_in_row = (bars[:, 0, 0] < start + row_seconds) & (bars[:, 1, 0] > start)
        axes.add_collection(PolyCollection(bars[is_in_row], facecolors=colours[is_in_row], edgecolors="none", zorder=3))
        if seam is not None:
            axes.axvline(seam, color=_FAINT_INK, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xlabel("time (minutes:seconds)" if in_minutes else "time (seconds)", color=_FAINT_INK)
    return figure


def _draw_keyboard(axes: Axes, low: int, high: int) -> None:
    _style_axes(axes)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(low - 0.5, high + 0.5)
    for pitch in range(low, high + 1):
        if pitch % 12 in _BLACK_KEYS:
            axes.axhspan(pitch - 0.5, pitch + 0.5, color=_BLACK_KEY_ROW, linewidth=0, zorder=0)
        if pitch % 12 == 0:
            axes.axhline(pitch - 0.5, color=_OCTAVE_LINE, linewidth=0.8, zorder=1)
    _label_octaves(axes.set_yticks, max(low, 0), min(high, 127))


def _label_octaves(set_ticks: Callable[..., object], low: int, high: int) -> None:
    octaves = range(-(-low // 12) * 12, high + 1, 12)
    set_ticks(octaves, [note_name(pitch) for pitch in octaves])


def _rows(seconds: float) -> tuple[NDArray[np.float64], float]:
    """Returns the start of each row, and the seconds of a row."""
    count = min(math.ceil(seconds / _ROW_SECONDS), _MAX_ROWS)
    if count == 1:
        return np.zeros(1), seconds
    gap = _tick_gap(seconds / count)
    row_seconds = gap * math.ceil(seconds / count / gap)
    return np.arange(0, seconds, row_seconds), row_seconds


def _tick_gap(seconds: float) -> float:
    """Returns the seconds between the ticks of a row."""
    return next((gap for gap in _TICK_GAPS if seconds / gap <= _MAX_TICKS), _TICK_GAPS[-1])


def _draw_time_axis(axes: Axes, start: float, end: float, *, in_minutes: bool) -> None:
    gap = _tick_gap(end - start)
    axes.set_xlim(start, end)
    axes.xaxis.set_major_locator(FixedLocator(np.arange(start, end + gap / 1e6, gap).tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: _clock(time) if in_minutes else f"{time:g}"))


def _clock(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def _bars(notes: Notes, shortest: float) -> NDArray[np.float64]:
    """Returns the corners of each note's bar: `[notes, 4, 2]`, seconds and pitch."""
    start = notes.onset_us / 1e6
    end = start + np.maximum(notes.duration_us / 1e6, shortest)
    low, high = notes.pitch - 0.45, notes.pitch + 0.45
    return np.stack([np.stack([start, end, end, start], axis=1), np.stack([low, low, high, high], axis=1)], axis=2)


def _shades(colour: str) -> Colormap:
    """Returns a map from a light tint of a colour through the colour itself to a dark shade."""
    stops = [(0.0, _mix(colour, "white", 0.8)), (0.6, colour), (1.0, _mix(colour, "black", 0.55))]
    return LinearSegmentedColormap.from_list(colour, stops)


def _mix(colour: str, other: str, share: float) -> str:
    """Returns the colour with a share of another one."""
    red, green, blue = (1 - share) * np.array(to_rgb(colour)) + share * np.array(to_rgb(other))
    return to_hex((red, green, blue))


def _draw_velocity_key(figure: Figure, shades: Mapping[str, Colormap]) -> None:
    """Draws a strip of shades for each part of the notes at the upper right: legend and colour bar in one."""
    width, height = figure.get_size_inches()
    strip_width, strip_height = 1.3, 0.12
    key_height = strip_height * len(shades)
    left, bottom = _LEFT + _ROW_WIDTH - strip_width, height - 0.18 - key_height
    axes = figure.add_axes((left / width, bottom / height, strip_width / width, key_height / height))
    strips = np.stack([colours(np.linspace(1, 127, 127) / 127) for colours in shades.values()])
    axes.imshow(strips, aspect="auto", extent=(1, 127, len(shades), 0), interpolation="nearest")
    axes.set_yticks(np.arange(len(shades)) + 0.5, list(shades))
    first, _, last = axes.set_xticks([1, 64, 127], ["1", "64", "127"])
    first.label1.set_horizontalalignment("left")
    last.label1.set_horizontalalignment("right")
    axes.tick_params(length=0, labelsize=8, labelcolor=_INK, pad=2)
    axes.set_xlabel("velocity", fontsize=8, color=_FAINT_INK, labelpad=0)
    axes.spines[:].set_visible(False)


def _draw_pitches(axes: Axes, histograms: Mapping[str, Histograms]) -> None:
    pitches = np.flatnonzero(sum(histogram.pitch for histogram in histograms.values()))
    low, high = int(pitches[0]), int(pitches[-1])
    edges = np.arange(low, high + 2) - 0.5
    for index, (name, histogram) in enumerate(histograms.items()):
        label = f"{name} ({counted(int(histogram.pitch.sum()), 'note')})"
        _draw_shares(axes, index, edges, shares(histogram.pitch)[low : high + 1], label)
    _label_octaves(axes.set_xticks, low, high)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_title("pitch", loc="left", fontsize=10, color=_INK)


def _draw_times(axes: Axes, histograms: Mapping[str, Histograms], field: str) -> None:
    first = next(iter(histograms.values()))
    last_tick = max(round(first.quantile(field, _CUT_QUANTILE) * 1e6 / TICK_US), 10)
    bin_width = math.ceil((last_tick + 1) / _MAX_BINS)
    bins = math.ceil((last_tick + 1) / bin_width)
    tick = TICK_US / 1e6
    # A tick's times range from half a tick before it to half a tick after.
    edges = (np.arange(bins + 1) * bin_width - 0.5) * tick
    beyond = []
    for index, (name, histogram) in enumerate(histograms.items()):
        counts = getattr(histogram, field)
        _draw_shares(axes, index, edges, shares(counts, bin_width)[:bins], name)
        beyond.append((name, counts[bins * bin_width :].sum() / counts.sum()))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_title(f"{field} (seconds, bins of {bin_width * tick * 1000:.0f} ms)", loc="left", fontsize=10, color=_INK)
    if any(share for _, share in beyond):
        text = f"beyond {edges[-1]:.2f} s: " + ", ".join(f"{name} {share:.1%}" for name, share in beyond)
        axes.set_xlabel(text, loc="right", fontsize=8.5, color=_FAINT_INK, parse_math=False)
