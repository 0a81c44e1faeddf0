"""Messages between the page and the server, as JSON; docs/playing.md lists them.

Times are milliseconds of the page's clock in messages, and integer microseconds elsewhere.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from play.improviser import BRANCHES
from play.piece import PlayedNote
from play.session import Branches, Cut, Music, NotesSent, Output, Session, Turn
from play.settings import Settings
from sostenuto.music.notes import PITCHES
from trainer.generation.live import LiveSampler

MAX_TEXT: Final = 4_096  # characters of a message
MAX_FILE: Final = 1 << 20  # bytes of a MIDI file
_MAX_MS: Final = 1e10  # four months
_MAX_EPOCH: Final = 2**53
_MAX_SESSION_ID: Final = 64  # characters


class ProtocolError(Exception):
    """A message that no page sends."""


class Message:
    """A checked message.

    Args:
        text: the JSON.

    Attributes:
        kind: its `type`.
        at_us: its time.

    Raises:
        ProtocolError: the message is malformed.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_TEXT:
            raise ProtocolError(f"message: got {len(text):,} characters, expected at most {MAX_TEXT:,}")
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("message: expected JSON") from error
        if not isinstance(fields, dict):
            raise ProtocolError("message: expected a JSON object")
        self._fields: dict[str, Any] = fields
        self.kind = fields.get("type")
        if self.kind not in ("start", "clock", *_HANDLERS):
            raise ProtocolError("type: got an unknown one")
        at_ms: Any = fields.get("at")
        if not _is_number(at_ms) or not 0 <= at_ms <= _MAX_MS:
            raise ProtocolError(f"at: expected milliseconds from 0 to {_MAX_MS:g}")
        self.at_us = round(at_ms * 1000)

    def integer(self, name: str, lowest: int, highest: int, default: int | None = None) -> int:
        """Returns a field that is an integer; raises ProtocolError if it is not, or is out of its bounds."""
        value = self._fields.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ProtocolError(f"{name}: expected an integer from {lowest} to {highest}")
        return value

    def boolean(self, name: str) -> bool:
        """Returns a field that is true or false; raises ProtocolError if it is not."""
        if not isinstance(self._fields.get(name), bool):
            raise ProtocolError(f"{name}: expected true or false")
        return self._fields[name]

    def session_id(self) -> str:
        """Returns the session to continue, or ""; raises ProtocolError if it is no text of at most 64 characters."""
        session_id = self._fields.get("session", "")
        if not isinstance(session_id, str) or len(session_id) > _MAX_SESSION_ID:
            raise ProtocolError(f"session: expected a text of at most {_MAX_SESSION_ID} characters")
        return session_id

    def settings(self) -> dict[str, Any]:
        """Returns the settings to change; raises ProtocolError if they are no object. Their values are unchecked."""
        settings = self._fields.get("settings")
        if not isinstance(settings, dict):
            raise ProtocolError("settings: expected an object")
        return settings


def handle(session: Session, message: Message) -> list[Output]:
    """Does what a message asks for.

    Raises:
        ProtocolError: a field is malformed.
        UserError: the player asks for what is not possible.
    """
    session.epoch = max(session.epoch, message.integer("epoch", 0, _MAX_EPOCH, default=0))
    return _HANDLERS[message.kind](session, message)


def _key(session: Session, message: Message) -> list[Output]:
    pitch, velocity = message.integer("pitch", 0, PITCHES - 1), message.integer("velocity", 0, 127)
    return session.key(message.at_us, pitch, velocity)


# `start` and `clock` concern the connection, not the session.
_HANDLERS: Final[Mapping[Any, Callable[[Session, Message], list[Output]]]] = {
    "key": _key,
    "pedal": lambda session, message: session.pedal(message.at_us, message.boolean("down")),
    "set": lambda session, message: session.change(message.at_us, message.settings()),
    "continue": lambda session, message: session.go_on(message.at_us),
    "stop": lambda session, message: session.stop(message.at_us),
    "undo": lambda session, message: session.undo(message.at_us),
    "branches": lambda session, message: session.branch(message.at_us),
    "choose": lambda session, message: session.choose(message.at_us, message.integer("branch", -1, BRANCHES - 1)),
    "clear": lambda session, message: session.clear(),
    "save": lambda session, message: session.save(message.at_us),
}


def ready(sampler: LiveSampler, settings: Settings, model: str, *, is_resumed: bool) -> str:
    """Returns the first message to a page."""
    lowest, highest = sampler.pitch_range
    return _dump(
        type="ready", settings=vars(settings), composers=sampler.composers, lowest=lowest, highest=highest, model=model,
        has_density=sampler.has_density, resumed=is_resumed,
    )  # fmt: skip


def error(text: str) -> str:
    """Returns a message for the player."""
    return _dump(type="error", message=" ".join(text.split()))


def encode(output: Output) -> str | bytes:
    """Returns what a session sends, as a message."""
    match output:
        case NotesSent():
            return _dump(type="notes", epoch=output.epoch, notes=[_note(note) for note in output.notes])
        case Cut():
            return _dump(type="cut", at=output.at_us / 1000)
        case Turn():
            latency = {} if output.latency_us is None else {"latency": output.latency_us / 1000}
            return _dump(type="turn", whose="model" if output.is_model else "yours", **latency)
        case Music():
            return _dump(type="music", notes=[_note(note) for note in output.notes])
        case Branches():
            return _dump(type="branches", branches=[[_note(note)[:4] for note in notes] for notes in output.branches])
    return output.data


def _note(note: PlayedNote) -> list[float]:
    return [note.onset_us / 1000, note.pitch, note.duration_us / 1000, note.velocity, note.player]


def _dump(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
