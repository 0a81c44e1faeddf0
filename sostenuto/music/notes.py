"""Notes: the arrays that the whole project exchanges, and the 10 ms grid on which their times are scored."""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PITCHES = 128
TICK_US = 10_000
MAX_TICK = 1000
MAX_TIME_US = 2**31 - 1  # the longest step or duration, just under 36 minutes, which fits int32
FIELDS = ("pitch", "step", "duration", "velocity")

_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_ACCIDENTALS = {"": 0, "#": 1, "b": -1}
_NAMED_NOTE = re.compile(r"([A-Ga-g])([#b]?)(-?\d{1,2})", re.ASCII)
_BOUNDS = {
    "pitch": (0, PITCHES - 1),
    "step_us": (0, MAX_TIME_US),
    "duration_us": (1, MAX_TIME_US),
    "velocity": (1, 127),
}

Values = Sequence[int] | np.ndarray


def ticks(microseconds: np.ndarray) -> np.ndarray:
    """Returns microseconds, an array of any shape, on the scoring grid: int64 ticks of 10 ms.

    They are rounded half up and capped at `MAX_TICK` (10 s).
    """
    return np.minimum((np.asarray(microseconds, np.int64) + TICK_US // 2) // TICK_US, MAX_TICK)


def note_name(pitch: int) -> str:
    """Returns the name of a MIDI pitch, with middle C (60) as "C4"; black keys are sharps ("F#5" is 78).

    Raises:
        ValueError: the pitch is not in 0..127.
    """
    if not 0 <= pitch < PITCHES:
        raise ValueError(f"pitch: got {pitch}, expected 0 to {PITCHES - 1}")
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"


def note_number(name: str) -> int:
    """Returns the MIDI pitch of a note's name: 60 for "C4", 78 for "F#5" or "Gb5".

    Raises:
        ValueError: the name is another text, or its pitch is not in 0..127.
    """
    parts = _NAMED_NOTE.fullmatch(name)
    pitch = semitone(parts[1], parts[2]) + 12 * (int(parts[3]) + 1) if parts else -1
    if not 0 <= pitch < PITCHES:
        raise ValueError(f"note: got {name!r}, expected a name from C-1 to G9, as in C4 or F#5")
    return pitch


def semitone(letter: str, accidental: str) -> int:
    """Returns the semitones from C up to a letter with "#", "b" or "": -1 for "Cb", 12 for "B#"."""
    return _NAMES.index(letter.upper()) + _ACCIDENTALS[accidental]


class MergedNotes(NamedTuple):
    """Notes of one keyboard, sorted by (onset, pitch); each field is an array `[n]`, times in any unit."""

    pitch: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    velocity: np.ndarray


def merge_overlapping_notes(
    pitch: Values, onset: Sequence[float] | np.ndarray, offset: Sequence[float] | np.ndarray, velocity: Values
) -> MergedNotes:
    """Merges notes `[n]` of one pitch and onset, and ends each note at the next onset of its pitch.

    Of merged notes the last offset and the highest velocity remain. A MIDI channel cannot hold overlapping notes of a
    pitch: the first note-off would end all of them.
    """
    pitch, onset, offset, velocity = (np.asarray(values) for values in (pitch, onset, offset, velocity))
    order = np.lexsort((onset, pitch))
    pitch, onset, offset, velocity = pitch[order], onset[order], offset[order], velocity[order]
    first = np.flatnonzero(np.append(True, (pitch[1:] != pitch[:-1]) | (onset[1:] != onset[:-1]))[: len(pitch)])
    offset, velocity = np.maximum.reduceat(offset, first), np.maximum.reduceat(velocity, first)
    pitch, onset = pitch[first], onset[first]
    np.minimum(offset[:-1], onset[1:], out=offset[:-1], where=pitch[1:] == pitch[:-1])
    order = np.lexsort((pitch, onset))
    return MergedNotes(pitch[order], onset[order], offset[order], velocity[order])


@dataclasses.dataclass(frozen=True, eq=False)
class Notes:
    """A sequence of notes in playing order, times in integer microseconds.

    Notes from `from_onsets` are sorted by (onset, pitch, offset, velocity). The first step is 0: time starts with the
    first onset. The arrays must not be modified. `==` compares all notes and their order.

    Attributes:
        pitch: uint8 `[n]`, MIDI number 0..127.
        step_us: int64 `[n]`, microseconds from the previous note's onset to this one's; 0 for the first note.
        duration_us: int64 `[n]`, microseconds from onset to offset, at least 1.
        velocity: uint8 `[n]`, 1..127.

    Raises:
        ValueError: lengths differ, an array is not one-dimensional, or a value is out of range.
    """

    pitch: np.ndarray
    step_us: np.ndarray
    duration_us: np.ndarray
    velocity: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.pitch)
        for name, (low, high) in _BOUNDS.items():
            values = np.asarray(getattr(self, name))
            if values.ndim != 1 or len(values) != count:
                raise ValueError(f"{name}: got shape {values.shape}, expected ({count},) like pitch")
            if count and not np.issubdtype(values.dtype, np.integer):
                raise ValueError(f"{name}: got {values.dtype}, expected integers")
            if count and (values.min() < low or values.max() > high):
                wrong = values[(values < low) | (values > high)][0]
                raise ValueError(f"{name}: got {wrong}, expected {low} to {high}")
            object.__setattr__(self, name, values.astype(np.uint8 if high < 256 else np.int64, copy=False))
        if count and self.step_us[0] != 0:
            raise ValueError(f"first step: got {self.step_us[0]} microseconds, expected 0")

    @classmethod
    def from_onsets(cls, pitch: Values, onset_us: Values, offset_us: Values, velocity: Values) -> "Notes":
        """Returns the notes sorted by (onset, pitch, offset, velocity), time starting with the first onset.

        The arguments are arrays `[n]`, in any order of notes; times are integer microseconds from any origin.

        Raises:
            ValueError: as for `Notes`.
        """
        arrays = [np.asarray(values) for values in (pitch, onset_us, offset_us, velocity)]
        if len({values.shape for values in arrays}) > 1:
            raise ValueError(f"shapes: got {[values.shape for values in arrays]}, expected equal ones")
        pitch, onset_us, offset_us, velocity = arrays
        if not len(pitch):
            return cls.empty()
        onset_us, offset_us = onset_us.astype(np.int64), offset_us.astype(np.int64)
        # Sorting by one key is several times as fast, and rarely leaves a tie.
        order = np.argsort(onset_us * PITCHES + pitch, kind="stable")
        if np.any((np.diff(onset_us[order]) == 0) & (np.diff(pitch[order]) == 0)):
            order = np.lexsort((velocity, offset_us, pitch, onset_us))
        onset_us = onset_us[order]
        step_us = np.diff(onset_us, prepend=onset_us[0])
        return cls(pitch[order], step_us, offset_us[order] - onset_us, velocity[order])

    @classmethod
    def empty(cls) -> "Notes":
        """Returns no notes."""
        return cls(*[np.zeros(0, np.int64)] * 4)

    def __len__(self) -> int:
        """Returns the number of notes."""
        return len(self.pitch)

    def __getitem__(self, part: slice) -> "Notes":
        """Returns a slice of the notes, whose time starts with its first onset.

        Raises:
            TypeError: `part` is not a slice.
            ValueError: the slice has a step.
        """
        if not isinstance(part, slice):
            raise TypeError(f"index: got {part!r}, expected a slice, as in notes[:10]")
        if part.step not in (None, 1):
            raise ValueError(f"slice: got a step of {part.step}, expected 1: any other would change the notes' times")
        step_us = self.step_us[part].copy()
        step_us[:1] = 0
        return Notes(self.pitch[part], step_us, self.duration_us[part], self.velocity[part])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Notes):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _BOUNDS)

    @property
    def onset_us(self) -> np.ndarray:
        """int64 `[n]`: microseconds from the first onset to each onset."""
        return np.cumsum(self.step_us)

    @property
    def offset_us(self) -> np.ndarray:
        """int64 `[n]`: microseconds from the first onset to each offset."""
        return self.onset_us + self.duration_us

    @property
    def seconds(self) -> float:
        """Seconds from the first onset to the end of the last sounding note; 0.0 without notes."""
        return float(self.offset_us.max()) / 1e6 if len(self) else 0.0
