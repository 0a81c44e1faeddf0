"""Checkpoints and best weights of a run; `trainer.engine.early_stopping` decides which score is the best."""

import dataclasses
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from sostenuto import storage
from trainer.callbacks.base import Callback
from trainer.checkpoints.async_checkpointer import AsyncCheckpointer
from trainer.checkpoints.manager import Checkpoint, CheckpointManager, check_config, model_variables, restore
from trainer.engine.early_stopping import BestMetric
from trainer.engine.setup import RunSetup
from trainer.workdir import layout
from trainer.workdir.formats import MetricsRecord
from trainer.workdir.remote import LocalWorkdir

logger = logging.getLogger(__name__)


class RunCheckpoints(AsyncCheckpointer):
    """Checkpoints and best weights of a run, which the chief saves in the background; none precedes its reports."""

    def __init__(self, setup: RunSetup, workdir: LocalWorkdir, callbacks: Sequence[Callback]) -> None:
        super().__init__()
        self._setup, self._workdir, self._callbacks = setup, workdir, callbacks
        self._config = dataclasses.asdict(setup.config)
        directory, keep = workdir.directory, setup.config.max_to_keep
        self._checkpoints = CheckpointManager(os.path.join(directory, layout.CHECKPOINTS_NAME), max_to_keep=keep)
        self._best = CheckpointManager(os.path.join(directory, layout.BEST_NAME), max_to_keep=1)
        self._saved = 0
        self._kept_best = 0  # train_step of the best weights that the newest checkpoint names

    def flush_reports(self) -> None:
        """Waits until all reports are on disk."""
        for callback in self._callbacks:
            callback.flush()

    def resume(self) -> Checkpoint | None:
        """Restores the newest checkpoint that the chief has; returns None if there is none."""
        workers = self._setup.workers
        checkpoint = self._checkpoints.latest() if workers.is_chief else None
        (train_step,) = map(int, workers.broadcast_from_chief([checkpoint.train_step if checkpoint else 0]))
        if not train_step:
            return None
        if checkpoint is None:
            self._workdir.fetch(train_step)
            checkpoint = self._checkpoints.load(train_step)
        check_config(checkpoint, self._setup.config)
        restore(checkpoint, self._setup.state.variables())
        self._saved = train_step
        return checkpoint

    def save_progress(self, train_step: int, progress: dict[str, Any]) -> None:
        """Saves a checkpoint with some JSON values, unless this train_step has one."""
        if train_step == self._saved or not self._setup.workers.is_chief:
            return
        self.flush_reports()
        extra = {**progress, "config": self._config}

        def complete() -> None:
            self._keep_best(progress["monitor"]["best_train_step"])
            self._workdir.publish()

        self.save(self._checkpoints, train_step, self._setup.state.variables(), extra, then=complete)
        self._saved = train_step

    def save_best(self, train_step: int, score: float | None) -> None:
        """Saves the weights to score; earlier best weights stay until a checkpoint names these."""
        if self._setup.workers.is_chief:
            extra = {"score": score, "config": self._config}
            with self._setup.state.scored_weights():
                self.save(
                    self._best, train_step, model_variables(self._setup.state.model), extra,
                    keep=lambda: [self._kept_best],
                )  # fmt: skip

    def restore_best(self, best: BestMetric, train_step: int) -> BestMetric:
        """Returns the best score whose weights best/ has, and deletes all others there, which a killed run left.

        In place of lost weights it takes others of best/, else those of `train_step`, the current ones.
        """
        if self._setup.workers.is_chief:
            scores = {saved.train_step: saved.extra["score"] for saved in self._best.readable()}
            if best.best is not None and best.best_train_step not in scores:
                best = self._replace_best(best, scores, train_step)
            self._keep_best(best.best_train_step)
        return best

    def resume_best(self, best: BestMetric, train_step: int) -> BestMetric:
        """Calls `restore_best` on the chief; returns its result on all hosts."""
        best = self.restore_best(best, train_step)
        score = math.nan if best.best is None else best.best
        score, best_train_step = self._setup.workers.broadcast_from_chief([score, best.best_train_step])
        return dataclasses.replace(
            best, best=None if math.isnan(score) else score, best_train_step=int(best_train_step)
        )

    def _replace_best(self, best: BestMetric, scores: Mapping[int, float | None], train_step: int) -> BestMetric:
        """Returns the best score without the lost weights."""
        directory = os.path.join(self._workdir.directory, layout.BEST_NAME)
        lost = f"{directory}: the best weights, of train_step {best.best_train_step:,}, are corrupt or missing"
        for other, score in scores.items():
            if score is not None:
                logger.warning(f"{lost}; those of train_step {other:,} take their place")
                return dataclasses.replace(best, best=score, best_train_step=other)
        score = self._recorded_score(train_step)
        if score is None:
            logger.warning(f"{lost}; those of the next score take their place")
            return dataclasses.replace(best, best=None, best_train_step=0)
        logger.warning(f"{lost}; those of train_step {train_step:,}, the newest, take their place")
        self.save_best(train_step, score)
        return dataclasses.replace(best, best=score, best_train_step=train_step)

    def _recorded_score(self, train_step: int) -> float | None:
        """Returns the monitored value that metrics.jsonl has for a train_step, or None."""
        path = os.path.join(self._workdir.directory, layout.METRICS_NAME)
        records = MetricsRecord.load_all(path) if storage.exists(path) else []
        values = [getattr(record, self._config["monitor"]) for record in records if record.train_step == train_step]
        return values[0] if values and values[0] is not None and math.isfinite(values[0]) else None

    def _keep_best(self, train_step: int) -> None:
        """Deletes all best weights but those of a train_step."""
        self._kept_best = train_step
        self._best.keep([train_step])
