"""The trainer with a fault: at one of its file operations it is killed, or the disk is full from there on.

Python announces what it is about to do with a file (PEP 578), so that the trainer itself runs as it is. A full disk is
a limit on the size of files: a write beyond it fails, for Python as for TensorFlow, whoever runs the tests.

Usage: python -m tests.faults.faulty FAULT EVENT PATTERN COUNT [the trainer's flags]
FAULT strikes before the COUNT-th audit event EVENT whose arguments match PATTERN:
  killed         SIGKILL
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
    "full": lambda: _limit(0),
    "nearly_full": lambda: _limit(SMALL_FILE),
}


def arm(fault: str, event: str, pattern: str, count: int) -> None:
    """Has the fault strike before the `count`-th such event."""
    left = count

    def listen(name: str, arguments: tuple) -> None:
        nonlocal left
        if name == event and re.search(pattern, " ".join(map(str, arguments))):
            left -= 1
            if left == 0:
                FAULTS[fault]()

    sys.addaudithook(listen)


if __name__ == "__main__":
    arm(*sys.argv[1:4], int(sys.argv[4]))
    del sys.argv[1:5]
    runpy.run_module("trainer", run_name="__main__", alter_sys=True)
