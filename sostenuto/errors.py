"""The exceptions that every command turns into a single line, and not into a traceback."""

from collections.abc import Mapping
from typing import Any


class UserError(Exception):
    """What the user gave cannot be used.

    The message is one line: what was given, what was expected, and what to do about it. Commands print it
    without a traceback (see `sostenuto.cli`); a library caller may catch it like any exception.
    """


class FileError(UserError):
    """A file cannot be read or written: for want of space or of permission, or since it is damaged or not there."""


class UnavailableError(FileError):
    """A bucket did not answer for minutes, whatever was tried; later it may, so that commands end with status 75."""


def mismatches(got: Mapping[str, Any], expected: Mapping[str, Any], *, absent: str = "nothing") -> list[str]:
    """Returns the entries in which two mappings differ, as `name: got X, expected Y`, for an error message.

    Args:
        got: the values that were given or found.
        expected: the values that they have to equal.
        absent: the text for a value that one of the mappings lacks.
    """
    return [
        f"{name}: got {got.get(name, absent)}, expected {expected.get(name, absent)}"
        for name in dict.fromkeys([*expected, *got])
        if got.get(name, absent) != expected.get(name, absent)
    ]
