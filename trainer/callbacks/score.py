"""Notification of each score."""

from collections.abc import Callable

from trainer.callbacks.base import Callback
from trainer.engine.schedule import Event
from trainer.workdir.formats import MetricsRecord


class ScoreCallback(Callback):
    """Calls a function with the train_step and the best score so far after each score."""

    def __init__(self, function: Callable[[int, float], None]) -> None:
        self._function = function

    def on_step(self, train_step: int, events: Event, metrics: MetricsRecord | None) -> None:
        """Calls the function, unless no score was finite yet."""
        if Event.EVALUATE in events and self.run.best.best is not None:
            self._function(train_step, self.run.best.best)
