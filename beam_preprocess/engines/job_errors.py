"""Failures of jobs that run elsewhere, as exceptions of this process."""

import re

from sostenuto import errors
from sostenuto.errors import MidiDecodeError, UserError

# A worker's error of this project in the text of a runner's report.
_ERROR = re.compile(rf"{re.escape(errors.__name__)}\.(\w+): (.+?)(?: \[while running [^\n]*)?$", re.MULTILINE)


class JobFailedError(Exception):
    """A job failed, or left no dataset; the message is one line."""


def extract_user_error(text: str) -> UserError | None:
    """Returns a worker's UserError, of its own class, from a runner's report of a failure, or None."""
    # The last one in a traceback is the one that was not handled.
    for name, message in reversed(_ERROR.findall(text)):
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, UserError):
            return UserError(message) if issubclass(kind, MidiDecodeError) else kind(message)
    return None
