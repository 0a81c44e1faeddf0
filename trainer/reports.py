"""What a run tells while it goes: metrics.jsonl, TensorBoard, and a person at the terminal or the log."""

import datetime
import json
import os
import sys
from typing import Any

import tensorflow as tf
import tqdm

from notes import storage
from trainer import plots

METRICS_NAME = "metrics.jsonl"
SUMMARIES_NAME = "summaries"
LOSSES_NAME = "losses.png"


class Reports:
    """Writes a run's reports; a context manager.

    Args:
        workdir: the run's workdir; reports of train_steps after `train_step` are removed from it, since a resumed run
            writes them again.
        train_step: where the run begins.
        quiet: shows nothing on stderr.

    Attributes:
        measured_seconds: seconds that calls of train_steps have taken, the first one, which compiles, left out.
    """

    def __init__(self, workdir: str, train_step: int, *, quiet: bool) -> None:
        self._workdir = workdir
        self._path = os.path.join(workdir, METRICS_NAME)
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar: tqdm.tqdm | None = None
        self._compiled = False
        self._seconds = self.measured_seconds = 0.0
        self._measured_steps = 0
        self._planned: int | None = None
        self._cut(train_step)
        self._summaries = tf.summary.create_file_writer(os.path.join(workdir, SUMMARIES_NAME))

    def __enter__(self) -> "Reports":
        """Returns the reports."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the bar's line and flushes what TensorBoard reads."""
        if self._bar is not None:
            self._bar.close()
        self._summaries.close()

    @property
    def seconds_per_step(self) -> float:
        """Seconds a train_step takes, compilation left out."""
        return self.measured_seconds / self._measured_steps

    def _cut(self, train_step: int) -> None:
        if not storage.exists(self._path):
            return
        lines = storage.read_bytes(self._path).decode().splitlines()
        kept = [line for line in lines if _train_step_of(line) <= train_step]
        if kept != lines:
            storage.write_bytes_atomic(self._path, "".join(f"{line}\n" for line in kept).encode())

    def start(self, planned: int | None, train_step: int) -> None:
        """Shows how many train_steps there will be; None where that is still being measured."""
        self._planned = planned
        if self._terminal:
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm.tqdm(
                total=planned, initial=train_step, unit="step", desc="training", dynamic_ncols=True, file=sys.stderr,
                leave=planned is not None,
            )  # fmt: skip
        elif planned is not None:
            self.say(f"training to train_step {planned:,}")

    def say(self, line: str) -> None:
        """Prints a line, above the bar where there is one."""
        if not self._quiet:
            tqdm.tqdm.write(line, file=sys.stderr)

    def count(self, train_steps: int, seconds: float) -> bool:
        """Takes in one call of train_steps; returns whether it was the first, which compiles."""
        first = not self._compiled
        self._compiled = True
        self._seconds += seconds
        if not first:
            self.measured_seconds += seconds
            self._measured_steps += train_steps
        if self._bar is not None:
            self._bar.update(train_steps)
        return first

    def write(self, report: dict[str, Any], targets: float) -> None:
        """Appends a report to metrics.jsonl and TensorBoard, and shows it.

        Args:
            report: its fields, `train_step` among them.
            targets: notes trained on since the last report.
        """
        report["notes_per_second"] = targets / max(self._seconds, 1e-9)
        self._seconds = 0.0
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
        with self._summaries.as_default():
            for name, value in report.items():
                if name != "train_step":
                    tf.summary.scalar(name, value, step=report["train_step"])
        self._show(report)

    def draw(self) -> None:
        """Draws the losses of the whole run."""
        lines = storage.read_bytes(self._path).decode().splitlines()
        plots.loss_curves([json.loads(line) for line in lines], os.path.join(self._workdir, LOSSES_NAME))

    def _show(self, report: dict[str, Any]) -> None:
        score = f", validation {report['val_nats']:.3f} nats/note" if "val_nats" in report else ""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {report['loss']:.3f}, {report['notes_per_second']:,.0f} notes/s")
            if score:
                self.say(f"train_step {report['train_step']:,}: loss {report['loss']:.3f}{score}")
            return
        left = ""
        if self._planned is not None and self._measured_steps:
            seconds = (self._planned - report["train_step"]) * self.seconds_per_step
            left = f", {datetime.timedelta(seconds=round(seconds))} left"
        self.say(
            f"train_step {report['train_step']:,}: loss {report['loss']:.3f}{score}, "
            f"{report['notes_per_second']:,.0f} notes/s{left}"
        )


def _train_step_of(line: str) -> float:
    """The train_step of a line of metrics.jsonl; of one that a kill cut short, later than any."""
    try:
        return json.loads(line)["train_step"]
    except (ValueError, KeyError):
        return float("inf")
