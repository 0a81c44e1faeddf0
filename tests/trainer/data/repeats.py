"""Music that repeats itself, as random pitches would not; its matches by their definition, and what they recall."""

import numpy as np

from trainer.data.matches import CONTEXTS, MATCHES, MEMORY_LENGTH, RANKS, SAME_PITCHES, TRANSPOSED
from trainer.data.note_table import NoteTable
from trainer.data.note_tensors import NoteTensors
from trainer.data.recall import PitchRecall, TimeRecall
from trainer.data.recall_table import RecallTable


def repeating_pitches(notes: int, seed: int) -> np.ndarray:
    """Returns pitches of a piece whose phrases return: as they were, transposed, with two notes exchanged."""
    random = np.random.default_rng(seed)
    phrases = [random.integers(40, 80, random.integers(3, 14)) for _ in range(4)]
    piece: list[int] = []
    while len(piece) < notes:
        phrase = phrases[random.integers(4)] + random.integers(-2, 3) * random.integers(2)
        if random.random() < 0.5:
            place = random.integers(len(phrase) - 1)
            phrase[[place, place + 1]] = phrase[[place + 1, place]]
        piece += [*phrase, *random.integers(21, 109, random.integers(3))]
    return np.array(piece[:notes], np.int64)


def matches_by_definition(pitch: np.ndarray) -> np.ndarray:
    """Returns the distances of `find_matches` for one performance, from sorted lists of the notes themselves."""
    matches = np.zeros((len(pitch), MATCHES), int)
    contexts = [(length, False) for length in SAME_PITCHES] + [(length, True) for length in TRANSPOSED]
    for index, (length, is_transposed) in enumerate(contexts):
        places: dict[tuple[int, ...], list[int]] = {}
        for note in range(length - 1, len(pitch)):
            notes = pitch[note - length + 1 : note + 1] - (pitch[note] if is_transposed else 0)
            earlier = places.setdefault(tuple(sorted(notes)), [])
            near = [note - place for place in reversed(earlier) if note - place < MEMORY_LENGTH]
            for rank, distance in enumerate(near[:RANKS]):
                matches[note, rank * CONTEXTS + index] = distance
            earlier.append(note)
    return matches


def recall_of(notes: NoteTensors) -> tuple[PitchRecall, TimeRecall]:
    """Returns what is recalled for each note of performances `[batch, notes]`, the first included."""
    batch, length = notes.pitch.shape
    rows = np.empty(batch * length, [("pitch", "u1"), ("velocity", "u1"), ("step_us", "<i4"), ("duration_us", "<i4")])
    for field in rows.dtype.names or ():
        rows[field] = np.ravel(getattr(notes, field))
    table = NoteTable(rows, np.arange(batch + 1) * length)
    return RecallTable(table).in_performances(np.arange(batch), np.arange(-1, length))
