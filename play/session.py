"""A session of one player: whose turn it is, what was played, and what the model plays next.

It has no clock and no thread: whoever drives it passes the time, and calls `tick` when `next_tick_us` asks for it.
Times are integer microseconds of the player's clock.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from play.improviser import LEAD_US, Improviser, place
from play.keyboard import Keyboard
from play.piece import FILE, MODEL, YOU, Piece, PlayedNote, to_notes
from play.settings import Settings
from sostenuto.errors import UserError
from sostenuto.music.midi import Sustain, midi_bytes, read_midi
from trainer.generation.live import LiveSampler

HORIZON_US: Final = 2_000_000  # The model's notes are sent this far ahead.
BRANCHES: Final = 3

_CHANGE_US: Final = 250_000  # Changed settings are heard after this time.
_REPLAYED_US: Final = 10_000_000  # of a file
_REPLAY_US: Final = 200_000  # until it begins
_FILE_NOTES: Final = 10_000  # the last ones of a file
_SHOWN_NOTES: Final = 2_000
# A change of the others does not change what the model plays.
_HEARD: Final = ("temperature", "top_p", "density", "key", "composer", "seed")


class NotesSent(NamedTuple):
    """Notes to be played at their moments, unless the player's epoch is later by now."""

    notes: list[PlayedNote]
    epoch: int


class Cut(NamedTuple):
    """The model's notes from this time on are not to be played."""

    at_us: int


class Turn(NamedTuple):
    """A new turn; `latency_us` is the time from the last key released to the model's first note."""

    is_model: bool
    latency_us: int | None = None


class Music(NamedTuple):
    """All notes so far, at most the last 2,000."""

    notes: list[PlayedNote]


class Branches(NamedTuple):
    """Ways to go on, each with its notes; times from the first onset."""

    branches: list[list[PlayedNote]]


class Refusal(NamedTuple):
    """A line for the player: why a file was not loaded."""

    message: str


class MidiFile(NamedTuple):
    """What was played, as a MIDI file."""

    data: bytes


Output = NotesSent | Cut | Turn | Music | Branches | Refusal | MidiFile


