import errno
import gc
import hashlib
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import pytest
import tensorflow as tf

from sostenuto.errors import FileError, UserError
from tests.factories import tiny_model
from trainer.checkpoints.manager import CheckpointManager, check_config, checksum_json, restore
from trainer.config import Config
from trainer.presets import preset, read_config
from trainer.workdir.load_model import load_model

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
    return CheckpointManager(str(directory), max_to_keep=3)


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


@pytest.mark.parametrize("name", ["takes [1]", "back\\slash", "all*", "which?", "[", "Étude № 1", "[*?\\]{a,b} c"])
@pytest.mark.parametrize("is_relative", [False, True])
def test_a_checkpoint_is_read_whatever_characters_its_path_has(tmp_path, monkeypatch, name, is_relative):
    """TensorFlow's readers take a path as a pattern, its writers do not."""
    monkeypatch.chdir(tmp_path)
    checkpoints = CheckpointManager(os.path.join("" if is_relative else tmp_path, name), max_to_keep=3)
    save(checkpoints, 5)
    assert_holds(checkpoints.latest(), 5)


def test_a_checkpoint_is_read_whatever_characters_the_temporary_directory_has(tmp_path, monkeypatch):
    directory = tmp_path / "run [1]"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    checkpoints = CheckpointManager(str(directory), max_to_keep=3)
    save(checkpoints, 5)
    assert_holds(checkpoints.latest(), 5)
    assert names(directory) == ["00000005"]


def test_a_checkpoint_that_tensorflow_cannot_read_is_one_line(directory, checkpoints):
    save(checkpoints, 7)
    saved = checkpoints.latest()
    (directory / "00000007" / "variables.index").unlink()
    with pytest.raises(FileError, match=r"00000007: the checkpoint cannot be read \(.*\)\. Check"):
        restore(saved, some_variables())


def test_another_process_finds_it(directory, checkpoints):
    save(checkpoints, 7)
    assert_holds(CheckpointManager(str(directory), max_to_keep=1).latest(), 7)


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
    assert "corrupt" in line


def test_a_changed_byte_never_misleads(directory, checkpoints):
    save(checkpoints, 1, 2)
    path = directory / "00000002" / "checkpoint.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        flip(path, place)
        assert checkpoints.latest().train_step in (1, 2)
        path.write_bytes(whole)
    assert checkpoints.latest().train_step == 2


