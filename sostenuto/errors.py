"""The project's exceptions. Commands print them as one line, without a traceback."""

from collections.abc import Mapping
from typing import Any


class UserError(Exception):
    """Input or environment that the user has to correct; the message is one line: operand, problem and remedy."""


class TemporaryError(UserError):
    """A failure that may pass without a change. Commands exit with status 75: try again later."""


class GpuError(UserError):
    """A GPU, its driver or its libraries failed. Commands exit with status 71: a few more tries may succeed."""


class GpuMemoryError(GpuError):
    """A GPU has too little memory for what it was given."""


class FileError(UserError):
    """A file cannot be read or written: no space, no permission, no such file, or corrupt content."""


class MissingError(FileError):
    """The bucket has no such object."""


class ChangedError(FileError):
    """Another process wrote the object first."""


class UnavailableError(FileError, TemporaryError):
    """A bucket did not answer within minutes of retries."""


class RecordError(FileError):
    """A record or a TFRecord file is corrupt or of another kind."""


class MidiDecodeError(UserError):
    """A file cannot be read as MIDI.

    Attributes:
        name: the file.
        reason: one word for counting: not_midi, too_large, truncated, smpte, format_2, damaged.
        detail: the problem and its position.
    """

    def __init__(self, name: str, reason: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name, self.reason, self.detail = name, reason, detail

    def __reduce__(self) -> tuple:
        """Pickles the three arguments instead of the message: an error may cross processes."""
        return type(self), (self.name, self.reason, self.detail)


class CannotCompressError(UserError):
    """The library that compresses MP3 is not installed."""


class HeldError(UserError):
    """Another process holds the directory; the message names it."""


class LostError(TemporaryError):
    """Another process has taken over the directory."""


def mismatches(got: Mapping[str, Any], expected: Mapping[str, Any], *, absent: str = "nothing") -> list[str]:
    """Returns the entries in which two mappings differ, as `name: got X, expected Y`, for an error message."""
    return [
        f"{name}: got {got.get(name, absent)}, expected {expected.get(name, absent)}"
        for name in dict.fromkeys([*expected, *got])
        if got.get(name, absent) != expected.get(name, absent)
    ]
