"""One replica or two, many calls or few: the same weights. And when a run ends."""

import json
import shutil

import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.factories import TINY, write_dataset
from tests.processes import run_python
from tests.trainer.runs import files, metrics, train
from trainer.engine import loop
from trainer.presets import preset, read_config


@pytest.fixture(scope="module")
def replica_runs(dataset):
    """What tests.trainer.replica_runs prints."""
    run = run_python("-m", "tests.trainer.replica_runs", str(dataset))
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_replicas_and_calls_do_not_change_the_weights(replica_runs):
    """With dropout and augmentation on; Adam makes an element-wise comparison in float32 meaningless."""
    distances = replica_runs["distances"]
    for name in ("base", "tutorial"):
        assert distances[f"{name} float64, two replicas"] < 1e-9
        assert distances[f"{name} float64, resumed on two replicas"] < 1e-9
    assert distances["base float32, two replicas"] < 1e-4
    assert distances["many calls"] == 0


def test_accumulated_batches_are_as_good_as_one_larger(replica_runs):
    assert replica_runs["distances"]["accumulated on two replicas"] < 1e-9


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_coarser_arithmetic_stays_near(replica_runs, precision):
    assert 1e-6 < replica_runs["distances"][precision] < 0.1


def test_what_overflows_on_one_replica_reaches_the_weights_of_none(replica_runs):
    first, second, overflow, after = replica_runs["overflow"]
    assert [report["train_step"] for report in replica_runs["overflow"]] == [1, 2, 3, 4]
    assert overflow["moved"] == 0
    assert all(0.001 < report["moved"] < 1 for report in (first, second, after))
    assert all(report["apart"] == 0 and not report["stopped"] for report in replica_runs["overflow"])


def test_the_loss_scale_doubles_after_its_patience_and_halves_with_each_overflow(replica_runs):
    """The patience is of two train_steps there; it starts again after an overflow."""
    start = 2.0**15
    assert [report["loss_scale"] for report in replica_runs["overflow"]] == [start, 2 * start, start, start]


@pytest.fixture(scope="module")
def without_progress(dataset, tmp_path_factory):
    """The workdir of a run with so high a learning rate that its first report stays the best."""
    workdir = tmp_path_factory.mktemp("without_progress") / "w"
    process = train(dataset, workdir, *TINY["tutorial"], "--learning_rate=3", "--patience=3", "--epochs=40")
    assert process.returncode == 0, process.stderr
    assert "train_steps (no better score within --patience=3); best training loss " in process.stdout
    return workdir


def test_a_run_without_progress_ends_and_keeps_its_best_weights(without_progress):
    result = json.loads((without_progress / "result.json").read_text())
    losses = {line["train_step"]: line["loss"] for line in metrics(without_progress)}
    assert result["reason"] == "patience"
    assert result["best"] == min(losses.values())
    assert len(losses) == list(losses).index(result["best_train_step"]) + 1 + 3 < 40
    (best,) = (without_progress / "best").iterdir()
    assert int(best.name) == result["best_train_step"]


def test_checkpoints_from_another_workdir_are_not_gone_on_from(dataset, without_progress, tmp_path):
    config = read_config(without_progress / "config.json").replace(units=8, max_to_keep=2)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").write_text(config.to_json())
    shutil.copytree(without_progress / "checkpoints", tmp_path / "w" / "checkpoints")
    before = files(tmp_path / "w" / "checkpoints")
    process = train(dataset, tmp_path / "w", "--quiet")
    assert (process.returncode, process.stdout) == (2, ""), process.stderr
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"trainer: {tmp_path / 'w' / 'checkpoints'}")
    assert "units: got 16, expected 8. " in line
    assert files(tmp_path / "w" / "checkpoints") == before


def test_scores_that_there_is_nothing_for_are_refused(tmp_path):
    """Before anything is written; without them it could train."""
    data = write_dataset(tmp_path / "data", {"train": [40], "validation": [1, 1]})
    config = preset("base").replace(steps=1)
    with pytest.raises(UserError, match=r"validation split has nothing to score\. Pass --evaluate_every=0") as error:
        loop.train(config, Manifest.load(data), str(tmp_path / "w"))
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "w").exists()
