"""Two commands on one output: one is stopped at its n-th write, another runs to its end, the first continues.

`on_disk` stops the process itself; `in_bucket` holds its request in the server.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

from tests.faults.runs import Fault, with_fault
from tests.gcs_server import GcsServer
from tests.processes import REPOSITORY

GIVE_UP_SECONDS = 300


class Ended(NamedTuple):
    """How a command has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """Its last line on stderr, which says why it failed."""
        return self.stderr.splitlines()[-1] if self.stderr else ""


class Overlap(NamedTuple):
    """How two commands have ended, of which the first was stopped; without a second the first ended before."""

    first: Ended
    second: Ended | None

    @property
    def losers(self) -> list[Ended]:
        """Those that did not succeed."""
        return [ended for ended in self if ended is not None and ended.status]


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _end(process: subprocess.Popen) -> Ended:
    stdout, stderr = process.communicate(timeout=GIVE_UP_SECONDS)
    return Ended(process.returncode, stdout, stderr)


def on_disk(module: str, first: list[str], second: list[str], output: os.PathLike | str, write: int) -> Overlap:
    """Stops the first command of a module at a write below a path, until the second has ended."""
    fault = Fault("stopped", "write", re.escape(os.fspath(output)), write)
    with _started(with_fault(fault, module, first)) as process:
        # What it prints by then fits into the pipes.
        result = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert result is not None
        if result.si_code != os.CLD_STOPPED:
            return Overlap(_end(process), None)
        with _started([sys.executable, "-m", module, *second]) as other:
            ended = _end(other)
        process.send_signal(signal.SIGCONT)
        return Overlap(_end(process), ended)


def in_bucket(gcs: GcsServer, module: str, first: list[str], second: list[str], output: str, write: int) -> Overlap:
    """Holds a request of the first command that changes an object below a URI, until the second has ended."""
    is_held, may_continue = threading.Event(), threading.Event()
    path = output.removeprefix("gs://").partition("/")[2]
    left = write

    def hold(method: str, request: str) -> None:
        nonlocal left
        # The body of an upload has the name, its URL has not; no other command writes by then.
        if method in ("POST", "PUT") or (method == "DELETE" and path.replace("/", "%2F") in request):
            left -= 1
            if left == 0:
                is_held.set()
                may_continue.wait(GIVE_UP_SECONDS)

    with _started([sys.executable, "-m", module, *first]) as process:
        gcs.before = hold
        watch = threading.Thread(target=lambda: (process.wait(), is_held.set()))
        watch.start()
        try:
            is_held.wait(GIVE_UP_SECONDS)
            ended = None
            if process.poll() is None:
                with _started([sys.executable, "-m", module, *second]) as other:
                    ended = _end(other)
        finally:
            may_continue.set()
        first_ended = _end(process)
        watch.join()
        gcs.before = lambda method, path: None
    return Overlap(first_ended, ended)
