"""Music that repeats itself, as random pitches would not; its matches and alignments by their definition."""

import dataclasses

import numpy as np

from trainer.data.alignments import ALIGNMENTS, STRONGEST
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


@dataclasses.dataclass
class Aligned:
    """An alignment at a note.

    Attributes:
        place: number of the passage's note that is aligned with it.
        shift: semitones from the passage to its repeat.
        strength: as in `trainer.data.alignments.Alignments`.
        played: numbers of the passage's notes that were played.
    """

    place: int
    shift: int
    strength: int
    played: set[int]

    def open_places(self) -> list[int]:
        """Returns the places that the next note may play."""
        return [place for place in range(self.place - 1, self.place + 4) if place not in self.played]


def alignments_by_definition(pitch: np.ndarray) -> list[list[Aligned]]:
    """Returns the alignments at each note of one performance, the strongest first."""
    matches = matches_by_definition(pitch)
    alignments: list[Aligned] = []
    at_notes = []
    for note, key in enumerate(pitch):
        for alignment in alignments:
            there = [p for p in alignment.open_places() if p < note and pitch[p] + alignment.shift == key]
            alignment.place += 1
            if there:
                alignment.played.add(min(there, key=lambda place: (abs(place - alignment.place), place)))
                alignment.strength = min(alignment.strength + 1, STRONGEST)
            else:
                alignment.strength //= 2
        for index in reversed(range(len(SAME_PITCHES), CONTEXTS)):
            if matches[note, index]:
                length, place = TRANSPOSED[index - len(SAME_PITCHES)], note - matches[note, index]
                _correct(alignments, Aligned(place, key - pitch[place], length, set(range(place + 1))))
                break
        alignments = [one for one in alignments if one.strength and note - one.place < MEMORY_LENGTH - 4]
        alignments.sort(key=lambda one: -one.strength)
        if len(alignments) == ALIGNMENTS and len({(one.place, one.shift) for one in alignments}) == 1:
            alignments.pop()
        at_notes.append([dataclasses.replace(one, played=set(one.played)) for one in alignments])
    return at_notes


def _correct(alignments: list[Aligned], match: Aligned) -> None:
    """Moves alignments near a match to it, or else replaces the weakest by it, if that is weaker."""
    near = [
        one for one in alignments if one.strength and one.shift == match.shift and abs(one.place - match.place) <= 8
    ]
    for alignment in near:
        if alignment.place != match.place:
            alignment.place, alignment.played = match.place, set(match.played)
        alignment.strength = max(alignment.strength, match.strength)
    if not near:
        alignments += [Aligned(0, 0, 0, set()) for _ in range(ALIGNMENTS - len(alignments))]
        weakest = min(range(ALIGNMENTS), key=lambda index: alignments[index].strength)
        if alignments[weakest].strength < match.strength:
            alignments[weakest] = match


def recall_of(notes: NoteTensors) -> tuple[PitchRecall, TimeRecall]:
    """Returns what is recalled for each note of performances `[batch, notes]`, the first included."""
    batch, length = notes.pitch.shape
    rows = np.empty(batch * length, [("pitch", "u1"), ("velocity", "u1"), ("step_us", "<i4"), ("duration_us", "<i4")])
    for field in rows.dtype.names or ():
        rows[field] = np.ravel(getattr(notes, field))
    table = NoteTable(rows, np.arange(batch + 1) * length)
    return RecallTable(table).in_performances(np.arange(batch), np.arange(-1, length))
