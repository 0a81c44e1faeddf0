"""Running this project's commands as a user does: in a process of their own, from the repository's root."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def on_busy_machine(seconds: float) -> float:
    """Returns a limit for what takes less on a free machine: as much longer as processes compete for each core."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def run_python(*arguments: str, check: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` with this interpreter and returns status and output; `environment` adds variables."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        check=check,
    )


def on_terminal(*arguments: str, columns: int = 100, **environment: str) -> str:
    """Returns what a terminal gets from `python ARGUMENTS` on stderr; its stdout goes nowhere."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", columns and 24, columns, 0, 0))
    shown = b""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        while True:
            try:
                part = os.read(ours, 10_000)
            except OSError:  # Linux says so where the other side is closed.
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def wait_until(condition: Callable[[], object], seconds: float, problem: str | Callable[[], str]) -> None:
    """Waits for a condition; longer on a busy machine."""
    end = time.monotonic() + on_busy_machine(seconds)
    while not condition():
        assert time.monotonic() < end, problem if isinstance(problem, str) else problem()
        time.sleep(0.1)
