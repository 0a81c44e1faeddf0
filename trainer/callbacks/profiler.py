"""Trace of a few train_steps for TensorBoard."""

import logging

import tensorflow as tf

from trainer.callbacks.base import Callback, RunContext
from trainer.callbacks.tensorboard import TensorBoardWriter
from trainer.checkpoints.tensorflow_errors import translate_errors

_TRACED = (10, 20)  # the trace covers the process's train_steps after the first number, up to the second

logger = logging.getLogger(__name__)


class Profiler(Callback):
    """Writes a trace of the process's train_steps 11 to 20, once compilation is over."""

    def __init__(self, tensorboard: TensorBoardWriter) -> None:
        self._tensorboard, self._is_tracing = tensorboard, False

    def on_start(self, run: RunContext) -> None:
        """Chooses the train_steps."""
        super().on_start(run)
        self._begin, self._end = (run.train_step + offset for offset in _TRACED)

    def next_boundary(self, train_step: int) -> int | None:
        """Returns the begin or the end of the trace, or None after it."""
        return next((boundary for boundary in (self._begin, self._end) if boundary > train_step), None)

    def on_call(self, train_step: int, count: int) -> None:
        """Starts or stops the trace."""
        if train_step == self._begin:
            tf.profiler.experimental.start(self._tensorboard.directory)
            self._is_tracing = True
        elif train_step >= self._end:
            self.close()

    def close(self) -> None:
        """Stops the trace."""
        if self._is_tracing:
            self._is_tracing = False
            with translate_errors(self._tensorboard.directory):
                tf.profiler.experimental.stop()
            logger.info(f"profiled from train_step {self._begin + 1:,} on: {self._tensorboard.directory}")