class Session:
    """A session of one player; its methods return what is to be sent to the player.

    A player raises a number, the epoch, with each request that cancels notes: notes of an earlier epoch, which are on
    their way, are not to be played.

    Args:
        sampler: of the model.
        settings: of the player.
        sustain: "extend" if durations of the model's dataset include the pedal.

    Attributes:
        settings: of the player.
        epoch: of the player's last request.
        piece: what was played, with what the model is about to play.
        is_model: True in the model's turn.

    Raises:
        UserError: the settings do not suit the model.
    """

    def __init__(self, sampler: LiveSampler, settings: Settings, sustain: Sustain = "ignore") -> None:
        self.settings, self._sustain = settings, sustain
        self._improviser = Improviser(sampler, settings)
        self.epoch = 0
        self._outputs: list[Output] = []
        self._begin_piece()

    def key(self, at_us: int, pitch: int, velocity: int) -> list[Output]:
        """Handles a key that is pressed, or with velocity 0 released."""
        if not velocity:
            self._keyboard.release(at_us, pitch)
            if not self.is_model:
                # What cannot change any more is read at once, so that the answer does not wait for it.
                self.piece.state(before_us=self._keyboard.first_held_us())
            return []
        if self.is_model and self.settings.mode == "together":
            self.piece.cut(at_us, release=False)
            self._outputs.append(Cut(at_us + 1))
        else:
            self._end_turn(at_us)
            if not self._turns or self._turns[-1][1] != YOU:
                self._turns.append((at_us, YOU))
        self._keyboard.press(at_us, pitch, velocity)
        if self.is_model:
            self._keyboard.include_held(at_us)
        return self._take()

    def pedal(self, at_us: int, is_down: bool) -> list[Output]:
        """Handles the sustain pedal; it may hand over to the model."""
        if not is_down:
            self._keyboard.release_pedal(at_us)
        elif self.settings.hand_over != "pedal":
            self._keyboard.press_pedal(at_us)
        elif not self.is_model:
            self._begin_turn(at_us)
        return self._take()

    def change(self, at_us: int, changes: dict[str, Any]) -> list[Output]:
        """Changes settings; raises UserError, and changes none, if one is wrong."""
        before, settings = self.settings, self.settings.change(changes)
        self._improviser.set(settings)
        self.settings = settings
        if settings.composer != before.composer:
            self.piece.set_composer(settings.composer)
        if self.is_model and any(getattr(settings, name) != getattr(before, name) for name in _HEARD):
            self.piece.cut(at_us + _CHANGE_US, release=False)
            self._outputs.append(Cut(at_us + _CHANGE_US))
        self._improviser.listen(self.piece)
        return self._take()

    def go_on(self, at_us: int) -> list[Output]:
        """Lets the model play now, without a pause."""
        if not self.is_model:
            self._begin_turn(at_us)
        return self._take()

    def stop(self, at_us: int) -> list[Output]:
        """Stops the model."""
        self._end_turn(at_us)
        self._keyboard.released_us = None
        return self._take()

    def undo(self, at_us: int) -> list[Output]:
        """Removes the last turn, with what is later."""
        self.stop(at_us)
        self._improviser.attempt += 1
        if self._turns:
            start_us, _ = self._turns.pop()
            self.piece.remove_from(start_us)
            self._keyboard.forget_from(start_us)
        return [Turn(False), self._music()]

    def branch(self, at_us: int) -> list[Output]:
        """Samples ways to go on."""
        self.stop(at_us)
        self._keyboard.include_held(at_us)
        self._branches = [self._improviser.branch(self.piece) for _ in range(BRANCHES)]
        return [Turn(False), Branches([place(branch, -int(branch[1, 0])) for branch in self._branches])]

    def choose(self, at_us: int, branch: int) -> list[Output]:
        """Plays a branch, and lets the model go on after it; -1 forgets them. Raises UserError for another number."""
        branches, self._branches = self._branches, []
        if branch == -1:
            return []
        if not 0 <= branch < len(branches):
            raise UserError(f"branch: got {branch}, but {len(branches)} are there. Ask for branches first")
        self.stop(at_us)
        chosen = branches[branch]
        notes = place(chosen, at_us + LEAD_US - int(chosen[1, 0]))
        self._turns.append((at_us, MODEL))
        self.piece.extend(notes)
        return self._play_ahead(notes)

    def load(self, at_us: int, data: bytes) -> list[Output]:
        """Begins a piece with a MIDI file: its end is replayed, then the model goes on.

        A file that cannot be read, or has no notes, only stops the model.
        """
        stopped = self.stop(at_us)
        try:
            notes = read_midi(data, "the file", sustain=self._sustain).notes[-_FILE_NOTES:]
        except UserError as error:
            return [*stopped, Refusal(str(error))]
        if not len(notes):
            return [*stopped, Refusal("the file: has no notes to go on from. Choose another MIDI file")]
        replayed_from = int(np.searchsorted(notes.onset_us, notes.onset_us[-1] - _REPLAYED_US))
        onset_us = notes.onset_us + (at_us + _REPLAY_US - int(notes.onset_us[replayed_from]))
        columns = (onset_us, notes.pitch, notes.duration_us, notes.velocity)
        played = [PlayedNote(*note, FILE) for note in zip(*(column.tolist() for column in columns), strict=True)]
        self._begin_piece()
        self.piece.extend(played)
        self._turns = [(played[0].onset_us, FILE), (played[-1].onset_us + 1, MODEL)]
        return [Music(played[:replayed_from][-_SHOWN_NOTES:]), *self._play_ahead(played[replayed_from:])]

    def clear(self) -> list[Output]:
        """Begins a new piece from silence."""
        self._begin_piece()
        return [Turn(False), self._music()]

    def save(self, at_us: int) -> list[Output]:
        """Returns what was played until now as a MIDI file; raises UserError if nothing was."""
        held = self._keyboard.held(at_us)
        is_held = {(note.onset_us, note.pitch) for note in held}
        played = [note for note in self.piece.notes if note.onset_us <= at_us and note[:2] not in is_held] + held
        if not played:
            raise UserError("nothing was played yet, so there is nothing to save")
        first_us = min(played).onset_us
        spans = np.array(self._keyboard.pedal(at_us), np.int64).reshape(-1, 2) - first_us
        return [MidiFile(midi_bytes(to_notes(played), np.maximum(spans[spans[:, 1] > 0], 0)))]

    def tick(self, now_us: int) -> list[Output]:
        """Lets the model begin after a pause, and sends its next notes if they are due."""
        due_us = self.next_tick_us()
        if due_us is not None and now_us >= due_us:
            if self.is_model:
                self._outputs.append(NotesSent(self._improviser.play_on(self.piece, now_us), self.epoch))
            else:
                self._begin_turn(now_us)
        return self._take()

    def next_tick_us(self) -> int | None:
        """Returns when `tick` is to be called; None if only the player can go on."""
        if self.is_model:
            return self.piece.notes[-1].onset_us - HORIZON_US if self.piece.notes else 0
        settings, released_us = self.settings, self._keyboard.released_us
        is_waiting = settings.mode != "listen" and settings.hand_over == "pause" and released_us is not None
        if not is_waiting or self._keyboard.first_held_us() is not None:
            return None
        # So early that the first note comes as the pause ends.
        return released_us + round(settings.pause * 1e6) - LEAD_US

    def _begin_piece(self) -> None:
        self.piece = Piece(self._improviser.sampler, self.settings.composer)
        self._keyboard = Keyboard(self.piece, self._sustain)
        self._improviser.attempt = 0
        self._improviser.listen(self.piece)
        self.is_model = False
        self._turns: list[tuple[int, int]] = []  # when each began, and whose it is
        self._branches: list[NDArray[np.int32]] = []

    def _begin_turn(self, now_us: int) -> None:
        """Begins the model's turn with its first notes."""
        self._keyboard.include_held(now_us)
        self._turns.append((now_us, MODEL))
        self.is_model, self._branches = True, []
        self._improviser.listen(self.piece)
        released_us, self._keyboard.released_us = self._keyboard.released_us, None
        notes = self._improviser.play_on(self.piece, now_us)
        latency_us = None if released_us is None else notes[0].onset_us - released_us
        self._outputs += [Turn(True, latency_us), NotesSent(notes, self.epoch)]

    def _end_turn(self, at_us: int) -> None:
        """Ends the model's turn, if it is one."""
        if self.is_model:
            self.is_model = False
            self.piece.cut(at_us, release=True)
            self._outputs.append(Turn(False))

    def _play_ahead(self, notes: list[PlayedNote]) -> list[Output]:
        """Sends notes that are in the piece, after which the model goes on."""
        self.is_model = True
        self._improviser.listen(self.piece)
        self._outputs.clear()
        return [Turn(True), NotesSent(notes, self.epoch)]

    def _music(self) -> Music:
        return Music(self.piece.notes[-_SHOWN_NOTES:])

    def _take(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs
