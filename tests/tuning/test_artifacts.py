"""Result files of a study."""

import contextlib
import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sostenuto.storage.lease import hold
from tests.processes import run_python
from tests.tuning.summaries import START, STUDIES, searched, summarize, trial
from trainer.presets import parse_config, read_config
from tuning import artifacts
from tuning.artifacts import trials_document
from tuning.summary import StudySummary


def write(study: StudySummary) -> None:
    with contextlib.closing(hold(study.workdir)) as lock:
        artifacts.write(study, lock)


def test_trials_json_says_what_each_trial_was_and_came_to() -> None:
    document = trials_document(
        summarize(
            trial(0, score=8.0),
            trial(1, score=7.5, values={"units": 384}, attempt=2, worker="tuner1", seconds=12.5, reason="steps"),
            trial(2, "failed", reason="out of memory"),
            fix=["layers=3"],
        )
    )
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["objective"] == {
        "name": "val_nats", "unit": "nats/note", "direction": "min", "split": "validation",
    }  # fmt: skip
    assert document["best"] == "0001"
    assert (document["tuner"], document["seed"], document["train_steps"]) == ("random", 3, 900)
    assert document["notes_per_trial"] == 900 * 32 * 128
    assert document["dataset"] == "ab" * 32
    second = document["trials"][1]
    assert second["values"]["units"] == 384
    assert document["trials"][0]["changed"] == {"layers": 3}
    assert second["changed"] == {"units": 384, "layers": 3}
    assert document["start"]["layers"] == START.layers == 2
    assert second["scores"][0] == {"train_step": 300, "share": 1 / 3, "score": 8.5}
    assert {name: second[name] for name in ("state", "score", "train_step", "seconds", "attempts", "worker")} == {
        "state": "completed", "score": 7.5, "train_step": 900, "seconds": 12.5, "attempts": 2, "worker": "tuner1",
    }  # fmt: skip
    assert document["trials"][2]["reason"] == "out of memory"


@pytest.mark.parametrize("length", [{"max_minutes": 25.0}, {"steps": 4000}, {"epochs": 7}])
def test_the_best_config_is_the_best_trials_at_the_length_of_the_start(length: dict[str, Any], tmp_path: Path) -> None:
    start = START.replace(**length, patience=4, evaluate_every=77)
    study = summarize(
        trial(0, score=8.0), trial(1, score=7.5, values={"units": 384, "seq_length": 64}),
        start=start, fix=["layers=3"], workdir=os.fspath(tmp_path),
    )  # fmt: skip
    write(study)
    config = read_config(tmp_path / "best_config.json")
    # As many notes: windows half as long, twice as many train_steps.
    length = {name: 2 * value if name == "steps" else value for name, value in length.items()}
    assert config == start.replace(units=384, seq_length=64, layers=3, **length)
    assert parse_config(config.to_json(), "it") == config


def test_without_a_best_trial_there_is_no_best_config(tmp_path: Path) -> None:
    write(dataclasses.replace(STUDIES["all failed"], workdir=os.fspath(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "summaries", "trials.json"]
    assert json.loads((tmp_path / "trials.json").read_text())["best"] is None
    (tmp_path / "best_config.json").write_text("of the search before its promoted trials failed")
    write(dataclasses.replace(STUDIES["all failed"], workdir=os.fspath(tmp_path)))
    assert not (tmp_path / "best_config.json").exists()


def test_writing_again_leaves_the_same_files_and_removing_none(tmp_path: Path) -> None:
    directory = os.fspath(tmp_path)
    study = dataclasses.replace(searched(), workdir=directory)
    write(dataclasses.replace(study, trials=study.trials[:3]))
    files = {path: path.read_bytes() for path in tmp_path.rglob("events.*")}
    assert len(files) == 4
    write(study)
    assert {path: path.read_bytes() for path in files} == files
    assert len(list(tmp_path.rglob("events.*"))) == 13
    assert not list(tmp_path.rglob("*.tmp-*"))
    with contextlib.closing(hold(directory)) as lock:
        artifacts.remove(directory, lock)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        artifacts.remove(directory, lock)


def events(path: Path) -> list[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    reader, found = PyRecordReader_New(os.fspath(path)), []
    while True:
        try:
            reader.GetNext()  # checks lengths and checksums
        except Exception as error:
            assert type(error).__name__ == "OutOfRangeError"
            return found
        found.append(Event.FromString(reader.record()))


def hparams(event: Any) -> Any:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    return HParamsPluginData.FromString(event.summary.value[0].metadata.plugin_data.content)


def test_tensorboard_gets_the_space_and_each_trial_that_ended(tmp_path: Path) -> None:
    study = summarize(
        trial(0, score=8.0), trial(1, "failed", reason="no", values={"units": 512}), trial(2, "running", score=9.0),
        workdir=os.fspath(tmp_path),
    )  # fmt: skip
    write(study)
    summaries = tmp_path / "summaries"
    assert sorted(path.name for path in summaries.iterdir() if path.is_dir()) == ["0000", "0001"]
    (experiment,) = events(summaries / "events.out.tfevents.study")[1:]
    infos = {info.name: info for info in hparams(experiment).experiment.hparam_infos}
    assert [value.number_value for value in infos["units"].domain_discrete.values][-1] == 512
    assert infos["step_weight"].domain_interval.max_value == 4
    assert hparams(experiment).experiment.metric_infos[0].name.tag == "score"

    _, begin, *scalars, end = events(summaries / "0000" / "events.out.tfevents.study")
    assert hparams(begin).session_start_info.hparams["units"].number_value == 256
    values = [(e.step, e.summary.value[0].tag, e.summary.value[0].tensor.float_val[0]) for e in scalars]
    assert values == [(300, "val_nats", 9.0), (600, "val_nats", 8.5), (900, "val_nats", 8.0), (900, "score", 8.0)]
    assert hparams(end).session_end_info.status == 1  # success
    *_, end = events(summaries / "0001" / "events.out.tfevents.study")
    assert hparams(end).session_end_info.status == 2  # failure


def test_a_chief_that_writes_results_never_loads_tensorflow(tmp_path: Path) -> None:
    program = f"""
import contextlib, dataclasses, sys
from sostenuto.storage.lease import hold
from tests.tuning.summaries import searched
from tuning import artifacts
with contextlib.closing(hold({os.fspath(tmp_path)!r})) as lock:
    artifacts.write(dataclasses.replace(searched(), workdir={os.fspath(tmp_path)!r}), lock)
print("tensorflow" in sys.modules, "keras_tuner" in sys.modules)
"""
    process = run_python("-c", program)
    assert process.stdout.split() == ["False", "False"], process.stderr
    assert (tmp_path / "report.html").exists()


def test_the_trainer_takes_the_best_config(tmp_path: Path) -> None:
    """As far as its flags go: the dataset is missing, which it says after it has read the config."""
    study = searched()
    config = study.space.full_config(study.best.values)
    (tmp_path / "best_config.json").write_text(config.to_json())
    process: subprocess.CompletedProcess[str] = run_python(
        "-m", "trainer", f"--config={tmp_path / 'best_config.json'}", f"--data={tmp_path / 'none'}",
        f"--workdir={tmp_path / 'new'}",
    )  # fmt: skip
    assert process.returncode == 2
    assert "none" in process.stderr
    assert "config" not in process.stderr.partition(":")[2].replace("best_config", "")
