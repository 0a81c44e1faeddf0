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
        # The bar's own estimate of the time left would take scores for slow training.
        self._bar: tqdm.tqdm | None = progress.bar(
            total=run.schedule.plan.steps,
            unit="train_step",
            description="training",
            initial=run.train_step,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self._has_logged_length = self._bar is not None  # which shows it
        self._log_length(run.train_step)

    def on_call(self, train_step: int, count: int) -> None:
        """Advances the bar; logs the length of a run of `max_minutes` once it is known."""
        self._log_length(train_step)
        if self._bar is not None:
            self._bar.total = self.run.schedule.plan.steps
            self._update_postfix(self._bar)
            self._bar.update(count)

    def on_step(self, train_step: int, events: Event, metrics: MetricsRecord | None) -> None:
        """Shows a report."""
        if metrics is None:
            return
        speed = f"{metrics.notes_per_second:,.0f} notes/s"
        if self._bar is not None:
            loss = f"loss {metrics.loss:.2f}" if metrics.nats is None else f"{metrics.nats:.2f} nats/note"
            self._figures = [loss, speed]
            self._update_postfix(self._bar)
            self._bar.refresh()
            if metrics.val_nats is not None:
                logger.info(f"train_step {train_step:,}: {self._format_scores(metrics)}")
            return
        seconds_left = self.run.seconds_left()
        left = "" if seconds_left is None else f", {duration(seconds_left)} left"
        figures = {**metrics.to_json(), "planned": self.run.schedule.plan.steps, "seconds_left": seconds_left}
        message = f"train_step {train_step:,}: {self._format_scores(metrics)}, {speed}{left}"
        logger.info(message, extra={"figures": figures})

    def on_finish(self, result: RunResult) -> None:
        """Closes the bar."""
        self.close()

    def close(self) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _format_scores(self, metrics: MetricsRecord) -> str:
        """Returns the scores in nats/note, and the loss, which has other units, if it is monitored or needed."""
        scores = {"training": metrics.nats, "validation": metrics.val_nats}
        parts = [f"{name} {value:.3f}" for name, value in scores.items() if value is not None]
        parts[-1:] = [f"{part} nats/note" for part in parts[-1:]]
        if metrics.nats is None or self.run.setup.config.monitor == "loss":
            parts.append(f"weighted training loss {metrics.loss:.3f}")
        return ", ".join(parts)

    def _log_length(self, train_step: int) -> None:
        """Logs the planned length once it is known; `Planner` logs that it becomes shorter."""
        steps, minutes = self.run.schedule.plan.steps, self.run.setup.config.max_minutes
        if not self._has_logged_length and steps is not None:
            message = f"training to train_step {steps:,}"
            if minutes:
                message = (
                    f"training to about train_step {steps:,}, which --max_minutes={minutes:g} allows at this speed"
                )
            logger.info(message, extra={"figures": {"train_step": train_step, "planned": steps}})
            self._has_logged_length = True

    def _update_postfix(self, bar: "tqdm.tqdm") -> None:
        """Shows the time left and the last report's figures behind the bar."""
        seconds_left = self.run.seconds_left()
        left = [] if seconds_left is None else [f"{bar.format_interval(seconds_left)} left"]
        bar.set_postfix_str(", ".join([*left, *self._figures]), refresh=False)
