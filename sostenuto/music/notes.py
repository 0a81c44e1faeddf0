"""Notes: the arrays every part of the project passes around, and the 10 ms grid on which their times are scored."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PITCHES = 128
TICK_US = 10_000
MAX_TICK = 1000
FIELDS = ("pitch", "step", "duration", "velocity")

# One step or one duration: just under 36 minutes. Anything longer is no music, and int32 holds what is shorter.
MAX_TIME_US = 2**31 - 1

_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def ticks(microseconds: np.ndarray) -> np.ndarray:
    """Returns times on the scoring grid: int64 ticks of 10 ms, rounded half up, capped at `MAX_TICK` (10 s).

    Args:
        microseconds: integer array of any shape, not negative.
    """
    return np.minimum((np.asarray(microseconds, np.int64) + TICK_US // 2) // TICK_US, MAX_TICK)


def note_name(pitch: int) -> str:
    """Returns the name of a MIDI pitch, with middle C (60) as "C4"; black keys are sharps ("F#5" is 78).

    Raises:
        ValueError: the pitch is not in 0..127.
    """
    if not 0 <= pitch < PITCHES:
        raise ValueError(f"pitch {pitch} is not a MIDI pitch: expected 0 to {PITCHES - 1}")
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"


class MergedNotes(NamedTuple):
    """Keys held on one keyboard, in the order of (onset, pitch).

    Attributes:
        pitch: `[n]` MIDI numbers.
        onset: `[n]` when each is struck, in any unit of time.
        offset: `[n]` when each is released, in the same unit.
        velocity: `[n]` 1..127.
    """

    pitch: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    velocity: np.ndarray


def merge_overlapping_notes(
    pitch: Sequence[int] | np.ndarray,
    onset: Sequence[float] | np.ndarray,
    offset: Sequence[float] | np.ndarray,
    velocity: Sequence[int] | np.ndarray,
) -> MergedNotes:
    """Joins notes that meet on one key: struck together they are one key, struck anew the former one ends.

    A key struck by several notes is held as long as the longest of them and sounds as loud as the loudest. One MIDI
    channel cannot hold more: the first note-off of a pitch would end all of its notes.

    Args:
        pitch: `[n]` MIDI numbers, in any order of notes.
        onset: `[n]` in any unit of time.
        offset: `[n]` in the same unit.
        velocity: `[n]` 1..127.
    """
    pitch, onset, offset, velocity = (np.asarray(values) for values in (pitch, onset, offset, velocity))
    order = np.lexsort((onset, pitch))
    pitch, onset, offset, velocity = pitch[order], onset[order], offset[order], velocity[order]
    anew = np.ones(len(pitch), bool)
    anew[1:] = (pitch[1:] != pitch[:-1]) | (onset[1:] != onset[:-1])
    first = np.flatnonzero(anew)
    offset, velocity = np.maximum.reduceat(offset, first), np.maximum.reduceat(velocity, first)
    pitch, onset = pitch[first], onset[first]
    same_key = pitch[1:] == pitch[:-1]
    offset[:-1] = np.where(same_key, np.minimum(offset[:-1], onset[1:]), offset[:-1])
    order = np.lexsort((pitch, onset))
    return MergedNotes(pitch[order], onset[order], offset[order], velocity[order])


@dataclasses.dataclass(frozen=True, eq=False)
class Notes:
    """A sequence of notes in playing order, times in integer microseconds.

    Notes are sorted by (onset, pitch, offset, velocity) when they come from `from_onsets`. The first step is 0: time
    starts with the first onset. The arrays are not to be written to.

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
        """Checks shapes and ranges, and settles the types."""
        count = len(self.pitch)
        for name, low, high in (
            ("pitch", 0, PITCHES - 1),
            ("step_us", 0, MAX_TIME_US),
            ("duration_us", 1, MAX_TIME_US),
            ("velocity", 1, 127),
        ):
            values = np.asarray(getattr(self, name))
            if values.ndim != 1 or len(values) != count:
                raise ValueError(f"{name} has shape {values.shape}, expected ({count},) like pitch")
            if count and not np.issubdtype(values.dtype, np.integer):
                raise ValueError(f"{name} is {values.dtype}, expected integers")
            if count and (values.min() < low or values.max() > high):
                wrong = values[(values < low) | (values > high)][0]
                raise ValueError(f"{name} {wrong} is out of range: expected {low} to {high}")
            dtype = np.uint8 if high < 256 else np.int64
            object.__setattr__(self, name, values.astype(dtype, copy=False))
        if count and self.step_us[0] != 0:
            raise ValueError(f"the first step is {self.step_us[0]} microseconds, expected 0")

    @classmethod
    def from_onsets(
        cls,
        pitch: Sequence[int] | np.ndarray,
        onset_us: Sequence[int] | np.ndarray,
        offset_us: Sequence[int] | np.ndarray,
        velocity: Sequence[int] | np.ndarray,
    ) -> "Notes":
        """Returns the notes sorted by (onset, pitch, offset, velocity), time starting with the first onset.

        Args:
            pitch: `[n]` MIDI numbers, in any order of notes.
            onset_us: `[n]` integer microseconds from any origin.
            offset_us: `[n]` integer microseconds from the same origin.
            velocity: `[n]` 1..127.

        Raises:
            ValueError: as for `Notes`.
        """
        arrays = [np.asarray(values) for values in (pitch, onset_us, offset_us, velocity)]
        if len({values.shape for values in arrays}) > 1:
            raise ValueError(f"shapes differ: {[values.shape for values in arrays]}")
        if not arrays[0].size:
            return cls.empty()
        pitch, onset_us, offset_us, velocity = arrays
        onset_us, offset_us = onset_us.astype(np.int64), offset_us.astype(np.int64)
        # Sorting by one key is several times as fast, and seldom leaves a tie.
        order = np.argsort(onset_us * PITCHES + pitch, kind="stable")
        if np.any((np.diff(onset_us[order]) == 0) & (np.diff(pitch[order]) == 0)):
            order = np.lexsort((velocity, offset_us, pitch, onset_us))
        onset_us = onset_us[order]
        return cls(
            pitch=pitch[order],
            step_us=np.diff(onset_us, prepend=onset_us[0]),
            duration_us=offset_us[order] - onset_us,
            velocity=velocity[order],
        )

    @classmethod
    def empty(cls) -> "Notes":
        """Returns no notes."""
        return cls(*(np.zeros(0, dtype) for dtype in (np.uint8, np.int64, np.int64, np.uint8)))

    def __len__(self) -> int:
        """Returns the number of notes."""
        return len(self.pitch)

    def __getitem__(self, part: slice) -> "Notes":
        """Returns a slice of the notes; time starts anew with its first onset.

        Raises:
            TypeError: `part` is not a slice.
            ValueError: the slice runs backwards.
        """
        if not isinstance(part, slice):
            raise TypeError(f"Notes take a slice, as in notes[:10], not {part!r}")
        if part.step not in (None, 1):
            raise ValueError(f"notes[::{part.step}] would change their times: slice with a step of 1")
        step_us = self.step_us[part].copy()
        step_us[:1] = 0
        return Notes(self.pitch[part], step_us, self.duration_us[part], self.velocity[part])

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

    def equals(self, other: "Notes") -> bool:
        """Returns whether the two hold the same notes in the same order."""
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self)
        )
