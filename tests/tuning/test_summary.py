"""Results of a study: the files and the lines on the terminal."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_python
from tests.tuning.summaries import START, STUDIES, rung, searched, summarize, trial
from trainer.presets import parse_config, read_config
from tuning import artifacts
from tuning.artifacts import trials_document
from tuning.console import Progress, final_table
from tuning.summary import format_summary, seconds_left

# trials.json and best_config.json


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
    assert second["changed"] == {"units": 384}
    assert document["start"]["layers"] == 3
    assert second["scores"][0] == {"train_step": 300, "share": 1 / 3, "score": 8.5}
    assert {name: second[name] for name in ("state", "score", "train_step", "seconds", "attempts", "worker")} == {
        "state": "completed", "score": 7.5, "train_step": 900, "seconds": 12.5, "attempts": 2, "worker": "tuner1",
    }  # fmt: skip
    assert document["trials"][2]["reason"] == "out of memory"


@pytest.mark.parametrize("length", [{"max_minutes": 25.0}, {"steps": 4000}, {"epochs": 7}])
def test_the_best_config_is_the_best_trials_at_the_length_of_the_start(length: dict[str, Any], tmp_path: Path) -> None:
    start = START.replace(**length, patience=4, evaluate_every=77)
    study = summarize(
        trial(0, score=8.0), trial(1, score=7.5, values={"units": 384, "seq_length": 64}), start=start, fix=["layers=3"]
    )
    artifacts.write(study, os.fspath(tmp_path))
    config = read_config(tmp_path / "best_config.json")
    # As many notes: windows half as long, twice as many train_steps.
    length = {name: 2 * value if name == "steps" else value for name, value in length.items()}
    assert config == start.replace(units=384, seq_length=64, layers=3, **length)
    assert parse_config(config.to_json(), "it") == config


def test_the_best_is_the_lowest_of_those_trained_longest() -> None:
    assert summarize(trial(0, score=8.0), trial(1, "stopped", score=7.0), trial(2, score=7.9)).best.id == "0002"
    assert summarize(rung(0, 1 / 3, 7.0), rung(1, 1.0, 7.5)).best.id == "0001"
    assert summarize(trial(0, "stopped", score=7.0), trial(1, "failed")).best is None


def test_without_a_best_trial_there_is_no_best_config(tmp_path: Path) -> None:
    artifacts.write(STUDIES["all failed"], os.fspath(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "summaries", "trials.json"]
    assert json.loads((tmp_path / "trials.json").read_text())["best"] is None


def test_writing_again_leaves_the_same_files_and_removing_none(tmp_path: Path) -> None:
    study = searched()
    directory = os.fspath(tmp_path)
    artifacts.write(dataclasses.replace(study, trials=study.trials[:3]), directory)
    files = {path: path.read_bytes() for path in tmp_path.rglob("events.*")}
    assert len(files) == 4
    artifacts.write(study, directory)
    assert {path: path.read_bytes() for path in files} == files
    assert len(list(tmp_path.rglob("events.*"))) == 13
    assert not list(tmp_path.rglob("*.tmp-*"))
    artifacts.remove(directory)
    assert list(tmp_path.iterdir()) == []
    artifacts.remove(directory)


# TensorBoard


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
        trial(0, score=8.0), trial(1, "failed", reason="no", values={"units": 512}), trial(2, "running", score=9.0)
    )
    artifacts.write(study, os.fspath(tmp_path))
    summaries = tmp_path / "summaries"
    assert sorted(path.name for path in summaries.iterdir() if path.is_dir()) == ["0000", "0001"]
    (experiment,) = events(summaries / "events.out.tfevents.study")[1:]
    infos = {info.name: info for info in hparams(experiment).experiment.hparam_infos}
    assert [value.number_value for value in infos["units"].domain_discrete.values][-1] == 512
    assert infos["step_weight"].domain_interval.max_value == 4
    assert hparams(experiment).experiment.metric_infos[0].name.tag == "score"

    _, begin, *scalars, end = events(summaries / "0000" / "events.out.tfevents.study")
    assert hparams(begin).session_start_info.hparams["units"].number_value == 256
    told = [(e.step, e.summary.value[0].tag, e.summary.value[0].tensor.float_val[0]) for e in scalars]
    assert told == [(300, "val_nats", 9.0), (600, "val_nats", 8.5), (900, "val_nats", 8.0), (900, "score", 8.0)]
    assert hparams(end).session_end_info.status == 1  # success
    *_, end = events(summaries / "0001" / "events.out.tfevents.study")
    assert hparams(end).session_end_info.status == 2  # failure


def test_a_chief_that_writes_results_never_loads_tensorflow(tmp_path: Path) -> None:
    program = f"""
