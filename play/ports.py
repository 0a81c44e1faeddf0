"""Playing through MIDI ports, for those with a digital piano or a DAW, without a page."""

import contextlib
import heapq
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import mido

from play.piece import PlayedNote
from play.session import Cut, NotesSent, Output, Session, Turn
from play.settings import Settings
from sostenuto.errors import UserError
from sostenuto.music.midi import Sustain
from trainer.generation.live import LiveSampler

VIRTUAL: Final = "virtual"
OUR_NAME: Final = "Sostenuto"

_PEDAL: Final = 64  # controller
_PEDAL_DOWN: Final = 64  # from this value on
_MOST_HEARD: Final = 10_000  # messages that wait; later ones of a flood are dropped


class Port(Protocol):
    """A port of mido."""

    name: str

    def send(self, message: mido.Message) -> None:
        """Sends a message."""


@contextlib.contextmanager
def open_ports(midi_in: str, midi_out: str) -> Iterator[tuple["Hearing", Any]]:
    """Opens an input and an output port, and closes them on exit.

    Args:
        midi_in: the name, or a part of it; "virtual" opens a port of our own that other programs find.
        midi_out: likewise.

    Raises:
        UserError: there is no such port, or the system has no MIDI.
    """
    hearing = Hearing()
    with contextlib.ExitStack() as stack:
        try:
            with _silenced_stderr():
                name = _find_port("midi_in", midi_in, mido.get_input_names)
                port = mido.open_input(name, virtual=midi_in == VIRTUAL, callback=hearing.hear)
                hearing.name = stack.enter_context(port).name
                name = _find_port("midi_out", midi_out, mido.get_output_names)
                played = stack.enter_context(mido.open_output(name, virtual=midi_out == VIRTUAL))
        except (ImportError, OSError, SystemError, RuntimeError) as error:
            raise UserError(
                f"--midi_in={midi_in} --midi_out={midi_out}: the system's MIDI ports cannot be used ({error}). Leave "
                "the flags out to play in the browser"
            ) from error
        yield hearing, played


@contextlib.contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Silences the system's MIDI library, which prints a failure besides reporting it."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _find_port(flag: str, given: str, list_names: Callable[[], list[str]]) -> str:
    """Returns the name of the port that the user means."""
    if given == VIRTUAL:
        return OUR_NAME
    names = list_names()
    found = [name for name in names if name == given] or [name for name in names if given.lower() in name.lower()]
    if len(found) != 1:
        raise UserError(
            f"--{flag}={given}: got {len(found)} ports of this name, expected one. "
            f"Ports: {', '.join(names) or 'none'}; or pass {VIRTUAL} for one of our own"
        )
    return found[0]


class Hearing:
    """The messages of a port, each with the time at which it came.

    Attributes:
        name: of the port.
    """

    def __init__(self) -> None:
        self.name = ""
        self._messages: queue.Queue[tuple[int, mido.Message]] = queue.Queue(_MOST_HEARD)

    def hear(self, message: mido.Message) -> None:
        """Takes a message from the port's thread."""
        with contextlib.suppress(queue.Full):
            self._messages.put_nowait((self.now_us(), message))

    def next_message(self, until_us: int | None) -> tuple[int, mido.Message] | None:
        """Returns the next message and its time; None if none comes until then."""
        timeout = None if until_us is None else max((until_us - self.now_us()) / 1e6, 0)
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            return None

    def now_us(self) -> int:
        """Returns the time in microseconds."""
        return round(time.monotonic() * 1e6)


class Playing:
    """Plays notes on a port at their moments, in a thread of its own, since sampling takes longer than a note may wait.

    Args:
        port: the port.
        now_us: the time in microseconds.
    """

    def __init__(self, port: Port, now_us: Callable[[], int]) -> None:
        self._port, self._now_us = port, now_us
        self._events: list[tuple[int, int, int, int, int]] = []  # time, 0 for an end, pitch, velocity, number
        self._numbers = itertools.count()
        self._sounding: dict[int, int] = {}  # the number of the note that sounds on each pitch
        self._changed = threading.Condition()
        self._has_ended = False

    def add(self, notes: list[PlayedNote]) -> None:
        """Plays notes at their moments."""
        with self._changed:
            for note in notes:
                number = next(self._numbers)
                heapq.heappush(self._events, (note.onset_us, 1, note.pitch, note.velocity, number))
                heapq.heappush(self._events, (note.onset_us + note.duration_us, 0, note.pitch, 0, number))
            self._changed.notify()

    def cut(self, at_us: int) -> None:
        """Drops the notes that start from a time on."""
        with self._changed:
            dropped = {event[4] for event in self._events if event[1] and event[0] >= at_us}
            self._events = [event for event in self._events if event[4] not in dropped]
            heapq.heapify(self._events)

    def stop(self) -> None:
        """Drops all notes, and ends those that sound."""
        with self._changed:
            self._events.clear()
            for pitch in self._sounding:
                self._port.send(mido.Message("note_off", note=pitch))
            self._sounding.clear()

    def end(self) -> None:
        """Ends the thread, and all notes."""
        with self._changed:
            self._has_ended = True
            self._changed.notify()
        self.stop()

    def run(self) -> None:
        """Plays until `end` is called."""
        with self._changed:
            while not self._has_ended:
                self._play_due()
                wait = max((self._events[0][0] - self._now_us()) / 1e6, 0) if self._events else None
                self._changed.wait(wait)

    def _play_due(self) -> None:
        now_us = self._now_us()
        while self._events and self._events[0][0] <= now_us:
            _, is_start, pitch, velocity, number = heapq.heappop(self._events)
            if is_start:
                if pitch in self._sounding:
                    self._port.send(mido.Message("note_off", note=pitch))
                self._sounding[pitch] = number
                self._port.send(mido.Message("note_on", note=pitch, velocity=velocity))
            elif self._sounding.get(pitch) == number:
                # Another note of the pitch may have begun since.
                del self._sounding[pitch]
                self._port.send(mido.Message("note_off", note=pitch))


def play(
    sampler: LiveSampler, settings: Settings, hearing: Hearing, port: Port, *, sustain: Sustain = "ignore"
) -> None:
    """Plays through ports until an exception ends it, as Ctrl-C does.

    Args:
        sampler: of the model.
        settings: of the player.
        hearing: the port that is heard.
        port: the port that is played on.
        sustain: as for `Session`.
    """
    session, playing = Session(sampler, settings, sustain), Playing(port, hearing.now_us)
    thread = threading.Thread(target=playing.run, name="port", daemon=True)
    thread.start()
    try:
        while True:
            heard = hearing.next_message(session.next_tick_us())
            outputs = hear(session, *heard) if heard else []
            for output in [*outputs, *session.tick(hearing.now_us())]:
                perform(playing, output)
    finally:
        playing.end()
        thread.join()


def hear(session: Session, at_us: int, message: mido.Message) -> list[Output]:
    """Returns what a session answers to a message of a port; messages that are no keys and no pedal mean nothing."""
    if message.type == "note_on" or message.type == "note_off":
        velocity = message.velocity if message.type == "note_on" else 0
        return session.key(at_us, message.note, velocity)
    if message.type == "control_change" and message.control == _PEDAL:
        return session.pedal(at_us, message.value >= _PEDAL_DOWN)
    return []


def perform(playing: Playing, output: Output) -> None:
    """Plays what a session sends."""
    match output:
        case NotesSent():
            playing.add(output.notes)
        case Cut():
            playing.cut(output.at_us)
        case Turn(is_model=False):
            playing.stop()
