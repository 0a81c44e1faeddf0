"""The best weights are those that result.json names, after a kill at any moment and after damage to their files."""

import contextlib
import json
import pathlib
import shutil
import time

import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.trainer.workdir.test_remote import CONFIG
from trainer.callbacks.metrics import MetricsWriter
from trainer.engine import loop
from trainer.workdir.load_model import load_model


def train(data, workdir, **options):
    config = CONFIG.replace(**options.pop("changes", {}))
    return loop.train(config, Manifest.load(data), str(workdir), callbacks=[MetricsWriter()], **options)


def best_of(workdir) -> tuple[int, float | None]:
    """The train_step and the score of the weights in best/."""
    (directory,) = (workdir / "best").iterdir()
    manifest = json.loads((directory / "checkpoint.json").read_text())
    return int(directory.name), manifest["extra"]["score"]


def flip(path: pathlib.Path) -> None:
    """Changes one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_best(workdir) -> None:
    """Damages all weights in best/; while a run saves others, it may delete some of them meanwhile."""
    for directory in list((workdir / "best").iterdir()):
        with contextlib.suppress(FileNotFoundError):
            for weights in list(directory.glob("variables.data-*")):
                flip(weights)


class Snapshot(MetricsWriter):
    """Copies the workdir at train_step 14, as a kill before the checkpoint of 16 would leave it."""

    def __init__(self, target: pathlib.Path) -> None:
        self._target = target

    def on_step(self, train_step, events, metrics):
        super().on_step(train_step, events, metrics)
        if train_step == 14:
            workdir = pathlib.Path(self.run.workdir.directory)
            until = time.monotonic() + 60
            while not (workdir / "best" / "00000012").exists():  # It is written in the background.
                assert time.monotonic() < until
                time.sleep(0.01)
            shutil.copytree(workdir, self._target)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """A run that has scored at 6 and 12 and was killed after the checkpoint of 8, and the finished one."""
    directory = tmp_path_factory.mktemp("runs")
    started, finished = directory / "started", directory / "finished"
    loop.train(CONFIG, Manifest.load(dataset), str(finished), callbacks=[Snapshot(started)])
    assert [path.name for path in (started / "checkpoints").iterdir()] == ["00000008"]
    # The weights that the checkpoint names stay until another one names others.
    assert sorted(path.name for path in (started / "best").iterdir()) == ["00000006", "00000012"]
    return started, finished


@pytest.fixture
def finished(runs, tmp_path):
    return shutil.copytree(runs[1], tmp_path / "w")


@pytest.fixture
def started(runs, tmp_path):
    return shutil.copytree(runs[0], tmp_path / "w")


@pytest.mark.parametrize("evaluate_every", [6, 29])
def test_result_json_names_the_best_weights_after_a_kill_and_another_evaluate_every(
    dataset, runs, started, evaluate_every
):
    result = train(dataset, started, changes={"evaluate_every": evaluate_every})
    assert best_of(started) == (result.best_train_step, result.best)
    if evaluate_every == 6:
        assert (started / "result.json").read_bytes() == (runs[1] / "result.json").read_bytes()


def test_lost_best_weights_are_replaced_by_the_newest_with_one_line(dataset, finished, caplog):
    workdir = finished
    damage_best(workdir)
    (workdir / "result.json").unlink()
    result = train(dataset, workdir)
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert (result.best_train_step, result.best) == (30, last["val_nats"])
    assert best_of(workdir) == (30, last["val_nats"])
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "the best weights, of train_step " in line
    assert "are corrupt or missing; those of train_step 30" in line
    assert load_model(str(workdir)).train_step == 30


def test_best_weights_that_are_damaged_while_training_are_replaced_at_its_end(dataset, tmp_path, caplog):
    class Damage(MetricsWriter):
        def on_step(self, train_step, events, metrics):
            super().on_step(train_step, events, metrics)
            if train_step == 28 and (workdir / "best").exists():
                damage_best(workdir)

    workdir = tmp_path / "w"
    result = loop.train(CONFIG, Manifest.load(dataset), str(workdir), callbacks=[Damage()])
    assert best_of(workdir) == (result.best_train_step, result.best)
    assert load_model(str(workdir)).train_step == result.best_train_step


def test_weights_of_best_that_are_readable_come_before_the_newest(dataset, started, caplog):
    workdir = started
    flip(workdir / "best" / "00000006" / "variables.index")
    result = train(dataset, workdir, stop_at=8)
    assert (result.best_train_step, result.best) == best_of(workdir)
    assert result.best_train_step == 12
    assert "those of train_step 12 take their place" in caplog.text


def test_corrupt_best_weights_are_not_scored_as_others(finished, gcs):
    workdir = finished
    damage_best(workdir)
    with pytest.raises(UserError, match=r"w/best: the best weights are corrupt\. Delete result\.json .*repeat"):
        load_model(str(workdir))
    for path in workdir.rglob("*"):
        if path.is_file():
            gcs.put(f"gs://bucket/w/{path.relative_to(workdir).as_posix()}", path.read_bytes())
    with pytest.raises(UserError, match=r"gs://bucket/w/best: the best weights are corrupt\. "):
        load_model("gs://bucket/w")
