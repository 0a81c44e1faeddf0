"""Ctrl-C while a command's modules are imported: one line, and the process ends at once.

It is the first import of every command: a KeyboardInterrupt would be a traceback here, or be lost in a library.
"""

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from sostenuto.program import command_name, is_command

if TYPE_CHECKING:
    from types import FrameType

_has_arrived = False  # a Ctrl-C since the command began


def end(*_: object) -> NoReturn:
    """Prints one line and ends the process without any cleanup."""
    with contextlib.suppress(OSError):
        os.write(2, f"{command_name()}: interrupted\n".encode())
    os._exit(128 + signal.SIGINT)


def begin_command() -> None:
    """From now on the first Ctrl-C raises KeyboardInterrupt; a later one, or one that Python drops, ends the process.

    A process whose parent has it ignore Ctrl-C, such as a shell's background job, still ignores it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _end_if_dropped


def _interrupt(number: int, frame: "FrameType | None") -> None:
    global _has_arrived
    if _has_arrived:
        end()
    _has_arrived = True
    raise KeyboardInterrupt


def _end_if_dropped(dropped: "sys.UnraisableHookArgs") -> None:
    """Handles an exception that cannot be raised, such as one within a destructor."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        end()
    sys.__unraisablehook__(dropped)


_is_main = threading.current_thread() is threading.main_thread()
if is_command() and _is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end)
