"""Early Ctrl-C, while a command's modules are imported: one line instead of a traceback, from this import on."""

import sys
from types import TracebackType

from sostenuto.cli.program import command_name

_show_traceback = sys.excepthook


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints one line for an uncaught `KeyboardInterrupt`; Python then ends by SIGINT, in a shell status 130."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"{command_name()}: interrupted", file=sys.stderr)
    else:
        _show_traceback(kind, error, trace)


sys.excepthook = _show
