"""Checkpoints that are written while training continues."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from sostenuto.errors import UserError
from tests.trainer.checkpoints.test_manager import assert_holds, names, some_variables, values_of
from trainer.checkpoints.async_checkpointer import AsyncCheckpointer
from trainer.checkpoints.manager import CheckpointManager, restore


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "checkpoints"


class _Gate(CheckpointManager):
    """Checkpoints that are written only once the gate is open."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.open = threading.Event()

    def save(self, *arguments, **options):
        assert self.open.wait(60)
        super().save(*arguments, **options)


CHANGES = {
    "assign": lambda variable: variable.assign(tf.zeros_like(variable)),
    "assign_add": lambda variable: variable.assign_add(tf.ones_like(variable)),
    "scatter_add": lambda variable: variable.scatter_nd_add([[0]], [1]) if variable.shape.rank else None,
    "in a graph": tf.function(lambda variable: variable.assign_sub(tf.ones_like(variable)), autograph=False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_written_is_what_was_there_when_it_was_saved(directory, change):
    checkpoints = _Gate(str(directory), max_to_keep=3)
    variables = {"model": [tf.Variable(tf.fill([100_000], 3.0))], "run": [tf.Variable(3, dtype=tf.int64)]}
    with AsyncCheckpointer() as saver:
        saver.save(checkpoints, 3, variables, {})
        for group in variables.values():
            for variable in group:
                CHANGES[change](variable)
        checkpoints.open.set()
        saver.wait()
    restored = {"model": [tf.Variable(tf.zeros([100_000]))], "run": [tf.Variable(0, dtype=tf.int64)]}
    restore(checkpoints.latest(), restored)
    assert all(np.all(value == 3) for value in values_of(restored))


def test_checkpoints_are_written_in_order_and_all_on_leaving(directory):
    """So that the newest is the last that was given, though of an earlier train_step."""
    checkpoints, best = _Gate(str(directory), max_to_keep=5), CheckpointManager(str(directory / "best"), max_to_keep=1)
    timer = threading.Timer(0.2, checkpoints.open.set)
    with AsyncCheckpointer() as saver:
        timer.start()
        for train_step in (30, 10, 20):
            saver.save(checkpoints, train_step, some_variables(train_step), {})
        saver.save(best, 7, some_variables(7), {})
    assert names(directory) == ["00000010", "00000020", "best"]
    assert_holds(checkpoints.latest(), 20)
    assert_holds(best.latest(), 7)


def test_no_more_than_two_wait_to_be_written(directory):
    """Else a slow disk would fill the memory with copies of the variables."""
    checkpoints = _Gate(str(directory), max_to_keep=5)
    given = []

    def give():
        for train_step in (1, 2, 3, 4):
            saver.save(checkpoints, train_step, some_variables(train_step), {})
            given.append(train_step)

    with AsyncCheckpointer() as saver:
        thread = threading.Thread(target=give)
        thread.start()
        thread.join(0.5)
        assert given == [1, 2]
        checkpoints.open.set()
        thread.join(60)
    assert names(directory) == ["00000001", "00000002", "00000003", "00000004"]


@pytest.mark.parametrize("asked", ["wait", "save"])
def test_a_checkpoint_that_could_not_be_written_is_reported(tmp_path, directory, asked):
    (tmp_path / "file").write_text("no directory")
    nowhere, checkpoints = (
        CheckpointManager(str(tmp_path / "file" / "checkpoints"), max_to_keep=1),
        CheckpointManager(str(directory), max_to_keep=1),
    )
    with AsyncCheckpointer() as saver:
        saver.save(nowhere, 1, some_variables(), {})
        with pytest.raises(UserError, match="the checkpoint of train_step 1 cannot be written"):
            if asked == "wait":
                saver.wait()
            for train_step in (2, 3, 4):
                saver.save(checkpoints, train_step, some_variables(), {})
