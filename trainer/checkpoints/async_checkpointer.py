"""Checkpoints written in the background."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import tensorflow as tf

from trainer.checkpoints.manager import CheckpointManager, Variables


class AsyncCheckpointer(contextlib.AbstractContextManager):
    """Writes checkpoints in a thread, in the order of the calls, while training continues; a context manager.

    Each method raises FileError if this or an earlier checkpoint cannot be written.
    """

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._writing: list[concurrent.futures.Future] = []

    def __exit__(self, *_: object) -> None:
        """Waits until everything is written, also after another error."""
        self._thread.shutdown()
        self.wait()

    def save(
        self,
        checkpoints: CheckpointManager,
        train_step: int,
        variables: Variables,
        extra: Mapping[str, Any],
        *,
        keep: Callable[[], Collection[int]] = tuple,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Saves a copy of the variables, then calls `then`, in the thread; waits while two saves are in progress.

        The save keeps the checkpoints of `keep`, called in the thread, too.
        """
        self.wait(at_most=1)
        with tf.device("CPU:0"):
            # TensorFlow shares the memory until the next train_step changes the variable.
            copies = {
                name: [tf.Variable(variable.read_value(), trainable=False) for variable in group]
                for name, group in variables.items()
            }

        def write() -> None:
            checkpoints.save(train_step, copies, extra, keep=keep())
            then()

        self._writing.append(self._thread.submit(write))

    def wait(self, *, at_most: int = 0) -> None:
        """Waits until at most `at_most` saves are in progress."""
        while self._writing and (len(self._writing) > at_most or self._writing[0].done()):
            self._writing.pop(0).result()
