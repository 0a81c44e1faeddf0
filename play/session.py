"""A session of one player: whose turn it is, what was played, and what the model plays next.

It has no clock and no thread: whoever drives it passes the time, and calls `tick` when `next_tick_us` asks for it.
Times are integer microseconds of the player's clock.
"""

from typing import Any, Final, NamedTuple

from play.files import place_file, write_file
from play.improviser import LEAD_US, Improviser, place
from play.keyboard import Keyboard
from play.piece import FILE, MODEL, YOU, Piece, PlayedNote
from play.settings import Settings
from play.turns import Turns
from sostenuto.music.midi import Sustain
from sostenuto.music.notes import Notes
from trainer.generation.live import LiveSampler

HORIZON_US: Final = 2_000_000  # The model's notes are sent this far ahead.

_CHANGE_US: Final = 250_000  # Changed settings are heard after this time.
_COMPOSER_CHANGE_US: Final = 1_500_000  # Another composer is heard later: the piece is read again.
_SHOWN_NOTES: Final = 2_000
# A change of the others does not change what the model plays.
_HEARD: Final = ("temperature", "top_p", "density", "key", "composer", "seed")


class NotesSent(NamedTuple):
    """Notes to be played at their moments, unless the player's epoch is later by now."""

    notes: list[PlayedNote]
    epoch: int


class Cut(NamedTuple):
    """A time from which on none of the model's notes is played."""

    at_us: int


class Turn(NamedTuple):
    """A new turn.

    Attributes:
        is_model: True for the model's.
        latency_us: from the release of the player's last key, or with hand-over by pedal from its press, to the model's
            first note; None if neither began the turn.
    """

    is_model: bool
    latency_us: int | None = None


class Music(NamedTuple):
    """All notes so far, at most the last 2,000."""

    notes: list[PlayedNote]


class Branches(NamedTuple):
    """Ways to go on, each with its notes; times from the first onset."""

    branches: list[list[PlayedNote]]


class MidiFile(NamedTuple):
    """The music so far, as a MIDI file."""

    data: bytes


Output = NotesSent | Cut | Turn | Music | Branches | MidiFile


