"""Controls of generated music that need no training: key, range, density, tempo and repeats."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sostenuto.errors import UserError
from sostenuto.music.notes import MAX_TIME_US, PITCHES, Notes, note_name, note_number, semitone
from trainer.config_fields import Bounds
from trainer.generation.arguments import check_number

DENSITIES: Final = Bounds(minimum=0, maximum=100)
TEMPOS: Final = Bounds(minimum=0.1, maximum=10)
REPEATS: Final = Bounds(minimum=0, maximum=1_000)

# Semitones above the tonic. A minor key has its sixth and seventh degrees both natural and raised.
_SCALES: Final = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 9, 10, 11)}
_KEY: Final = re.compile(r"([A-Ga-g])([#b]?) +((?i:major|minor))")
_RANGE: Final = re.compile(r"(.+?)-(-?[^-]+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Controls:
    """Controls of generated music, which by default change nothing.

    Attributes:
        key: a tonic and major or minor, as in "D minor" or "Bb major": generated pitches belong to its scale. Minor
            scales include the raised sixth and seventh degrees.
        range: the lowest and the highest generated note, by name or MIDI number: "C2-C7" or "36-96".
        density: notes per second to approach, as heard at the tempo, at most 100; 0 leaves them to the model.
        tempo: 0.1 to 10: the whole sample, its primer included, is played that many times as fast.
        avoid_repeats: the length of a run of pitches that must not occur twice within 4,096 notes, at most 1,000; 0
            permits repeats.

    Raises:
        UserError: a value is of a wrong type or out of its range.
    """

    key: str | None = None
    range: str | None = None
    density: float = 0.0
    tempo: float = 1.0
    avoid_repeats: int = 0

    def __post_init__(self) -> None:
        _check("key", self.key, _parse_key)
        _check("range", self.range, _parse_range)
        # Numbers of NumPy become Python's, which JSON can hold.
        for name, bounds, kind in (
            ("density", DENSITIES, float), ("tempo", TEMPOS, float), ("avoid_repeats", REPEATS, int)
        ):  # fmt: skip
            object.__setattr__(self, name, check_number(name, getattr(self, name), bounds, kind))


def allowed_pitches(controls: Controls, pitch_range: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns which pitches key and range permit, bool `[PITCHES]`.

    Args:
        controls: the controls.
        pitch_range: the lowest and the highest pitch of the model, outside of which no pitch is permitted.

    Raises:
        UserError: no pitch is permitted.
    """
    lowest, highest = _parse_range(controls.range) if controls.range else (0, PITCHES - 1)
    pitches = np.arange(PITCHES)
    allowed = (pitches >= max(lowest, pitch_range[0])) & (pitches <= min(highest, pitch_range[1]))
    if controls.key:
        allowed &= np.isin(pitches % 12, _parse_key(controls.key))
    if not allowed.any():
        given = ", ".join(f"{name}={value}" for name in ("key", "range") if (value := getattr(controls, name)))
        model = "-".join(map(note_name, pitch_range))
        raise UserError(
            f"{given}: got no pitch, expected at least one of the model's range, {model}. Pass another key or range"
        )
    return allowed


def change_tempo(notes: Notes, tempo: float) -> Notes:
    """Returns notes with their times divided by the tempo."""
    if tempo == 1:
        return notes
    # Onsets are divided rather than steps, whose rounding errors would add up.
    step_us = np.diff(divide_us(notes.onset_us, tempo), prepend=0)
    duration_us = np.clip(divide_us(notes.duration_us, tempo), 1, MAX_TIME_US)
    return Notes(notes.pitch, np.minimum(step_us, MAX_TIME_US), duration_us, notes.velocity)


def divide_us(times_us: NDArray[np.int64], tempo: float) -> NDArray[np.int64]:
    """Returns times in microseconds, of any shape, divided by the tempo."""
    return np.rint(times_us / tempo).astype(np.int64)


def _check(name: str, value: Any, parse: Callable[[str], object]) -> None:
    """Checks a text, or None."""
    if value is None:
        return
    try:
        parse(value if isinstance(value, str) else repr(value))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def _parse_key(text: str) -> list[int]:
    """Returns the pitch classes of a key; raises ValueError for another text."""
    parts = _KEY.fullmatch(text)
    if not parts:
        raise ValueError(f"got {text!r}, expected a tonic and major or minor, as in D minor or Bb major")
    return [(semitone(parts[1], parts[2]) + degree) % 12 for degree in _SCALES[parts[3].lower()]]


def _parse_range(text: str) -> tuple[int, int]:
    """Returns the lowest and the highest pitch of a range; raises ValueError for another text."""
    parts = _RANGE.fullmatch(text)
    try:
        lowest, highest = map(_parse_note, parts.groups() if parts else ())
    except ValueError:
        lowest, highest = 1, 0
    if lowest > highest:
        raise ValueError(f"got {text!r}, expected the lowest and the highest note, as in C2-C7 or 36-96")
    return lowest, highest


def _parse_note(text: str) -> int:
    """Returns the pitch of a note's name or MIDI number; raises ValueError for another text."""
    if not (text.isascii() and text.isdecimal()):
        return note_number(text)
    if int(text) >= PITCHES:
        raise ValueError(f"got {text!r}, expected at most {PITCHES - 1}")
    return int(text)