@pytest.mark.parametrize(
    "change",
    [{"train_step": 1}, {"extra": {"progress": None}}, {"files": {}}, {"files": None}, {"sha256": "0" * 64}],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_that_someone_edited_is_damaged(capfd, directory, checkpoints, change):
    save(checkpoints, 1, 2)
    path = directory / "00000002" / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert checkpoints.latest().train_step == 1
    assert "00000002 is corrupt; skipping it" in capfd.readouterr().err


def test_a_manifest_that_names_a_file_outside_its_checkpoint_is_damaged(directory, checkpoints):
    save(checkpoints, 1, 2)
    (outside := directory / "mine").write_bytes(b"mine")
    path = directory / "00000002" / "checkpoint.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    for name in ("../mine", str(outside)):
        changed = manifest | {"files": manifest["files"] | {name: hashlib.sha256(b"mine").hexdigest()}}
        path.write_text(json.dumps(changed | {"sha256": checksum_json(changed)}))
        assert checkpoints.latest().train_step == 1


def test_a_checkpoint_under_another_ones_name_is_damaged(directory, checkpoints):
    save(checkpoints, 1)
    (directory / "00000001").rename(directory / "00000005")
    assert checkpoints.latest() is None


def test_when_all_are_damaged_there_is_none(directory, checkpoints):
    save(checkpoints, 1, 2)
    for path in directory.glob("*/variables.index"):
        path.write_bytes(b"")
    assert checkpoints.latest() is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_run_that_passed_over_a_damaged_checkpoint_keeps_its_own(directory, keep):
    checkpoints = CheckpointManager(str(directory), max_to_keep=keep)
    save(checkpoints, 50, 100)
    (directory / "00000100" / "variables.index").write_bytes(b"")
    save(checkpoints, 60, 70)
    assert_holds(checkpoints.latest(), 70)


def test_what_was_not_finished_is_ignored_and_then_cleared_away(directory, checkpoints):
    save(checkpoints, 1)
    shutil.copytree(directory / "00000001", directory / "00000003.tmp-0123456789ab")
    (directory / "notes.txt").write_text("not ours")
    assert_holds(checkpoints.latest(), 1)
    save(checkpoints, 2)
    assert names(directory) == ["00000001", "00000002", "notes.txt"]


def fail_to_write(monkeypatch, failing):
    """Makes writing fail as on a full disk: TensorFlow's own file, the wait for the disk, or the manifest."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if failing == "variables":

        def write(checkpoint, prefix, *_):
            pathlib.Path(f"{prefix}.data-00000-of-00001").write_bytes(b"half")
            raise tf.errors.ResourceExhaustedError(None, None, f"{prefix}.data_temp/part; No space left on device [Op]")

        monkeypatch.setattr(tf.train.Checkpoint, "write", write)
    elif failing == "sync":

        def sync(_):
            raise full

        monkeypatch.setattr("os.fsync", sync)
    else:
        whole_open = open

        def open_full(path, mode="r", *arguments, **options):
            if "checkpoint.json" in os.fspath(path) and mode[0] in "wx":
                raise full
            return whole_open(path, mode, *arguments, **options)

        monkeypatch.setattr("builtins.open", open_full)


@pytest.mark.parametrize("failing", ["variables", "sync", "manifest"])
def test_a_save_without_space_leaves_what_was_there_and_says_how_much_it_needs(
    monkeypatch, directory, checkpoints, failing
):
    save(checkpoints, 1)
    large = {"model": [tf.Variable(tf.zeros([1000, 1000]))]}
    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        fail_to_write(patch, failing)
        checkpoints.save(2, large, {})
    (line,) = str(error.value).splitlines()
    full = "the checkpoint of train_step 2 cannot be written (No space left on device): "
    assert line.startswith(f"{directory}: {full}it needs 4.0 MB, ")
    assert f"{directory / '00000001'}, is unchanged. Make room" in line
    assert names(directory) == ["00000001"]
    assert_holds(checkpoints.latest(), 1)
    save(checkpoints, 3)
    assert names(directory) == ["00000001", "00000003"]


def test_a_first_save_that_fails_says_that_none_is_there(tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(
        UserError, match=r"cannot be written \(Not a directory\).*there is no earlier checkpoint"
    ) as error:
        save(CheckpointManager(str(tmp_path / "file" / "checkpoints"), max_to_keep=1), 1)
    assert len(str(error.value).splitlines()) == 1


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


# The one that the chief found.


def test_the_checkpoint_of_a_train_step_is_that_one_though_newer_ones_are_there(checkpoints):
    save(checkpoints, 1, 2, 3)
    saved = checkpoints.load(2)
    assert saved.train_step == 2
    assert_holds(saved, 2)


@pytest.mark.parametrize("damage", [None, *DAMAGES])
def test_the_checkpoint_of_a_train_step_is_not_replaced_by_another(directory, checkpoints, damage):
    """Else one host would go on from other weights than the rest."""
    save(checkpoints, 1, 2)
    if damage:
        DAMAGES[damage](directory / "00000002" / "variables.index")
    with pytest.raises(UserError, match="Use the same workdir on every host") as error:
        checkpoints.load(2 if damage else 4)
    (line,) = str(error.value).splitlines()
    assert line.startswith(str(directory / ("00000002" if damage else "00000004")))


# Written under another config.


def test_a_checkpoint_of_another_config_names_the_fields(checkpoints):
    config = Config().replace(units=16, steps=10)
    checkpoints.save(1, some_variables(), {"config": json.loads(config.to_json())})
    saved = checkpoints.latest()
    check_config(saved, config)
    check_config(saved, config.replace(steps=20, replicas=2, max_to_keep=9))
    with pytest.raises(UserError) as error:
        check_config(saved, config.replace(units=8, accumulation_steps=2, max_to_keep=9))
    (line,) = str(error.value).splitlines()
    assert line.startswith(saved.path)
    assert "units: got 16, expected 8; accumulation_steps: got 1, expected 2. " in line


def test_weights_from_another_workdir_are_not_loaded_as_a_model(tmp_path):
    model = tiny_model("density")
    extra = {"score": 1.0, "config": json.loads(model.config.to_json())}
    CheckpointManager(str(tmp_path / "best"), max_to_keep=1).save(
        3, {"model": [variable.value for variable in model.weights]}, extra
    )
    config_path = tmp_path / "config.json"
    config_path.write_text(model.config.to_json())
    assert load_model(str(tmp_path)).train_step == 3
    config_path.write_text(model.config.replace(units=8, layers=1).to_json())
    with pytest.raises(UserError, match=r"config: units: got 16, expected 8; layers: got 2, expected 1\. .*--workdir"):
        load_model(str(tmp_path))


def test_a_checkpoint_of_an_older_version_has_the_defaults_of_its_config_file(checkpoints, tmp_path):
    values = json.loads(preset("large").to_json())
    del values["head_blocks"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = read_config(tmp_path / "config.json")
    checkpoints.save(1, some_variables(), {"config": values})
    check_config(checkpoints.latest(), config)
    with pytest.raises(UserError, match="head_blocks: got 1, expected 2"):
        check_config(checkpoints.latest(), config.replace(head_blocks=2))
