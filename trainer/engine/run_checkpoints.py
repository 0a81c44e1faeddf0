"""Checkpoints and best weights of a run."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from trainer.callbacks.base import Callback
from trainer.checkpoints.async_checkpointer import AsyncCheckpointer
from trainer.checkpoints.manager import Checkpoint, CheckpointManager, check_config, model_variables, restore
from trainer.engine.setup import RunSetup
from trainer.workdir import layout
from trainer.workdir.remote import LocalWorkdir


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
        self.save(self._checkpoints, train_step, self._setup.state.variables(), extra, then=self._workdir.publish)
        self._saved = train_step

    def save_best(self, train_step: int, score: float | None) -> None:
        """Saves the weights to score."""
        if self._setup.workers.is_chief:
            extra = {"score": score, "config": self._config}
            with self._setup.state.scored_weights():
                self.save(self._best, train_step, model_variables(self._setup.state.model), extra)
