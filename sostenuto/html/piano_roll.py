"""Piano rolls as SVG."""

import math
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sostenuto.html.elements import element, rule
from sostenuto.music.notes import Notes, note_name

LOUDNESSES: Final = 4
"""Classes of velocity: `v0` (soft) to `v3` (loud)."""

_BLACK_KEYS: Final = (1, 3, 6, 8, 10)  # semitones above C
_TIME_UNIT_US: Final = 10_000  # a unit of the drawing's time axis
_KEY: Final = 10  # units of the drawing for a semitone
_SHORTEST: Final = 6  # units of the time axis; shorter notes would be invisible
_TIME_GAPS: Final = (1, 2, 5, 10, 15, 30, 60)  # seconds


def piano_roll(notes: Notes, is_primer: NDArray[np.bool_], *, description: str) -> Markup:
    """Draws at least one note as bars over time, coloured by velocity, on a keyboard with shaded black keys.

    A primer's notes, bool `[n]`, get the class `primer`, the others `played`. The style sheet sets the size.
    """
    low, high = _octaves(notes)
    width, height = max(round(notes.seconds * 1e6 / _TIME_UNIT_US), 1), (high - low) * _KEY
    black_keys = [
        element("path", d=f"M0 {(high - 1 - pitch) * _KEY}h{width}v{_KEY}h-{width}z", class_="black")
        for pitch in range(low, high)
        if pitch % 12 in _BLACK_KEYS
    ]
    octaves = [rule(0, (high - pitch) * _KEY, width, (high - pitch) * _KEY, "octave") for pitch in range(low, high, 12)]
    seam = None
    if is_primer.any() and not is_primer.all():
        x = int(notes.onset_us[~is_primer][0] // _TIME_UNIT_US)
        seam = rule(x, 0, x, height, "seam")
    drawing = element(
        "svg",
        *black_keys,
        *octaves,
        *_bars(notes, is_primer, high, "primer"),
        *_bars(notes, ~is_primer, high, "played"),
        seam,
        viewBox=f"0 0 {width} {height}",
        preserveAspectRatio="none",
        role="img",
        aria_label=description,
    )
    sheet = {"data_low": low, "data_high": high, "data_seconds": f"{notes.seconds:.3f}"}
    return element(
        "div",
        _key_names(low, high),
        element("div", drawing, element("i", class_="head"), class_="sheet", **sheet),
        _times(notes.seconds),
        class_="roll",
    )


def _octaves(notes: Notes) -> tuple[int, int]:
    """Returns the C at or below the lowest note and a C above the highest one, at least two octaves apart."""
    low = int(notes.pitch.min()) // 12 * 12
    high = -(-(int(notes.pitch.max()) + 1) // 12) * 12
    return (low, high) if high - low >= 24 else (max(low - 12, 0), max(high, low + 12))


def _bars(notes: Notes, chosen: NDArray[np.bool_], high: int, kind: str) -> list[Markup]:
    """Draws the chosen notes, a path for each class of velocity, the loud ones on top."""
    loudness = np.minimum(notes.velocity.astype(np.int64) * LOUDNESSES // 128, LOUDNESSES - 1)
    starts = notes.onset_us // _TIME_UNIT_US
    lengths = np.maximum(notes.duration_us // _TIME_UNIT_US, _SHORTEST)
    paths = []
    for level in range(LOUDNESSES):
        inside = chosen & (loudness == level)
        bars = zip(starts[inside].tolist(), notes.pitch[inside].tolist(), lengths[inside].tolist(), strict=True)
        d = "".join(f"M{start} {(high - 1 - pitch) * _KEY}h{length}v{_KEY}h-{length}z" for start, pitch, length in bars)
        if d:
            paths.append(element("path", d=d, class_=f"{kind} v{level}"))
    return paths


def _key_names(low: int, high: int) -> Markup:
    names = [
        element("span", note_name(pitch), style=f"bottom:{100 * (pitch - low) / (high - low):.1f}%")
        for pitch in range(low, high, 12)
    ]
    return element("div", *names, class_="keys", aria_hidden="true")


def _times(seconds: float) -> Markup:
    gap = next((gap for gap in _TIME_GAPS if seconds / gap <= 7), _TIME_GAPS[-1])
    times = [
        element("span", f"{second // 60}:{second % 60:02d}", style=f"left:{100 * second / seconds:.2f}%")
        for second in range(0, math.ceil(seconds), gap)
        if second < 0.97 * seconds
    ]
    return element("div", *times, class_="times", aria_hidden="true")
