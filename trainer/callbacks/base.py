"""Interface of a run's callbacks."""

import dataclasses
from collections.abc import Callable

from trainer.engine.early_stopping import BestMetric
from trainer.engine.schedule import Event, Schedule
from trainer.engine.setup import RunSetup
from trainer.engine.shutdown import GracefulShutdown
from trainer.workdir.formats import MetricsRecord, RunResult
from trainer.workdir.remote import LocalWorkdir


@dataclasses.dataclass(frozen=True)
class RunContext:
    """Parts of a run that its callbacks use."""

    setup: RunSetup
    workdir: LocalWorkdir
    train_step: int  # train_steps done at the start
    reported_step: int  # the last train_step whose report is kept; a resumed run repeats later ones
    schedule: Schedule
    best: BestMetric
    shutdown: GracefulShutdown
    seconds_left: Callable[[], float | None]  # until the end of the run; None if unknown


class Callback:
    """Actions of a run besides training. The chief alone calls them, in the order in which they are given."""

    play_seconds = 0.0  # estimate of the work at `Event.PLAY`
    run: RunContext  # from `on_start` on

    def on_start(self, run: RunContext) -> None:
        """Runs before the first train_step."""
        self.run = run

    def next_boundary(self, train_step: int) -> int | None:
        """Returns the next train_step at which the callback needs `on_call`, or None."""

    def on_call(self, train_step: int, count: int) -> None:
        """Runs after each call into TensorFlow; `count` is the number of its train_steps."""

    def on_step(self, train_step: int, events: Event, metrics: MetricsRecord | None) -> None:
        """Runs after the actions of a train_step; `metrics` is None unless a report is due."""

    def flush(self) -> None:
        """Runs before each checkpoint; all earlier reports must be on disk when it returns."""

    def on_finish(self, result: RunResult) -> None:
        """Runs after the last train_step of a finished run, before result.json is written."""

    def close(self) -> None:
        """Runs at the end of the process's part of a run, also after an error."""


class ScoreCallback(Callback):
    """Calls a function with the train_step and the best score so far after each score."""

    def __init__(self, function: Callable[[int, float], None]) -> None:
        self._function = function

    def on_step(self, train_step: int, events: Event, metrics: MetricsRecord | None) -> None:
        """Calls the function, unless no score was finite yet."""
        if Event.EVALUATE in events and self.run.best.best is not None:
            self._function(train_step, self.run.best.best)
