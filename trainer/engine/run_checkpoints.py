"""Checkpoints and best weights of a run."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from trainer.checkpoints.async_checkpointer import AsyncCheckpointer
from trainer.checkpoints.manager import Checkpoint, CheckpointManager, check_config, model_variables, restore
from trainer.engine.setup import RunSetup
from trainer.workdir import layout
from trainer.workdir.remote import LocalWorkdir


class RunCheckpoints:
    """Checkpoints and best weights of a run, which the chief saves in the background; a context manager.

    Args:
        setup: the run's parts.
        workdir: the opened workdir.
        flush: called before each checkpoint, so that no checkpoint exists without the reports before it.
    """

    def __init__(self, setup: RunSetup, workdir: LocalWorkdir, flush: Callable[[], None]) -> None:
        self._setup, self._workdir, self._flush = setup, workdir, flush
        self._config = dataclasses.asdict(setup.config)
        self._checkpointer = AsyncCheckpointer()
        directory, keep = workdir.directory, setup.config.max_to_keep
        self._checkpoints = CheckpointManager(os.path.join(directory, layout.CHECKPOINTS_NAME), max_to_keep=keep)
        self._best = CheckpointManager(os.path.join(directory, layout.BEST_NAME), max_to_keep=1)
        self._saved = 0

    def __enter__(self) -> "RunCheckpoints":
        """Returns the checkpoints."""
        self._checkpointer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Waits until everything is written."""
        self._checkpointer.__exit__(*error)

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

    def save(self, train_step: int, progress: dict[str, Any]) -> None:
        """Saves a checkpoint, unless this train_step has one.

        Args:
            train_step: train_steps done.
            progress: JSON values to store with the variables.
        """
        if train_step == self._saved or not self._setup.workers.is_chief:
            return
        self._flush()
        extra = {**progress, "config": self._config}
        variables = self._setup.state.variables()
        self._checkpointer.save(self._checkpoints, train_step, variables, extra, then=self._workdir.publish)
        self._saved = train_step

    def save_best(self, train_step: int, score: float | None) -> None:
        """Saves the weights to score."""
        if self._setup.workers.is_chief:
            extra = {"score": score, "config": self._config}
            with self._setup.state.scored_weights():
                self._checkpointer.save(self._best, train_step, model_variables(self._setup.state.model), extra)

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            FileError: a checkpoint cannot be written.
        """
        self._checkpointer.wait()
