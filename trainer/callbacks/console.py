"""Progress of a run on the terminal and in the log."""

import logging
from typing import TYPE_CHECKING

from sostenuto import progress
from sostenuto.text import duration
from trainer.callbacks.base import Callback, RunContext
from trainer.engine.schedule import Event
from trainer.workdir.formats import MetricsRecord, RunResult

if TYPE_CHECKING:
    import tqdm

logger = logging.getLogger(__name__)


class Console(Callback):
    """Shows a bar on a terminal, and a line for each report elsewhere."""

    def on_start(self, run: RunContext) -> None:
        """Shows the bar."""
        super().on_start(run)
        self._figures: list[str] = []  # of the last report
        self._planned = run.schedule.plan.steps
        # The bar's own estimate of the time left would take scores for slow training.
        self._bar: tqdm.tqdm | None = progress.bar(
            total=self._planned,
            unit="train_step",
            description="training",
            initial=run.train_step,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self._log_length(run.train_step)

    def on_call(self, train_step: int, count: int) -> None:
        """Advances the bar, and shows a new length of the run."""
        steps = self.run.schedule.plan.steps
        if steps != self._planned:
            self._planned = steps
            self._log_length(train_step)
        if self._bar is not None:
            self._bar.total = steps
            self._update_postfix(self._bar)
            self._bar.update(count)

    def on_step(self, train_step: int, events: Event, metrics: MetricsRecord | None) -> None:
        """Shows a report."""
        if metrics is None:
            return
        score = "" if metrics.val_nats is None else f", validation {metrics.val_nats:.3f} nats/note"
        loss, speed = f"loss {metrics.loss:.3f}", f"{metrics.notes_per_second:,.0f} notes/s"
        if self._bar is not None:
            self._figures = [loss, speed]
            self._update_postfix(self._bar)
            self._bar.refresh()
            if score:
                logger.info(f"train_step {train_step:,}: train {loss}{score}")
            return
        seconds_left = self.run.seconds_left()
        left = "" if seconds_left is None else f", {duration(seconds_left)} left"
        figures = {**metrics.to_json(), "planned": self._planned, "seconds_left": seconds_left}
        logger.info(f"train_step {train_step:,}: train {loss}{score}, {speed}{left}", extra={"figures": figures})

    def on_finish(self, result: RunResult) -> None:
        """Closes the bar."""
        self.close()

    def close(self) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _log_length(self, train_step: int) -> None:
        if self._bar is None and self._planned is not None:
            figures = {"train_step": train_step, "planned": self._planned}
            logger.info(f"training to train_step {self._planned:,}", extra={"figures": figures})

    def _update_postfix(self, bar: "tqdm.tqdm") -> None:
        """Shows the time left and the last report's figures behind the bar."""
        seconds_left = self.run.seconds_left()
        left = [] if seconds_left is None else [f"{bar.format_interval(seconds_left)} left"]
        bar.set_postfix_str(", ".join([*left, *self._figures]), refresh=False)
