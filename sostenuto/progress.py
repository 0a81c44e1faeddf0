"""What a command says on stderr: lines, and how far it has come.

A person at a terminal gets bars, a log a line now and then, and a machine that asks for it one JSON object a line.
Results go to stdout, and are no business of this module's.
"""

import contextlib
import contextvars
import datetime
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

if TYPE_CHECKING:
    import tqdm

Item = TypeVar("Item")

# As Google Cloud Logging calls them.
Severity = Literal["INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL"]

# Without a terminal (a log of a Job, a pipe), a line this often; the first one sooner, for whoever waits for a sign.
LINE_SECONDS = 10.0
FIRST_LINE_SECONDS = 2.0

_SAID_IN_SILENCE: Final = ("WARNING", "ERROR", "CRITICAL")


class _Manner:
    """How this process speaks; a command's flags say so, once, before anything is said."""

    quiet = False
    log_json = False


# Of a thread: a study silences the run of a trial, while another thread tells how the study comes on.
_silent: contextvars.ContextVar[bool] = contextvars.ContextVar("silent", default=False)


def configure(*, quiet: bool = False, log_json: bool = False) -> None:
    """Sets how this process speaks.

    Args:
        quiet: says nothing but warnings and errors.
        log_json: makes each line a JSON object, and shows no bars.
    """
    _Manner.quiet, _Manner.log_json = quiet, log_json


def is_json() -> bool:
    """Whether each line is a JSON object."""
    return _Manner.log_json


@contextlib.contextmanager
def silenced(silent: bool = True) -> Iterator[None]:
    """Within it, this thread says nothing but warnings and errors.

    Args:
        silent: False changes nothing.
    """
    token = _silent.set(silent or _silent.get())
    try:
        yield
    finally:
        _silent.reset(token)


def say(line: str, *, severity: Severity = "INFO", **figures: Any) -> None:
    """Says a line on stderr, above a bar where there is one.

    Args:
        line: for a reader.
        severity: warnings and errors are said to those, too, who asked for quiet.
        figures: what the line tells in numbers and names; fields of the JSON object, where lines are JSON.
    """
    if not _is_heard(severity):
        return
    if _Manner.log_json:
        print(_as_json(line, severity, figures), file=sys.stderr, flush=True)
    elif bars := sys.modules.get("tqdm"):
        bars.tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)


def _is_heard(severity: Severity) -> bool:
    return severity in _SAID_IN_SILENCE or not (_Manner.quiet or _silent.get())


def _as_json(line: str, severity: Severity, figures: dict[str, Any]) -> str:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry: dict[str, Any] = {"time": now, "severity": severity, "message": line}
    for name, value in figures.items():
        # JSON has no infinity, and the score of a run that diverges may be one.
        entry[name] = None if isinstance(value, float) and not math.isfinite(value) else value
    return json.dumps(entry)


def bar(*, total: int | None, unit: str, description: str, **options: Any) -> "tqdm.tqdm | None":
    """A bar on stderr; None where there is no terminal, or nothing is to be shown, or lines are JSON.

    Args:
        total: the number of units in all; None where it is unknown.
        unit: what is counted, in the singular, such as "file".
        description: what is being done, such as "decoding".
        options: further ones of `tqdm.tqdm`.
    """
    if _Manner.log_json or not _is_heard("INFO") or not sys.stderr.isatty():
        return None
    import tqdm  # Only a terminal needs it.

    if os.environ.get("NO_COLOR"):  # https://no-color.org; tqdm itself heeds only its own TQDM_COLOUR.
        options["colour"] = None
    if _knows_its_size():
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
    left = "" if total is None else "<{remaining}"
    options.setdefault("bar_format", f"{{desc}}: {counts} [{{elapsed}}{left}, {{speed}}]")
    return Bar(total=total, unit=f"{unit}s", desc=description, file=sys.stderr, **options)


def _speed(rate: float, unit: str) -> str:
    """Returns a speed in units a second or, below 1, in seconds a unit."""
    if not rate:
        return f"? {unit}s/s"
    if rate < 1:
        return f"{1 / rate:.2f} s/{unit}"
    return f"{rate:,.{1 if rate < 100 else 0}f} {unit}s/s"


def _knows_its_size() -> bool:
    """Whether the terminal says how large it is; one that a program opened may say 0, and tqdm would show nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


class ProgressCounter:
    """Shows how far a job has come on stderr; a context manager, advanced by hand.

    On a terminal it is a bar, below another one that is there already. Elsewhere a job of more than two seconds gets a
    line, and one more every ten.

    Args:
        total: the number of units in all; None where it is unknown.
        unit: what is counted, in the singular, such as "file".
        description: what is being done, such as "decoding".
        quiet: shows nothing.
    """

    def __init__(self, *, total: int | None, unit: str, description: str, quiet: bool = False) -> None:
        self._total, self._unit, self._description = total, unit, description
        self._done = 0
        # A bar below another one goes away when it is done.
        self._bar = None if quiet else bar(total=total, unit=unit, description=description, leave=None)
        # The thread that counts may be another one than that which knows whether to be silent.
        self._says_lines = not quiet and self._bar is None and _is_heard("INFO")
        self._next_line = time.monotonic() + min(FIRST_LINE_SECONDS, LINE_SECONDS)

    def advance(self, units: int = 1) -> None:
        """Counts units done."""
        self._done += units
        if self._bar is not None:
            self._bar.update(units)
        elif self._says_lines and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            of_total = "" if self._total is None else f" of {self._total:,}"
            say(
                f"{self._description}: {self._done:,}{of_total} {self._unit}s",
                done=self._done,
                total=self._total,
                unit=self._unit,
            )

    def __enter__(self) -> Self:
        """Returns the meter."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()


def track(
    items: Iterable[Item], *, total: int | None, unit: str, description: str, quiet: bool = False
) -> Iterator[Item]:
    """Yields the items, showing how far the loop over them has come.

    Args:
        items: what to loop over.
        total: the number of items; None where it is unknown.
        unit: what an item is, in the singular, such as "file".
        description: what is being done, such as "decoding".
        quiet: shows nothing.
    """
    with ProgressCounter(total=total, unit=unit, description=description, quiet=quiet) as meter:
        for item in items:
            yield item
            meter.advance()
