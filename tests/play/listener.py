"""A page without a browser: it follows the rules of docs/playing.md, and remembers what was heard."""

from play.piece import MODEL, YOU, PlayedNote
from play.session import Branches, Cut, MidiFile, Music, NotesSent, Output, Session, Turn

LATENCY_US = 5_000  # between a page and its server, in each direction


class Listener:
    """Plays with a session as a page does, on a clock of its own.

    Attributes:
        now_us: the time.
        scheduled: the model's notes that are to come, or sound.
        late: the notes that came after their moment.
        turns: what the session said of turns.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.now_us, self.epoch = session, 0, 0
        self.scheduled: list[PlayedNote] = []
        self.late: list[PlayedNote] = []
        self.turns: list[Turn] = []
        self.music: list[PlayedNote] = []
        self.branches: list[list[PlayedNote]] = []
        self.file: bytes | None = None

    def receive(self, outputs: list[Output]) -> None:
        """Follows what the session sends."""
        for output in outputs:
            match output:
                case NotesSent():
                    if output.epoch >= self.epoch:
                        self.scheduled += output.notes
                        self.late += [note for note in output.notes if note.onset_us < self.now_us]
                case Cut():
                    self.cancel(output.at_us)
                case Turn():
                    self.turns.append(output)
                case Music():
                    self.music = output.notes
                case Branches():
                    self.branches = output.branches
                case MidiFile():
                    self.file = output.data

    def cancel(self, at_us: int, *, release: bool = False) -> None:
        """Drops the model's notes from a time on; with `release`, ends those that sound before it."""
        self.scheduled = [note for note in self.scheduled if note.onset_us < at_us]
        if release:
            self.scheduled = [
                note._replace(duration_us=min(note.duration_us, max(at_us - 1 - note.onset_us, 1000)))
                for note in self.scheduled
            ]

    def wait(self, seconds: float) -> None:
        """Lets time pass, in which the session ticks when it asks to."""
        end_us = self.now_us + round(seconds * 1e6)
        while (due_us := self.session.next_tick_us()) is not None and due_us <= end_us:
            self.now_us = max(self.now_us, due_us)
            self.receive(self.session.tick(self.now_us))
        self.now_us = end_us

    def press(self, pitch: int, velocity: int = 80) -> None:
        if self.session.is_model:
            self.epoch += 1
            self.cancel(self.now_us + 1, release=self.session.settings.mode != "together")
        self.session.epoch = self.epoch
        self.receive(self.session.key(self.now_us, pitch, velocity))

    def release(self, pitch: int) -> None:
        self.receive(self.session.key(self.now_us, pitch, 0))

    def play(self, *pitches: int, seconds: float = 0.1) -> None:
        """Plays notes, one after the other."""
        for pitch in pitches:
            self.press(pitch)
            self.wait(seconds)
            self.release(pitch)

    def request(self, name: str, *arguments) -> None:
        """Calls a method of the session that cancels the model's notes."""
        self.epoch += 1
        self.cancel(self.now_us + 1, release=True)
        self.session.epoch = self.epoch
        self.receive(getattr(self.session, name)(self.now_us, *arguments))

    def heard(self) -> list[PlayedNote]:
        """Returns the model's notes that have begun."""
        return [note for note in self.scheduled if note.onset_us <= self.now_us]

    def in_piece(self, player: int = MODEL) -> list[PlayedNote]:
        """Returns the notes of a player that have begun, as the session remembers them."""
        return [note for note in self.session.piece.notes if note.player == player and note.onset_us <= self.now_us]

    def own(self) -> list[PlayedNote]:
        return self.in_piece(YOU)
