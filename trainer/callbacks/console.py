"""Progress of a run on the terminal and in the log."""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sostenuto import progress
from sostenuto.text import duration
from trainer.callbacks.base import Callback
from trainer.engine.schedule import Event
from trainer.workdir.formats import RunResult

if TYPE_CHECKING:
    import tqdm

logger = logging.getLogger(__name__)


class Console(Callback):
    """Shows a bar on a terminal, and a line for each report elsewhere."""

    def __init__(self) -> None:
        self._bar: tqdm.tqdm | None = None
        self._logged: set[str] = set()
        self._figures: list[str] = []  # of the last report
        self._planned: int | None = None

    def on_plan(self, train_step: int, steps: int | None) -> None:
        """Shows the run's length."""
        self._planned = steps
        if self._bar is not None:
            self._bar.total = steps
            self._bar.refresh()
            return
        # The bar's own estimate of the time left would take scores for slow training.
        self._bar = progress.bar(
            total=steps,
            unit="train_step",
            description="training",
            initial=train_step,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        if self._bar is None and steps is not None:
            logger.info(
                f"training to train_step {steps:,}", extra={"figures": {"train_step": train_step, "planned": steps}}
            )

    def on_call(self, train_step: int, count: int) -> None:
        """Advances the bar."""
        if self._bar is not None:
            self._update_postfix(self._bar)
            self._bar.update(count)

    def on_step(self, train_step: int, events: Event, metrics: dict[str, float]) -> None:
        """Shows a report."""
        if not metrics:
            return
        score = f", validation {metrics['val_nats']:.3f} nats/note" if "val_nats" in metrics else ""
        loss, speed = f"loss {metrics['loss']:.3f}", f"{metrics['notes_per_second']:,.0f} notes/s"
        if self._bar is not None:
            self._figures = [loss, speed]
            self._update_postfix(self._bar)
            self._bar.refresh()
            if score:
                logger.info(f"train_step {train_step:,}: train {loss}{score}")
            return
        seconds_left = self.run.seconds_left()
        left = "" if seconds_left is None else f", {duration(seconds_left)} left"
        figures = {**metrics, "planned": self._planned, "seconds_left": seconds_left}
        logger.info(f"train_step {train_step:,}: train {loss}{score}, {speed}{left}", extra={"figures": figures})

    def on_finish(self, result: RunResult) -> None:
        """Closes the bar."""
        self.close()

    def close(self) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @contextlib.contextmanager
    def phase(self, activity: str, *, has_bar: bool = False) -> Iterator[None]:
        """Shows an activity by a bar of its own; in a log by a line, the first time."""
        bar = None
        if not has_bar:
            # Below the bar of training it is removed when it is done.
            bar = progress.bar(
                total=None, unit="second", description=activity, leave=None, bar_format="{desc} [{elapsed}]"
            )
        if bar is None and self._bar is None and activity not in self._logged:
            logger.info(activity)
        self._logged.add(activity)
        try:
            yield
        finally:
            if bar is not None:
                bar.close()

    def _update_postfix(self, bar: "tqdm.tqdm") -> None:
        """Shows the time left and the last report's figures behind the bar."""
        seconds_left = self.run.seconds_left()
        left = [] if seconds_left is None else [f"{duration(seconds_left)} left"]
        bar.set_postfix_str(", ".join([*left, *self._figures]), refresh=False)
