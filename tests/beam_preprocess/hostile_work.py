"""Work for child processes in tests; most of it ends them."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def work(order: tuple, alive: Callable[[], None]) -> object:
    match order:
        case ("double", number):
            return 2 * number
        case ("pid",):
            return os.getpid()
        case ("segfault",):
            ctypes.string_at(0)
        case ("abort",):
            os.abort()
        case ("exit",):
            os._exit(3)
        case ("allocate",):
            hoard = []
            while True:
                hoard.append(bytes(2**24))
        case ("hang",):
            time.sleep(600)
        case ("hang in C",):
            # No Python code runs any more, so no handler of Python's could end it.
            ctypes.PyDLL(None).sleep(600)
        case ("stop",):
            os.kill(os.getpid(), signal.SIGSTOP)
        case ("raise", error):
            raise error
        case ("raise what cannot be pickled",):
            raise ValueError(lambda: 0)
        case ("slow but alive", seconds):
            for _ in range(int(seconds / 0.05)):
                time.sleep(0.05)
                alive()
            return "done"
        case ("die once", marker, number):
            if not Path(marker).exists():
                Path(marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return number
    raise AssertionError(order)


def broken_start() -> Callable:
    raise ImportError("no module named numpy")


class CannotStart:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self) -> tuple:
        return broken_start, ()

    def __call__(self, order: tuple, alive: Callable[[], None]) -> None:
        raise AssertionError
