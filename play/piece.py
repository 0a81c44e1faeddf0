"""The music of a session, and the model's state after it."""

import bisect
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sostenuto.music.notes import MAX_TIME_US, Notes, Values, merge_overlapping_notes
from trainer.generation.live import LiveSampler, LiveState

YOU, MODEL, FILE = range(3)
"""Who plays a note."""

MAX_NOTES: Final = 50_000  # some 40 minutes at 20 notes per second; older ones are forgotten
_FORGOTTEN: Final = MAX_NOTES // 10  # at once, so that it is rare
_MAX_STATES: Final = 48  # each takes a quarter of a megabyte
_MAX_READ: Final = 1_024  # notes that are read again after a change far back, which takes up to a second

SHORTEST_US: Final = 1_000  # of a note


class PlayedNote(NamedTuple):
    """A note; times are microseconds of the player's clock. Notes sort by onset, then by pitch."""

    onset_us: int
    pitch: int
    duration_us: int
    velocity: int
    player: int


class Piece:
    """The notes of a piece in playing order, with states of the model after some of them.

    Attributes:
        notes: the notes.
        forgotten: the number of notes before them that are no longer held.
    """

    def __init__(self, sampler: LiveSampler, composer: str = "") -> None:
        self._sampler = sampler
        self.notes: list[PlayedNote] = []
        self.forgotten = 0
        # States by the number of notes that they have read, ascending; the first is that before any note.
        self._states: list[tuple[int, LiveState]] = []
        self.set_composer(composer)

    def set_composer(self, composer: str) -> None:
        """Sets the composer in whose style the model plays; raises UserError if the model does not know it.

        The notes are read again now, while those that were sent ahead are played.
        """
        self._start = self._sampler.start(composer)
        self._states = []
        self.state()

    def add(self, note: PlayedNote) -> None:
        """Adds a note at its place."""
        place = bisect.bisect(self.notes, note)
        self.notes.insert(place, note)
        self._forget_states(place)
        self._forget_oldest()

    def remove(self, note: PlayedNote) -> None:
        """Removes a note, if it is there."""
        place = bisect.bisect_left(self.notes, note)
        if place < len(self.notes) and self.notes[place] == note:
            del self.notes[place]
            self._forget_states(place)

    def append(self, notes: Sequence[PlayedNote], state: LiveState) -> None:
        """Adds notes at the end; the state is that after them."""
        self.notes.extend(notes)
        self._keep(len(self.notes), state)
        self._forget_oldest()

    def extend(self, notes: Sequence[PlayedNote]) -> None:
        """Adds notes at the end, in playing order."""
        self.notes.extend(notes)
        self._forget_oldest()

    def remove_from(self, time_us: int) -> None:
        """Removes all notes with onsets from a time on."""
        place = bisect.bisect_left(self.notes, (time_us,))
        del self.notes[place:]
        self._forget_states(place)

    def cut(self, time_us: int, *, release: bool) -> None:
        """Removes the model's and the file's notes that start after a time; with `release`, ends those that sound."""
        place = bisect.bisect_left(self.notes, (time_us + 1,))
        if any(note.player != YOU for note in self.notes[place:]):
            self.notes[place:] = [note for note in self.notes[place:] if note.player == YOU]
            self._forget_states(place)
        if release:
            # A note is at most MAX_TIME_US long, but those that still sound are among the last ones.
            for index in range(max(place - 256, 0), place):
                note = self.notes[index]
                if note.player != YOU and note.onset_us + note.duration_us > time_us:
                    cut_us = max(time_us - note.onset_us, SHORTEST_US)
                    self.notes[index] = note._replace(duration_us=min(note.duration_us, cut_us))
                    self._forget_states(index)

    def state(self, before_us: int | None = None) -> LiveState:
        """Returns the state after all notes, or after those that start before a time."""
        count = len(self.notes) if before_us is None else bisect.bisect_left(self.notes, (before_us,))
        known = bisect.bisect(self._states, count, key=lambda entry: entry[0])
        first, state = self._states[known - 1] if known else (max(count - _MAX_READ, 0), self._start)
        if first < count:
            state = self._sampler.read(state, self.fields(first, count))
            if known == len(self._states):
                self._keep(count, state)
        return state

    def fields(self, first: int, end: int) -> NDArray[np.int64]:
        """Returns notes as the model reads them, `[fields, notes]`: pitch, step, duration and velocity."""
        onset, pitch, duration, velocity, _ = np.array(self.notes[first:end], np.int64).T
        before = self.notes[first - 1].onset_us if first else onset[0]
        step = np.minimum(np.diff(onset, prepend=before), MAX_TIME_US)
        return np.stack([pitch, step, np.clip(duration, 1, MAX_TIME_US), velocity])

    def _keep(self, count: int, state: LiveState) -> None:
        self._states.append((count, state))
        if len(self._states) > _MAX_STATES:
            del self._states[0]

    def _forget_states(self, place: int) -> None:
        """Removes the states that have read the note at a place."""
        while self._states and self._states[-1][0] > place:
            self._states.pop()

    def _forget_oldest(self) -> None:
        if len(self.notes) > MAX_NOTES:
            del self.notes[:_FORGOTTEN]
            self.forgotten += _FORGOTTEN
            self._states = [(count - _FORGOTTEN, state) for count, state in self._states if count > _FORGOTTEN]


def make_played(
    onset_us: Values, pitch: Values, duration_us: Values, velocity: Values, player: int
) -> list[PlayedNote]:
    """Returns the notes of one player from arrays `[n]`."""
    columns = [np.asarray(values).tolist() for values in (onset_us, pitch, duration_us, velocity)]
    return [PlayedNote(*note, player) for note in zip(columns[0], columns[1], columns[2], columns[3], strict=True)]


def to_notes(played: Sequence[PlayedNote]) -> Notes:
    """Returns played notes, in any order, as notes of one keyboard."""
    onset, pitch, duration, velocity, _ = np.array(played, np.int64).reshape(-1, len(PlayedNote._fields)).T
    merged = merge_overlapping_notes(pitch, onset, onset + duration, velocity) if len(played) else None
    return Notes.from_onsets(merged.pitch, merged.onset, merged.offset, merged.velocity) if merged else Notes.empty()
