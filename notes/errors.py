"""The exceptions that every command turns into a single line, and not into a traceback."""


class UserError(Exception):
    """What the user gave cannot be used.

    The message is one line: what was given, what was expected, and what to do about it. Commands print it
    without a traceback (see `notes.cli`); a library caller may catch it like any exception.
    """


class FileError(UserError):
    """A file cannot be read or written: for want of space or of permission, or since it is damaged or not there."""


class UnavailableError(FileError):
    """A bucket did not answer for minutes, whatever was tried; later it may, so that commands end with status 75."""
