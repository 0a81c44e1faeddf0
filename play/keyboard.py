"""The player's keys and sustain pedal, as notes of a piece."""

from typing import Final

from play.piece import SHORTEST_US, YOU, Piece, PlayedNote
from sostenuto.music.midi import Sustain

_HELD_US: Final = 250_000  # duration of a key that is still down, at least, as the model reads it
_MAX_SPANS: Final = 20_000  # of the pedal; older ones are forgotten


class Keyboard:
    """The keys that are down, and the pedal.

    Args:
        piece: gets a note when its key is released.
        sustain: "extend" makes a note as long as the pedal sustains it.

    Attributes:
        released_us: the last time at which a key was released; None if none was since the model played.
    """

    def __init__(self, piece: Piece, sustain: Sustain) -> None:
        self._piece, self._extends = piece, sustain == "extend"
        self.released_us: int | None = None
        self._held: dict[int, PlayedNote] = {}  # with duration 0 until the piece has it
        self._sustained: dict[int, PlayedNote] = {}
        self._down_us: int | None = None
        self._spans: list[tuple[int, int]] = []

    def press(self, at_us: int, pitch: int, velocity: int) -> None:
        """Presses a key."""
        if pitch in self._held:
            self.release(at_us, pitch)
        if pitch in self._sustained:
            self._end_sustained(at_us, pitch)
        self._held[pitch] = PlayedNote(at_us, pitch, 0, velocity, YOU)

    def release(self, at_us: int, pitch: int) -> None:
        """Releases a key, if it is down."""
        held = self._held.pop(pitch, None)
        if held is None:
            return
        self._piece.remove(held)
        note = held._replace(duration_us=max(at_us - held.onset_us, SHORTEST_US))
        self._piece.add(note)
        self.released_us = at_us
        if self._extends and self._down_us is not None:
            self._sustained[pitch] = note

    def release_all(self, at_us: int) -> None:
        """Releases all keys and the pedal, without an answer to it."""
        for pitch in list(self._held):
            self.release(at_us, pitch)
        self.release_pedal(at_us)
        self.released_us = None

    def press_pedal(self, at_us: int) -> None:
        """Presses the pedal."""
        if self._down_us is None:
            self._down_us = at_us

    def release_pedal(self, at_us: int) -> None:
        """Releases the pedal, if it is down."""
        if self._down_us is not None:
            self._spans.append((self._down_us, max(at_us, self._down_us + SHORTEST_US)))
            del self._spans[:-_MAX_SPANS]
            self._down_us = None
        for pitch in list(self._sustained):
            self._end_sustained(at_us, pitch)

    def include_held(self, now_us: int) -> None:
        """Adds the keys that are down to the piece, with a duration until it is known."""
        for pitch, note in self._held.items():
            if not note.duration_us:
                self._held[pitch] = note._replace(duration_us=max(now_us - note.onset_us, _HELD_US))
                self._piece.add(self._held[pitch])

    def read_ahead(self) -> None:
        """Lets the model read what cannot change any more, so that the answer does not wait for it."""
        self._piece.state(before_us=min((note.onset_us for note in self._held.values()), default=None))

    def silent_us(self) -> int | None:
        """Returns the time of the last release since the model played; None without one, or while a key is down."""
        return None if self._held else self.released_us

    def held(self, at_us: int) -> list[PlayedNote]:
        """Returns the keys that are down, as if they were released at a time."""
        return [note._replace(duration_us=max(at_us - note.onset_us, SHORTEST_US)) for note in self._held.values()]

    def pedal(self, at_us: int) -> list[tuple[int, int]]:
        """Returns when the pedal was down until a time."""
        return [*self._spans, *([(self._down_us, at_us)] if self._down_us is not None else [])]

    def forget_from(self, time_us: int) -> None:
        """Forgets the keys and the pedal from a time on."""
        self._held = {pitch: note for pitch, note in self._held.items() if note.onset_us < time_us}
        self._sustained.clear()
        self._spans = [span for span in self._spans if span[0] < time_us]
        self.released_us = None

    def _end_sustained(self, at_us: int, pitch: int) -> None:
        note = self._sustained.pop(pitch)
        self._piece.remove(note)
        self._piece.add(note._replace(duration_us=max(at_us - note.onset_us, note.duration_us)))
