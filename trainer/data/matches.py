"""Matches: earlier places of a performance where its newest notes occurred before.

A context is the set of the last k notes, in any order, because performers play the notes of a chord in any order. Two
kinds of context count as equal: those of the same pitches, and those with the same pitches relative to the newest one,
which are transposed repeats. A note has, for each context, its `RANKS` most recent matches among the `MEMORY_LENGTH`
notes up to it. They depend on pitches alone.
"""

import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

MEMORY_LENGTH: Final = 4096
"""The distance back to a match is below this."""

SAME_PITCHES: Final = (2, 3)
"""Lengths in notes of the contexts that match at the same pitches."""

TRANSPOSED: Final = (3, 6)
"""Lengths in notes of the contexts that match transposed too."""

LONGEST_CONTEXT: Final = max(SAME_PITCHES + TRANSPOSED)
CONTEXTS: Final = len(SAME_PITCHES) + len(TRANSPOSED)
RANKS: Final = 2
MATCHES: Final = RANKS * CONTEXTS
"""Matches of a note: the most recent one for each context, then the one before it for each context."""

IS_TRANSPOSED: Final = len(SAME_PITCHES) <= np.arange(MATCHES) % CONTEXTS
"""Which of a note's matches may be transposed, bool `[MATCHES]`."""

CODES: Final = 1 << 24
"""Contexts are compared by codes below this, which float32 holds exactly. Two different ones share a code with a
probability of 1 in 2**24, which is accepted."""

# A random number for each pitch and each difference of pitches, modulo 256. The code of a set is their sum.
PITCH_CODES: Final = np.random.Generator(np.random.Philox(key=19)).integers(0, CODES, 256, np.int64)


def find_matches(pitch: NDArray[np.integer], offsets: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Returns the distance back to each match of each note, `[notes, MATCHES]`; 0 stands for none.

    Args:
        pitch: of all notes, performance after performance, `[notes]`.
        offsets: `[performances + 1]`, as in `trainer.data.note_table.NoteTable`.
    """
    matches = np.empty((len(pitch), MATCHES), np.uint16)
    # One performance at a time takes little memory, however many there are.
    for start, stop in itertools.pairwise(offsets.tolist()):
        _fill_matches(matches[start:stop], pitch[start:stop].astype(np.int64))
    return matches


def contexts(pitch: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yields length and codes `[notes]` of each kind of context; without enough notes, a code is arbitrary."""
    for lengths, newest in ((SAME_PITCHES, 0), (TRANSPOSED, pitch)):
        code = np.zeros_like(pitch)
        for back in range(max(lengths)):
            code += PITCH_CODES[(np.roll(pitch, back) - newest) % 256]
            if back + 1 in lengths:
                yield back + 1, code % CODES


def _fill_matches(matches: NDArray[np.uint16], pitch: NDArray[np.int64]) -> None:
    """Writes the matches of a performance."""
    number = np.arange(len(pitch))
    for context, (length, code) in enumerate(contexts(pitch)):
        # A note without enough notes before it has a key of its own.
        previous = previous_equal(np.where(number >= length - 1, code, -1 - number))
        place = previous
        for rank in range(RANKS):
            distance = number - place
            is_match = (place >= 0) & (distance < MEMORY_LENGTH)
            matches[:, rank * CONTEXTS + context] = np.where(is_match, distance, 0)
            place = np.where(is_match, previous[place], -1)


def previous_equal(key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the last index before each one with the same key, or -1: `[notes]` both."""
    order = np.argsort(key, kind="stable")
    is_same = key[order[1:]] == key[order[:-1]]
    previous = np.full(len(key), -1)
    previous[order[1:][is_same]] = order[:-1][is_same]
    return previous
