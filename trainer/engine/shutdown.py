"""Graceful shutdown of training on SIGTERM and SIGINT: the current call ends, a checkpoint is saved, the process exits.

The handler only records the signal. `trainer.engine.loop` asks for it after each call of train_steps, and
`StopReason.exit_status` is the exit status, 128 and the signal's number. Work that is long and safe to repeat, such as
scoring, is cancelled at once. Commands that do not train exit at once (`sostenuto.cli.app`), without unfinished files.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class ShutdownRequested(Exception):
    """A signal arrived within `GracefulShutdown.cancellable`."""


class GracefulShutdown:
    """Context manager that records the first SIGTERM or SIGINT in `received` instead of ending the process."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._raises = False

    def __enter__(self) -> "GracefulShutdown":
        """Installs the signal handlers."""
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        """Restores the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def cancellable(self) -> Iterator[None]:
        """Raises ShutdownRequested if a signal arrived, now or earlier; the work inside must be safe to repeat."""
        if self.received:
            raise ShutdownRequested
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            previous = self._previous[signal.SIGINT]
            if callable(previous):
                previous(number, frame)  # It raises KeyboardInterrupt, and a third Ctrl-C ends the process.
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name
        if self._raises:
            self._raises = False
            raise ShutdownRequested
