"""Progress of a command on stderr: bars on a terminal, a log line now and then elsewhere.

Lines go through the standard library's logging. `sostenuto.cli.console` shows them; a program that imports the
libraries alone sees no lines below WARNING and no bars, unless it configures logging.
"""

import contextlib
import contextvars
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from sostenuto.extras import EXTRAS
from sostenuto.text import counted

if TYPE_CHECKING:
    import tqdm

Item = TypeVar("Item")

NOTICE = 25
"""Level of logging for normal but significant events, as Google Cloud Logging defines it; quiet commands hide it."""
logging.addLevelName(NOTICE, "NOTICE")

# Seconds to the first line and between lines, without a terminal (a pipe, the log of a Job).
FIRST_LINE_SECONDS = 2.0
LINE_SECONDS = 10.0

logger = logging.getLogger(__name__)

_silent: contextvars.ContextVar[bool] = contextvars.ContextVar("silent", default=False)
_json_lines = False


def set_json_lines(enabled: bool) -> None:
    """Sets whether log lines are JSON objects, among which no bar may be shown."""
    global _json_lines
    _json_lines = enabled


def has_json_lines() -> bool:
    """Returns whether log lines are JSON objects."""
    return _json_lines


@contextlib.contextmanager
def silenced(silent: bool = True) -> Iterator[None]:
    """Hides this project's bars and lines below WARNING of the current thread from all handlers, if `silent`."""
    for logger_ in (logging.getLogger(), *logging.getLogger().manager.loggerDict.values()):
        for handler in getattr(logger_, "handlers", ()):
            handler.addFilter(_is_audible)  # It stays, and is added once.
    token = _silent.set(silent or _silent.get())
    try:
        yield
    finally:
        _silent.reset(token)


def _is_audible(record: logging.LogRecord) -> bool:
    """Returns whether a record is a warning, of another project, or of a thread that is not silenced."""
    return not _silent.get() or record.levelno >= logging.WARNING or record.name.partition(".")[0] not in EXTRAS


def bar(*, total: int | None, unit: str, description: str, **options: Any) -> "tqdm.tqdm | None":
    """Returns a bar on stderr, with further options of tqdm; None without a terminal, with JSON lines, or if hidden.

    `unit` is in the singular; `total` is None if unknown.
    """
    if _json_lines or not _is_shown() or not sys.stderr.isatty():
        return None
    import tqdm  # Only a terminal needs it.

    if os.environ.get("NO_COLOR"):  # https://no-color.org; tqdm itself heeds only its own TQDM_COLOUR.
        options["colour"] = None
    if _has_known_width():
        options["dynamic_ncols"] = True
    else:
        options["ncols"], options["nrows"] = shutil.get_terminal_size()

    class Bar(tqdm.tqdm):
        """A bar that may also show its speed as `{speed}`: "3.2 files/s", or "1.07 s/file" where one takes longer."""

        @property
        def format_dict(self) -> dict[str, Any]:
            figures = super().format_dict
            rate = figures["rate"] or (figures["n"] - figures["initial"]) / max(figures["elapsed"], 1e-9)
            return {**figures, "speed": _speed(rate, unit)}

    counts = "{n_fmt} {unit}" if total is None else "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"
    left = "" if total is None else ", {remaining} left"
    options.setdefault("bar_format", f"{{desc}}: {counts} [{{elapsed}}{left}, {{speed}}]")
    return Bar(total=total, unit=f"{unit}s", desc=description, file=sys.stderr, **options)


def _speed(rate: float, unit: str) -> str:
    """Returns a speed in units a second or, below 1, in seconds a unit."""
    if not rate:
        return f"? {unit}s/s"
    if rate < 1:
        return f"{1 / rate:.2f} s/{unit}"
    return f"{rate:,.{1 if rate < 100 else 0}f} {unit}s/s"


def _is_shown() -> bool:
    """Returns whether the current thread's lines of level INFO are shown."""
    return logger.isEnabledFor(logging.INFO) and not _silent.get()


def _has_known_width() -> bool:
    """Returns whether the terminal knows its width; a program's own may report 0, for which tqdm shows nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


class ProgressCounter(contextlib.AbstractContextManager):
    """Progress of a job, advanced by hand: a bar on a terminal; elsewhere a line after two seconds and then every ten.

    `unit` is in the singular; `total` is None if unknown.
    """

    def __init__(self, *, total: int | None, unit: str, description: str, quiet: bool = False) -> None:
        self._total, self._unit, self._description = total, unit, description
        self._done = 0
        # A bar below another one is removed when it is done.
        self._bar = None if quiet else bar(total=total, unit=unit, description=description, leave=None)
        # The thread that counts may be another one than the silenced one.
        self._logs_lines = not quiet and self._bar is None and _is_shown()
        self._next_line = time.monotonic() + min(FIRST_LINE_SECONDS, LINE_SECONDS)

    def advance(self, units: int = 1) -> None:
        """Counts completed units."""
        self._done += units
        if self._bar is not None:
            self._bar.update(units)
        elif self._logs_lines and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            done = f"{self._done:,} of " if self._total is not None else ""
            done += counted(self._done if self._total is None else self._total, self._unit)
            figures = {"done": self._done, "total": self._total, "unit": self._unit}
            logger.info(f"{self._description}: {done}", extra={"figures": figures})

    def __exit__(self, *_: object) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()


def track(
    items: Iterable[Item], *, total: int | None, unit: str, description: str, quiet: bool = False
) -> Iterator[Item]:
    """Yields the items, showing the progress of the loop over them; the arguments are those of `ProgressCounter`."""
    with ProgressCounter(total=total, unit=unit, description=description, quiet=quiet) as counter:
        for item in items:
            yield item
            counter.advance()


_shown_activities: set[str] = set()


@contextlib.contextmanager
def phase(activity: str) -> Iterator[None]:
    """Shows an activity by a bar while it lasts; without a terminal, logs it the first time."""
    # Below another bar, this one is removed at the end.
    shown = bar(total=None, unit="second", description=activity, leave=None, bar_format="{desc} [{elapsed}]")
    if shown is None and activity not in _shown_activities:
        logger.info(activity)
    _shown_activities.add(activity)
    with contextlib.nullcontext() if shown is None else shown:
        yield
