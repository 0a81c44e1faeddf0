"""The next batch begins before the update before it has ended, so that a GPU does not wait for it."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.engine.test_train_state import LENGTHS, table_of, tiny
from trainer.data.windows import Batch, WindowSampler
from trainer.distribution.strategy import create_strategy
from trainer.engine.train_state import TrainState
from trainer.model.heads import DensityHeads

TRAIN_STEPS = 3


class Meeting:
    """Counts the batches that have begun; each loss waits for the batch after its own."""

    def __init__(self) -> None:
        self.batches, self.losses, self.met = 0, 0, []
        self._changed = threading.Condition()

    def begin_batch(self, first_example: np.ndarray) -> np.ndarray:
        with self._changed:
            self.batches += 1
            self._changed.notify_all()
        return first_example

    def await_next_batch(self) -> np.ndarray:
        with self._changed:
            self.losses += 1
            needed = self.losses + 1
            self.met.append(self._changed.wait_for(lambda: self.batches >= needed, timeout=20))
        return np.zeros((), np.int64)


class MeetingWindows(WindowSampler):
    """Windows that tell when a batch begins."""

    meeting: Meeting

    def batch(self, first_example: tf.Tensor, windows: int) -> Batch:
        with tf.device("CPU:0"):
            begun = tf.numpy_function(self.meeting.begin_batch, [first_example], tf.int64, stateful=False)
        return super().batch(tf.ensure_shape(begun, []), windows)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_the_next_batch_begins_before_the_update_has_ended(monkeypatch, accumulation_steps):
    config = tiny(accumulation_steps=accumulation_steps, layers=1)
    meeting = Meeting()
    windows = MeetingWindows(table_of(LENGTHS), config)
    windows.meeting = meeting
    losses = DensityHeads.losses

    def waiting_losses(heads, *args):
        found = losses(heads, *args)
        if tf.executing_eagerly():  # while the model is built
            return found
        with tf.control_dependencies([tf.numpy_function(meeting.await_next_batch, [], tf.int64)]):
            return {field: tf.identity(loss) for field, loss in found.items()}

    monkeypatch.setattr(DensityHeads, "losses", waiting_losses)
    strategy = create_strategy(["CPU:0"])
    with strategy.scope():
        state = TrainState(config, windows, strategy)
    state.run(TRAIN_STEPS)
    assert meeting.met == [True] * (TRAIN_STEPS * accumulation_steps)
    assert state.train_step.numpy() == TRAIN_STEPS
