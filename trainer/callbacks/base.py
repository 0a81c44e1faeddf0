"""Interface of a run's callbacks."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from sostenuto.data.manifest import Manifest
from trainer.config import Config
from trainer.engine.early_stopping import BestMetric
from trainer.engine.schedule import Event
from trainer.engine.shutdown import GracefulShutdown
from trainer.model.next_note import NextNoteModel
from trainer.workdir.formats import RunResult


@dataclasses.dataclass(frozen=True)
class RunContext:
    """Parts of a run that its callbacks use.

    Attributes:
        config: the run.
        manifest: the dataset.
        workdir: the workdir, as the user named it.
        directory: the local directory of the workdir's files.
        train_step: the last train_step whose report is kept; a resumed run repeats later ones.
        model: the model.
        scored_weights: context manager that puts the weights to score into the model.
        best: the best score so far.
        seconds_left: returns the seconds until the end of the run, or None if unknown.
        shutdown: the signals that arrived.
        phase: context manager that shows an activity, see `Callback.phase`.
    """

    config: Config
    manifest: Manifest
    workdir: str
    directory: str
    train_step: int
    model: NextNoteModel
    scored_weights: Callable[[], contextlib.AbstractContextManager[None]]
    best: BestMetric
    seconds_left: Callable[[], float | None]
    shutdown: GracefulShutdown
    phase: Callable[[str], contextlib.AbstractContextManager[None]]


class Callback:
    """Actions of a run besides training. The chief alone calls them, in the order in which they are given.

    Attributes:
        play_seconds: estimated seconds of the work at `Event.PLAY`.
        run: the run, from `on_start` on.
    """

    play_seconds = 0.0
    run: RunContext

    def on_start(self, run: RunContext) -> None:
        """Runs before the first train_step."""
        self.run = run

    def on_plan(self, train_step: int, steps: int | None) -> None:
        """Runs at the start and when the run's length changes; None if the length is not known yet."""

    def next_boundary(self, train_step: int) -> int | None:
        """Returns the next train_step at which the callback needs `on_call`, or None."""

    def on_call(self, train_step: int, count: int) -> None:
        """Runs after each call into TensorFlow; `count` is the number of its train_steps."""

    def on_step(self, train_step: int, events: Event, metrics: dict[str, float]) -> None:
        """Runs after the actions of a train_step; `metrics` is a line of metrics.jsonl, or empty without a report."""

    def flush(self) -> None:
        """Runs before each checkpoint; all earlier reports must be on disk when it returns."""

    def on_finish(self, result: RunResult) -> None:
        """Runs after the last train_step of a finished run, before result.json is written."""

    def close(self) -> None:
        """Runs at the end of the process's part of a run, also after an error."""

    @contextlib.contextmanager
    def phase(self, activity: str, *, has_bar: bool = False) -> Iterator[None]:
        """Shows an activity besides training while it lasts; `has_bar` if it shows its own progress."""
        yield


class CallbackList(Callback):
    """Callbacks that are called one after the other."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    @contextlib.contextmanager
    def started(self, run: RunContext) -> Iterator[None]:
        """Starts the callbacks, and closes those that started on exit."""
        with contextlib.ExitStack() as stack:
            for callback in self._callbacks:
                callback.on_start(run)
                stack.callback(callback.close)
            yield

    def on_plan(self, train_step: int, steps: int | None) -> None:
        """Announces the run's length."""
        for callback in self._callbacks:
            callback.on_plan(train_step, steps)

    def boundaries(self, train_step: int) -> list[int]:
        """Returns the next train_steps at which callbacks need `on_call`."""
        boundaries = [callback.next_boundary(train_step) for callback in self._callbacks]
        return [boundary for boundary in boundaries if boundary is not None]

    def on_call(self, train_step: int, count: int) -> None:
        """Announces a call."""
        for callback in self._callbacks:
            callback.on_call(train_step, count)

    def on_step(self, train_step: int, events: Event, metrics: dict[str, float]) -> None:
        """Announces the actions of a train_step."""
        for callback in self._callbacks:
            callback.on_step(train_step, events, metrics)

    def flush(self) -> None:
        """Flushes all."""
        for callback in self._callbacks:
            callback.flush()

    def on_finish(self, result: RunResult) -> None:
        """Announces the end."""
        for callback in self._callbacks:
            callback.on_finish(result)

    @contextlib.contextmanager
    def phase(self, activity: str, *, has_bar: bool = False) -> Iterator[None]:
        """Shows an activity in all."""
        with contextlib.ExitStack() as stack:
            for callback in self._callbacks:
                stack.enter_context(callback.phase(activity, has_bar=has_bar))
            yield
