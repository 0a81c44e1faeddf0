"""Checkpoints written in the background."""

import concurrent.futures
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from trainer.checkpoints.manager import CheckpointManager, Variables


class AsyncCheckpointer:
    """Writes checkpoints in a thread, in the order of the calls, while training continues; a context manager."""

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._writing: list[concurrent.futures.Future] = []

    def __enter__(self) -> "AsyncCheckpointer":
        """Returns the checkpointer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Waits until everything is written, also after another error.

        Raises:
            FileError: a checkpoint cannot be written.
        """
        self._thread.shutdown()
        self.wait()

    def save(
        self,
        checkpoints: CheckpointManager,
        train_step: int,
        variables: Variables,
        extra: Mapping[str, Any],
        *,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Saves a copy of the variables like `CheckpointManager.save`; waits while two saves are in progress.

        Args:
            checkpoints: the manager that writes.
            train_step: train_steps done.
            variables: groups of variables.
            extra: JSON values to store with them.
            then: called in the thread after the write.

        Raises:
            FileError: this or an earlier checkpoint cannot be written.
        """
        self._wait_until_at_most(1)
        with tf.device("CPU:0"):
            # TensorFlow shares the memory until the next train_step changes the variable.
            copies = {
                name: [tf.Variable(variable.read_value(), trainable=False) for variable in group]
                for name, group in variables.items()
            }

        def write() -> None:
            checkpoints.save(train_step, copies, extra)
            then()

        self._writing.append(self._thread.submit(write))

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            FileError: a checkpoint cannot be written.
        """
        self._wait_until_at_most(0)

    def _wait_until_at_most(self, count: int) -> None:
        """Waits until at most `count` saves are in progress."""
        while self._writing and (len(self._writing) > count or self._writing[0].done()):
            self._writing.pop(0).result()