import sys
from tests.tuning.summaries import searched
from tuning import artifacts
artifacts.write(searched(), {os.fspath(tmp_path)!r})
print("tensorflow" in sys.modules, "keras_tuner" in sys.modules)
"""
    process = run_python("-c", program)
    assert process.stdout.split() == ["False", "False"], process.stderr
    assert (tmp_path / "report.html").exists()


# In words


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("nothing begun", "No trial has started."),
        ("one runs", "1 trial: 1 running. None has completed yet."),
        ("one", "1 trial: 1 completed. The best, trial 0000, scores 8.000 nats/note on the validation split: it is the "
                "base config."),
        ("all failed", "3 trials: 3 failed. All failed, the last one with: out of memory: of 12 GiB."),
        ("the first failed", "2 trials: 1 completed, 1 failed. The best, trial 0001, scores 8.000 nats/note on the "
                             "validation split; the base config has no score to compare with."),
        ("all parameters", "2 trials: 2 completed. The best, trial 0001, scores 7.900 nats/note on the validation "
                           "split, 0.100 below the base config's 8.000."),
        ("hyperband", "8 trials: 8 completed. They are 5 configs: the better ones continue in further trials. "
                      "The best, trial 0007, scores 8.100 nats/note on the validation split, 1.400 below the "
                      "base config's 9.500, after only 11 % of the full length."),
    ],
)  # fmt: skip
def test_the_conclusion(study: str, said: str) -> None:
    assert " ".join(format_summary(STUDIES[study])) == said


# The time left


def test_the_time_left_is_that_of_the_trials_to_come_shared_by_the_workers() -> None:
    assert seconds_left(summarize(trial(0, "running"))) is None
    # 11 to come of 100 s.
    assert seconds_left(summarize(trial(0, score=8.0))) == pytest.approx(1100)
    # 9 to come and two thirds of one, by two workers.
    two = summarize(
        trial(0, score=8.0), trial(1, score=8.0, worker="tuner1"), trial(2, "running", score=9.0, worker="tuner1")
    )
    assert seconds_left(two) == pytest.approx((900 + 66.7) / 2, abs=0.1)
    # tuner0's trial has just ended: it is at work all the same.
    just = summarize(
        trial(0, score=8.0), trial(1, "running", worker="tuner1"), trial(2, score=8.0, worker="tuner0")
    )  # fmt: skip
    assert seconds_left(just) == pytest.approx(1000 / 2)
    assert seconds_left(dataclasses.replace(searched(), trials=searched().trials[:12])) == 0


# On the terminal


def test_a_log_gets_a_line_for_each_trial_that_ended_and_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    study = searched(4)
    with Progress() as progress:
        progress.show(summarize())
        progress.show(summarize(trial(0, "running")))
        for count in (1, 1, 3, 4):
            progress.show(dataclasses.replace(study, trials=study.trials[:count]))
        progress.show(
            dataclasses.replace(study, trials=[*study.trials, trial(4, "failed", reason="out of memory: " + 99 * "x")])
        )
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert "\r" not in captured.err
    assert [line.split()[0] for line in lines[1:]] == ["trial", "0000", "0001", "0002", "0003", "0004"]
    assert lines[2] == (
        "0000   completed    100 %      8.875    8.875  0:01:40    0:18:20      32     64       1         1"
    )
    assert lines[5].split()[4:6] == ["8.625", "8.625"]
    assert lines[6].split()[:5] == ["0004", "failed", "0", "%", "8.625"]
    assert lines[6].endswith("…")
    assert max(map(len, lines)) <= 100


def test_a_resumed_study_sums_up_what_was_there(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.show(searched(4))
        progress.show(searched(5))
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith("resumed: 4 trials: 4 completed. The best, trial 0003, scores 8.625")
    assert [line.split()[0] for line in lines[2:]] == ["0004"]


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True) as progress:
        progress.show(searched())
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_line_that_is_kept_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    with Progress() as progress:
        progress.show(summarize(trial(0, "running")))
        progress.show(summarize(trial(0, score=8.0), trial(1, "running", score=8.5)))
    assert "\r" in terminal.getvalue()
    assert "1 of 12 trials ended | best 8.000 (0000) | 0001 33 % 8.500 | 0:17:47 left" in terminal.getvalue()
    assert "0000   completed" in terminal.getvalue()


def test_the_final_table_is_sorted_and_fits_a_log_whatever_is_searched() -> None:
    study = summarize(
        trial(0, score=8.0),
        trial(1, "failed", reason="no room " * 30),
        trial(2, "stopped", score=7.0),
        trial(3, score=7.5, values={"learning_rate": 0.00123}),
        tune=["all"],
    )
    lines = final_table(study).splitlines()
    assert [line[:4] for line in lines[2:6]] == ["0003", "0000", "0002", "0001"]
    assert max(map(len, lines[:6])) <= 100
    assert lines[2].split()[4:6] == ["7.500", "-0.500"]
    # The base config's score was 9 when the stopped one had 7.
    assert lines[4].split()[4:6] == ["7.000", "-2.000"]
    assert lines[6].endswith("head_blocks: see trials.json")
    assert lines[-1].endswith("0.500 below the base config's 8.000.")


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
