"""The command as a process, and what its ports hear and play."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import mido

from tests.processes import REPOSITORY

SECONDS: Final = 120  # to start, which takes 15 on an idle machine


@contextlib.contextmanager
def started(*arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Yields a process of the command that is ready, and its first line."""
    command = [sys.executable, "-m", "play", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, line
        finally:
            process.kill()


def end(process: subprocess.Popen, number: signal.Signals) -> tuple[int, str]:
    """Ends a process by a signal; returns its status and what it wrote of it."""
    process.send_signal(number)
    _, error = process.communicate(timeout=SECONDS)
    return process.returncode, error


def still_sounding(received: list[tuple[float, mido.Message]]) -> set[int]:
    """Returns the pitches whose notes have not ended; none may begin while it sounds."""
    sounding = set()
    for _, message in received:
        if message.type == "note_on":
            assert message.note not in sounding
            sounding.add(message.note)
        else:
            sounding.discard(message.note)
    return sounding
