"""SIGTERM and SIGINT as wishes: the call of train_steps is finished and saved, then the run ends."""

import contextlib
import signal
from collections.abc import Iterator


class ShutdownRequested(Exception):
    """Raised within `GracefulShutdown.cancellable` when a signal comes."""


class GracefulShutdown:
    """Takes signals while it is entered; a context manager.

    Attributes:
        received: the name of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._interrupts = False

    def __enter__(self) -> "GracefulShutdown":
        """Takes the signals from now on."""
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        """Gives them back to whom they came before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def cancellable(self) -> Iterator[None]:
        """Within, a signal ends the work at once: for what takes long and can be done again from the start.

        Raises:
            Interrupted: a signal came, now or before.
        """
        if self.received:
            raise ShutdownRequested
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False

    def _note(self, number: int, _: object) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # A second Ctrl-C does not wait.
        self.received = self.received or signal.Signals(number).name
        if self._interrupts:
            self._interrupts = False
            raise ShutdownRequested
