import gc
import shutil

import numpy as np
import pytest
import tensorflow as tf

from notes.errors import UserError
from tests.trainer.models import tiny_model
from trainer.checkpoints import Checkpoints, restore

FILES = ["checkpoint.json", "variables.data-00000-of-00001", "variables.index"]


def some_variables(value=0.0):
    """Variables of several types and shapes, all filled with a number."""
    return {
        "model": [
            tf.Variable(tf.fill([3, 2], float(value))),
            tf.Variable(tf.fill([4], tf.constant(value, tf.float64))),
        ],
        "run": [tf.Variable(int(value), dtype=tf.int64)],
    }


def values_of(variables):
    return [variable.numpy() for group in variables.values() for variable in group]


def assert_holds(saved, value):
    variables = some_variables()
    restore(saved, variables)
    for variable, expected in zip(values_of(variables), values_of(some_variables(value)), strict=True):
        np.testing.assert_array_equal(variable, expected)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def checkpoints(directory):
    return Checkpoints(str(directory), keep=3)


def save(checkpoints, *train_steps):
    for train_step in train_steps:
        checkpoints.save(train_step, some_variables(train_step), {"progress": {"best": train_step / 7, "of": None}})


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_what_was_saved_comes_back(directory, checkpoints):
    assert checkpoints.latest() is None
    save(checkpoints, 12, 250)
    saved = checkpoints.latest()
    assert saved.train_step == 250
    assert saved.extra == {"progress": {"best": 250 / 7, "of": None}}
    assert_holds(saved, 250)
    assert names(directory) == ["00000012", "00000250"]
    assert names(directory / "00000250") == FILES


def test_another_process_finds_it(directory, checkpoints):
    save(checkpoints, 7)
    assert_holds(Checkpoints(str(directory), keep=1).latest(), 7)


def test_a_model_comes_back_with_all_its_weights(checkpoints):
    model = tiny_model("density", layers=2)
    checkpoints.save(1, {"model": [variable.value for variable in model.weights]}, {})
    other = tiny_model("density", layers=2, seed=1)
    restore(checkpoints.latest(), {"model": [variable.value for variable in other.weights]})
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_part_may_be_restored_alone(checkpoints):
    save(checkpoints, 5)
    variables = some_variables()
    restore(checkpoints.latest(), {"model": variables["model"]})
    assert [float(np.ravel(value)[0]) for value in values_of(variables)] == [5, 5, 0]


def test_the_newest_are_kept(directory, checkpoints):
    save(checkpoints, 1, 2, 30, 100, 99_999_999, 100_000_000)
    assert names(directory) == ["00000100", "100000000", "99999999"]
    assert_holds(checkpoints.latest(), 100_000_000)


def test_a_checkpoint_replaces_one_of_its_train_step(directory, checkpoints):
    save(checkpoints, 10)
    checkpoints.save(10, some_variables(3), {"again": True})
    assert names(directory) == ["00000010"]
    assert checkpoints.latest().extra == {"again": True}
    assert_holds(checkpoints.latest(), 3)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "a byte is another": lambda path: flip(path, path.stat().st_size // 2),
    "the last byte is another": lambda path: flip(path, -1),
    "it is cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "it is empty": lambda path: path.write_bytes(b""),
    "it is gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(capfd, directory, checkpoints, file, damage):
    save(checkpoints, 1, 2)
    DAMAGES[damage](directory / "00000002" / file)
    saved = checkpoints.latest()
    assert saved.train_step == 1
    assert_holds(saved, 1)
    (line,) = capfd.readouterr().err.splitlines()
    assert str(directory / "00000002") in line
    assert "damaged" in line


def test_a_changed_byte_never_misleads(directory, checkpoints):
    save(checkpoints, 1, 2)
    path = directory / "00000002" / "checkpoint.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        flip(path, place)
        assert checkpoints.latest().train_step in (1, 2)
        path.write_bytes(whole)
    assert checkpoints.latest().train_step == 2


def test_when_all_are_damaged_there_is_none(directory, checkpoints):
    save(checkpoints, 1, 2)
    for path in directory.glob("*/variables.index"):
        path.write_bytes(b"")
    assert checkpoints.latest() is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_run_that_passed_over_a_damaged_checkpoint_keeps_its_own(directory, keep):
    checkpoints = Checkpoints(str(directory), keep=keep)
    save(checkpoints, 50, 100)
    (directory / "00000100" / "variables.index").write_bytes(b"")
    save(checkpoints, 60, 70)
    assert_holds(checkpoints.latest(), 70)


def test_what_was_not_finished_is_ignored_and_then_cleared_away(directory, checkpoints):
    save(checkpoints, 1)
    shutil.copytree(directory / "00000001", directory / ".unfinished-abc")
    (directory / "notes.txt").write_text("not ours")
    assert_holds(checkpoints.latest(), 1)
    save(checkpoints, 2)
    assert names(directory) == ["00000001", "00000002", "notes.txt"]


def test_a_save_that_fails_leaves_what_was_there(monkeypatch, directory, checkpoints):
    save(checkpoints, 1)

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("trainer.checkpoints.storage.atomic_write", fail)
    with pytest.raises(OSError, match="no space"):
        save(checkpoints, 2)
    monkeypatch.undo()
    assert_holds(checkpoints.latest(), 1)
    save(checkpoints, 3)
    assert names(directory) == ["00000001", "00000003"]


@pytest.mark.parametrize(
    "changes", [{"units": 8}, {"layers": 3}, {"layers": 1}, {"head_units": 5}], ids=lambda changes: str(changes)
)
def test_another_architecture_is_one_line(caplog, checkpoints, changes):
    model = tiny_model("density", layers=2)
    checkpoints.save(1, {"model": [variable.value for variable in model.weights]}, {})
    other = tiny_model("density", **{"layers": 2, **changes})
    with pytest.raises(UserError, match="not a checkpoint of this config") as error:
        restore(checkpoints.latest(), {"model": [variable.value for variable in other.weights]})
    assert len(str(error.value).splitlines()) == 1
    # Nor does TensorFlow add lines of its own when what it began is thrown away.
    gc.collect()
    assert caplog.records == []


def test_more_or_fewer_variables_than_were_saved_are_refused(checkpoints):
    save(checkpoints, 1)
    extra = some_variables()["model"]
    for group in ([*extra, tf.Variable(0.0)], extra[:1]):
        with pytest.raises(UserError, match="not a checkpoint of this config"):
            restore(checkpoints.latest(), {"model": group})
    with pytest.raises(UserError, match="not a checkpoint of this config"):
        restore(checkpoints.latest(), {"weights": extra})
