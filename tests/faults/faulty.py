"""A command with a fault: at one of its file operations it is killed or stopped, or the disk is full from there on.

Python announces what it is about to do with a file (PEP 578), so that the command itself runs as it is. A full disk is
a limit on the size of files: a write beyond it fails, for Python as for TensorFlow, whoever runs the tests.

Usage: python -m tests.faults.faulty FAULT EVENT PATTERN COUNT MODULE [the command's flags]
FAULT strikes before the COUNT-th audit event EVENT whose arguments match PATTERN. EVENT "write" is any that changes a
file or directory.
  killed         SIGKILL
  stopped        SIGSTOP, of all its threads
  full           nothing more can be written
  nearly_full    small files still can, weights cannot
"""

import os
import re
import resource
import runpy
import signal
import sys

SMALL_FILE = 220 * 2**10  # bytes; less than the weights that the tests train, more than a picture for TensorBoard


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


FAULTS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "full": lambda: _limit(0),
    "nearly_full": lambda: _limit(SMALL_FILE),
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
    left = count

    def listen(name: str, arguments: tuple) -> None:
        nonlocal left
        is_event = _is_write(name, arguments) if event == "write" else name == event
        if is_event and re.search(pattern, " ".join(map(str, arguments))):
            left -= 1
            if left == 0:
                FAULTS[fault]()

    sys.addaudithook(listen)


if __name__ == "__main__":
    arm(*sys.argv[1:4], int(sys.argv[4]))
    module = sys.argv[5]
    del sys.argv[1:6]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
