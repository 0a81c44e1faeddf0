"""Repetition within a piece, by the distance back to what is repeated (NumPy only).

Two places match if their notes have the same pitches, one by one: no transposition, no change of the order within a
chord, any rhythm.
"""

import itertools
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sostenuto.music.notes import Notes
from trainer.data.matches import previous_equal
from trainer.workdir.form_formats import DISTANCES, Distance

NGRAM: Final = 8
"""Notes of the shortest match."""

_PITCH_BITS: Final = 7
# The greatest distance of each class but the last.
_BOUNDS: Final = np.array([32, 128, 512, 2048])


class Repeat(NamedTuple):
    """A run of notes that match the notes some distance before them: positions of its first and last one."""

    first: int
    last: int
    distance: int


def earlier_places(pitch: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns how far back the `NGRAM` pitches from each position last began, `[notes - NGRAM + 1]`; 0 for never.

    The earlier place may overlap: in a trill, it is two notes back.
    """
    if len(pitch) < NGRAM:
        return np.zeros(0, np.int64)
    # Eight pitches of seven bits are one number, which identifies them.
    keys = np.lib.stride_tricks.sliding_window_view(pitch.astype(np.int64), NGRAM) @ (
        1 << _PITCH_BITS * np.arange(NGRAM)
    )
    previous = previous_equal(keys)
    return np.where(previous >= 0, np.arange(len(keys)) - previous, 0)


def repeated_notes(notes: Notes, first: int = 0) -> dict[Distance, float]:
    """Computes the shares of the notes from `first` on that match an earlier place, by its distance.

    A match is `NGRAM` successive notes or more. Of several earlier places that a note matches, the nearest counts, so
    each note is in one class at most. An earlier place may overlap with the match, and be before `first`.
    """
    back = earlier_places(notes.pitch)
    far = len(notes) + 1
    nearest = np.full(len(notes), far)
    places = np.where(back > 0, back, far)
    for offset in range(NGRAM if len(places) else 0):
        covered = nearest[offset : offset + len(places)]
        np.minimum(covered, places, out=covered)
    found = nearest[first:][nearest[first:] < far]
    counts = np.bincount(np.searchsorted(_BOUNDS, found), minlength=len(DISTANCES))
    return {name: int(count) / max(len(notes) - first, 1) for name, count in zip(DISTANCES, counts, strict=True)}


def find_repeats(notes: Notes) -> list[Repeat]:
    """Lists the runs of notes that match the nearest earlier place of their pitches, by position."""
    back = earlier_places(notes.pitch)
    edges = np.flatnonzero(np.diff(back, prepend=0, append=0))
    return [
        Repeat(int(start), int(end) + NGRAM - 2, int(back[start]))
        for start, end in itertools.pairwise(edges)
        if back[start]
    ]
