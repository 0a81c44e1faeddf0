"""Progress for a person: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

Item = TypeVar("Item")

# Without a terminal (a log of a Job, a pipe), a line this often.
LINE_SECONDS = 10.0


class Meter:
    """Shows how far a job has come on stderr; a context manager, advanced by hand.

    Args:
        total: the number of units in all; None where it is unknown.
        unit: what is counted, in the singular, such as "file".
        description: what is being done, such as "decoding".
        quiet: shows nothing.
    """

    def __init__(self, *, total: int | None, unit: str, description: str, quiet: bool = False) -> None:
        self._total, self._unit, self._description = total, unit, description
        self._done = 0
        self._bar = None
        self._lines = False
        if quiet:
            return
        if sys.stderr.isatty():
            import tqdm  # Only a terminal needs it.

            self._bar = tqdm.tqdm(total=total, unit=f" {unit}s", desc=description, dynamic_ncols=True, file=sys.stderr)
        else:
            self._lines = True
            self._next_line = time.monotonic() + LINE_SECONDS

    def advance(self, units: int = 1) -> None:
        """Counts units done."""
        self._done += units
        if self._bar is not None:
            self._bar.update(units)
        elif self._lines and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            of_total = "" if self._total is None else f" of {self._total:,}"
            print(f"{self._description}: {self._done:,}{of_total} {self._unit}s", file=sys.stderr, flush=True)

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
    with Meter(total=total, unit=unit, description=description, quiet=quiet) as meter:
        for item in items:
            yield item
            meter.advance()
