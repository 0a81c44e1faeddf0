"""Histograms of a corpus: counts of notes by value, additive over performances."""

import dataclasses

import numpy as np

from sostenuto.music.notes import FIELDS, MAX_TICK, PITCHES, TICK_US, Notes, ticks

_BINS = {"pitch": PITCHES, "step": MAX_TICK + 1, "duration": MAX_TICK + 1, "velocity": 128}


@dataclasses.dataclass(frozen=True, eq=False)
class Histograms:
    """Counts of notes by value, one histogram per field.

    The first note of a performance has no step, so `step` counts one note fewer for each performance.

    Attributes:
        pitch: int64 `[128]`, by MIDI number.
        step: int64 `[1001]`, by tick of 10 ms; the last bin counts 10 s and more.
        duration: int64 `[1001]`, likewise.
        velocity: int64 `[128]`, by velocity.

    Raises:
        ValueError: a histogram has another shape or a negative count.
    """

    pitch: np.ndarray
    step: np.ndarray
    duration: np.ndarray
    velocity: np.ndarray

    def __post_init__(self) -> None:
        for field in FIELDS:
            counts = np.asarray(getattr(self, field), np.int64)
            if counts.shape != (_BINS[field],) or counts.min() < 0:
                raise ValueError(f"histogram of {field}: got shape {counts.shape}, expected ({_BINS[field]},) counts")
            object.__setattr__(self, field, counts)

    @classmethod
    def zeros(cls) -> "Histograms":
        """Returns histograms of no notes."""
        return cls(**{field: np.zeros(bins, np.int64) for field, bins in _BINS.items()})

    @classmethod
    def from_notes(cls, notes: Notes) -> "Histograms":
        """Returns the histograms of one performance."""
        return cls(
            pitch=np.bincount(notes.pitch, minlength=PITCHES),
            step=np.bincount(ticks(notes.step_us[1:]), minlength=MAX_TICK + 1),
            duration=np.bincount(ticks(notes.duration_us), minlength=MAX_TICK + 1),
            velocity=np.bincount(notes.velocity, minlength=128),
        )

    def __add__(self, other: "Histograms") -> "Histograms":
        """Returns the histograms of both corpora together."""
        return Histograms(**{field: getattr(self, field) + getattr(other, field) for field in FIELDS})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histograms):
            return NotImplemented
        return all(np.array_equal(getattr(self, field), getattr(other, field)) for field in FIELDS)

    def quantile(self, field: str, q: float) -> float:
        """Returns the smallest value of a field that at least a fraction `q`, 0..1, of the notes do not exceed.

        It is a MIDI number, a velocity, or seconds (a multiple of 0.01); nan without notes.

        Raises:
            ValueError: an unknown field, or q outside 0..1.
        """
        if field not in FIELDS:
            raise ValueError(f"field: got {field!r}, expected one of {', '.join(FIELDS)}")
        if not 0 <= q <= 1:
            raise ValueError(f"quantile: got {q}, expected 0 to 1")
        cumulative = np.cumsum(getattr(self, field))
        if not cumulative[-1]:
            return float("nan")
        # At least one note, so that the quantile 0 is the smallest value that occurs.
        value = int(np.searchsorted(cumulative, max(q * cumulative[-1], 1)))
        return value * TICK_US / 1e6 if field in ("step", "duration") else float(value)

    def to_json(self) -> dict[str, list[int]]:
        """Returns one list of counts per field, without the zeros at its end."""
        return {field: np.trim_zeros(getattr(self, field), "b").tolist() for field in FIELDS}

    @classmethod
    def from_json(cls, document: dict[str, list[int]]) -> "Histograms":
        """Returns the histograms that `to_json` wrote.

        Raises:
            ValueError: a field is missing, has too many bins or a count of more notes than any corpus.
        """
        for field, bins in _BINS.items():
            if field not in document or len(document[field]) > bins:
                raise ValueError(f"histogram of {field}: missing or more than {bins} bins")
            if max(document[field], default=0) >= 2**48:
                raise ValueError(f"histogram of {field}: got a count of {max(document[field])}, expected below 2**48")
        return cls(
            **{field: np.pad(document[field], (0, bins - len(document[field]))) for field, bins in _BINS.items()}
        )
