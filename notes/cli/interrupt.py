"""One line instead of a traceback when Ctrl-C arrives while a command's modules are still being imported."""

import sys
from types import TracebackType

from notes.cli import program


def install() -> None:
    """Replaces the traceback of an uncaught `KeyboardInterrupt` with one line; other exceptions keep theirs.

    Python then ends the process by SIGINT, which a shell shows as status 130.
    """
    show_traceback = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(f"{program.name()}: interrupted", file=sys.stderr)
        else:
            show_traceback(kind, error, trace)

    sys.excepthook = show