class Session:
    """A session of one player; its methods return messages for the player.

    A player raises a number, the epoch, with each request that cancels notes: notes of an earlier epoch, which are on
    their way, are not played.

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
        self._is_pedal_down, self.epoch = False, 0
        self._outputs: list[Output] = []
        self._begin_piece()

    def key(self, at_us: int, pitch: int, velocity: int) -> list[Output]:
        """Handles a key that is pressed, or with velocity 0 released."""
        if not velocity:
            self._keyboard.release(at_us, pitch)
            if not self.is_model:
                self._keyboard.read_ahead()
            return []
        if self.is_model and self.settings.mode == "together":
            self.piece.cut(at_us, release=False)
            self._outputs.append(Cut(at_us + 1))
        else:
            self._end_turn(at_us)
            self._turns.begin(at_us, YOU)
        self._keyboard.press(at_us, pitch, velocity)
        if self.is_model:
            self._keyboard.include_held(at_us)
        return self._take()

    def pedal(self, at_us: int, is_down: bool) -> list[Output]:
        """Handles the sustain pedal; it may hand over to the model."""
        if is_down == self._is_pedal_down:  # A continuous pedal sends many values.
            return []
        self._is_pedal_down = is_down
        if not is_down:
            self._keyboard.release_pedal(at_us)
            if not self.is_model:
                self._keyboard.read_ahead()
        elif self.settings.hand_over != "pedal":
            self._keyboard.press_pedal(at_us)
        elif not self.is_model:
            self._begin_turn(at_us, since_us=at_us)
        return self._take()

    def change(self, at_us: int, changes: dict[str, Any]) -> list[Output]:
        """Changes settings; raises UserError, and changes none, if one is wrong."""
        before, settings = self.settings, self.settings.change(changes)
        self._improviser.set(settings)
        self.settings = settings
        if (settings.mode, settings.hand_over) != (before.mode, before.hand_over):
            self._keyboard.released_us = None  # What was played before is not answered now.
        wait_us = _CHANGE_US
        if settings.composer != before.composer:
            self.piece.set_composer(settings.composer)
            wait_us = _COMPOSER_CHANGE_US
        if self.is_model and any(getattr(settings, name) != getattr(before, name) for name in _HEARD):
            self.piece.cut(at_us + wait_us, release=False)
            self._outputs.append(Cut(at_us + wait_us + 1))
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
        start_us = self._turns.undo()
        if start_us is not None:
            self.piece.remove_from(start_us)
            self._keyboard.forget_from(start_us)
        return [Turn(False), self._music()]

    def branch(self, at_us: int) -> list[Output]:
        """Samples ways to go on."""
        self.stop(at_us)
        self._keyboard.include_held(at_us)
        return [Turn(False), Branches(self._improviser.branch(self.piece))]

    def choose(self, at_us: int, branch: int) -> list[Output]:
        """Plays a branch, and lets the model go on after it; -1 forgets them. Raises UserError for another number."""
        if branch == -1:
            self._improviser.forget_branches()
            return []
        notes = place(self._improviser.choose(branch), at_us + LEAD_US)
        self.stop(at_us)
        self._turns.begin(at_us, MODEL)
        self.piece.extend(notes)
        return self._play_ahead(notes)

    def load(self, at_us: int, notes: Notes) -> list[Output]:
        """Begins a piece with a file's notes: its end is replayed and continued. Raises UserError if there are none."""
        played, before = place_file(notes, at_us)
        stopped = self.stop(at_us)
        self._begin_piece()
        self.piece.extend(played)
        self._turns.begin(played[0].onset_us, FILE)
        self._turns.begin(played[-1].onset_us + 1, MODEL)
        return [*stopped, Music(played[:before][-_SHOWN_NOTES:]), *self._play_ahead(played[before:])]

    def resume(self, lost_us: int) -> list[Output]:
        """Continues the piece over a new connection, with keys and pedal released as the former one was lost."""
        self.stop(lost_us)
        self._keyboard.release_all(lost_us)
        self._is_pedal_down, self.epoch = False, 0
        return [Turn(False), self._music()]

    def clear(self) -> list[Output]:
        """Begins a new piece from silence."""
        self._begin_piece()
        return [Turn(False), self._music()]

    def save(self, at_us: int) -> list[Output]:
        """Returns what was played until now as a MIDI file; raises UserError if nothing was."""
        return [MidiFile(write_file(self.piece, self._keyboard, at_us))]

    def tick(self, now_us: int) -> list[Output]:
        """Lets the model begin after a pause, and sends its next notes if they are due."""
        due_us = self.next_tick_us()
        if due_us is not None and now_us >= due_us:
            if self.is_model:
                self._outputs.append(NotesSent(self._improviser.play_on(self.piece, now_us), self.epoch))
            else:
                self._begin_turn(now_us, since_us=self._keyboard.released_us)
        return self._take()

    def next_tick_us(self) -> int | None:
        """Returns when `tick` is to be called; None while the model waits for the player."""
        if self.is_model:
            return self.piece.notes[-1].onset_us - HORIZON_US if self.piece.notes else 0
        settings, silent_us = self.settings, self._keyboard.silent_us()
        if silent_us is None or settings.mode == "listen" or settings.hand_over != "pause":
            return None
        # So early that the first note comes as the pause ends.
        return silent_us + round(settings.pause * 1e6) - LEAD_US

    def _begin_piece(self) -> None:
        self.piece = Piece(self._improviser.sampler, self.settings.composer)
        self._keyboard = Keyboard(self.piece, self._sustain)
        self._improviser.begin(self.piece)
        self.is_model = False
        self._turns = Turns()

    def _begin_turn(self, now_us: int, since_us: int | None = None) -> None:
        """Begins the model's turn with its first notes; the latency is counted from a time, if there is one."""
        self._keyboard.include_held(now_us)
        self._turns.begin(now_us, MODEL)
        self._improviser.forget_branches()
        self.is_model = True
        self._improviser.listen(self.piece)
        self._keyboard.released_us = None
        notes = self._improviser.play_on(self.piece, now_us, begins=True)
        latency_us = None if since_us is None else notes[0].onset_us - since_us
        self._outputs += [Turn(True, latency_us), NotesSent(notes, self.epoch)]

    def _end_turn(self, at_us: int) -> None:
        """Ends the model's turn, if it is one."""
        if self.is_model:
            self.is_model = False
            self.piece.cut(at_us, release=True)
            self._outputs.append(Turn(False))

    def _play_ahead(self, notes: list[PlayedNote]) -> list[Output]:
        """Sends notes that are in the piece; the model continues them."""
        self.is_model = True
        self._improviser.listen(self.piece)
        return [Turn(True), NotesSent(notes, self.epoch)]

    def _music(self) -> Music:
        return Music(self.piece.notes[-_SHOWN_NOTES:])

    def _take(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs
