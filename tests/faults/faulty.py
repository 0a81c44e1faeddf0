"""A command with a fault: at one of its file operations it is killed or stopped, or its disk or clock changes.

Python announces what it is about to do with a file (PEP 578), so that the command itself runs as it is. A full disk is
a limit on the size of files: a write beyond it fails, for Python as for TensorFlow, whoever runs the tests.

Usage: python -m tests.faults.faulty FAULT EVENT PATTERN COUNT MODULE [the command's flags]
FAULT strikes before the COUNT-th audit event EVENT whose arguments match PATTERN. EVENT "write" is any that changes a
file or directory.
  killed                SIGKILL
  stopped               SIGSTOP, of all its threads
  full                  nothing more can be written
  nearly_full           small files still can, weights cannot
  read_only:DIRECTORY   files below it can be read, not written; needs a mount namespace
  vanished:DIRECTORY    it is removed
  clock:SECONDS         from now on, time.time is so much later
  counted:FILE          nothing; at the end, the number of such events is written to the file
"""

import atexit
import os
import pathlib
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

SMALL_FILE = 220 * 2**10  # bytes; less than the weights that the tests train, more than a picture for TensorBoard


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _make_read_only(directory: str) -> None:
    # A mount over it: files that are open for writing would forbid to change the one that they belong to.
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)


def _move_clock(seconds: str) -> None:
    real = time.time
    time.time = lambda: real() + float(seconds)


FAULTS: dict[str, Callable[[str], object]] = {
    "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "full": lambda _: _limit(0),
    "nearly_full": lambda _: _limit(SMALL_FILE),
    "read_only": _make_read_only,
    "vanished": lambda directory: shutil.rmtree(directory, ignore_errors=True),
    "clock": _move_clock,
    "counted": lambda _: None,
}


_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}


def _is_write(name: str, arguments: tuple) -> bool:
    """Tests whether an audit event announces a change of a file or directory."""
    if name != "open":
        return name in _CHANGES
    _, mode, flags = arguments
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or bool(mode and set(mode) & set("wxa+"))


def arm(fault: str, event: str, pattern: str, count: int) -> None:
    """Has the fault strike before the `count`-th such event."""
    kind, _, argument = fault.partition(":")
    seen = 0

    def listen(name: str, arguments: tuple) -> None:
        nonlocal seen
        is_event = _is_write(name, arguments) if event == "write" else name == event
        if is_event and re.search(pattern, " ".join(map(str, arguments))):
            seen += 1
            if seen == count:  # before it, so that what the fault itself does with files does not count
                FAULTS[kind](argument)

    if kind == "counted":
        atexit.register(lambda: pathlib.Path(argument).write_text(str(seen)))
    sys.addaudithook(listen)


if __name__ == "__main__":
    arm(*sys.argv[1:4], int(sys.argv[4]))
    module = sys.argv[5]
    del sys.argv[1:6]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
