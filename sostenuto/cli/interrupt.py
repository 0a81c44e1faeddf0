"""One line instead of a traceback when Ctrl-C arrives while a command's modules are still being imported.

It takes effect when this module is imported.
"""

import sys
from types import TracebackType

from sostenuto.cli import program

_show_traceback = sys.excepthook


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints one line for an uncaught `KeyboardInterrupt`, and the traceback of other exceptions.

    Python then ends the process by SIGINT, which a shell shows as status 130.
    """
    if issubclass(kind, KeyboardInterrupt):
        print(f"{program.name()}: interrupted", file=sys.stderr)
    else:
        _show_traceback(kind, error, trace)


sys.excepthook = _show
