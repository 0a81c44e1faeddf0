"""What a user gets of a study: the files, the lines on the terminal, the page."""

import dataclasses
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pages import Page
from tests.processes import run_python
from trainer.config import Config
from trainer.presets import parse_config, preset, read_config
from tuning import artifacts
from tuning.artifacts import trials_document
from tuning.console import Progress, final_table
from tuning.importance import MIN_CONFIGS, importance
from tuning.report.page import render
from tuning.space_file import create_space
from tuning.summary import StudySummary, format_summary, seconds_left
from tuning.trial import Score, StudyConfig, Trial, TrialStatus

START = preset("base")


def trial(number: int, state: str = "completed", score: float | None = None, **changes: Any) -> Trial:
    """A trial of 900 train_steps; one that completed was scored at each third of them."""
    name = f"{number:04d}"
    scores: tuple[Score, ...] = ()
    if score is not None and state == "completed":
        scores = tuple(Score(300 * third, third / 3, score + 0.5 * (3 - third)) for third in (1, 2, 3))
    elif score is not None:
        scores = (Score(300, 1 / 3, score),)
    values = {"seq_length": 128, "units": 256, "step_weight": 1.0, "duration_weight": 1.0, **changes.pop("values", {})}
    changes = {"directory": f"trials/{name}", "attempt": 1, "worker": "tuner0", "seconds": 100.0, **changes}
    if scores:
        changes = {"train_step": scores[-1].train_step, "scores": scores, **changes}
    ended_with_score = state in ("completed", "stopped")
    changes = {"share": 1.0, "score": score if ended_with_score else None, **changes}
    return Trial(name, TrialStatus(state), values, **changes)


def rung(number: int, share: float, score: float, parent: str | None = None, **changes: Any) -> Trial:
    scores = (Score(round(900 * share), share, score),)
    return trial(number, score=score, share=share, parent=parent, scores=scores, **changes)


def standing(*trials: Trial, start: Config = START, tuner: str = "random", **space: Any) -> StudySummary:
    return StudySummary(trials, create_space(start, **space), StudyConfig(tuner, 12, 900, seed=3, data="ab" * 32))


def searched(count: int = 12) -> StudySummary:
    """A search in which units decide, and nothing else."""
    units = (64, 96, 128, 192, 256, 384, 512)
    return standing(
        *(
            trial(
                number,
                score=9 - units[number % 7] / 512 + 0.001 * (number % 3),
                values={"units": units[number % 7], "seq_length": (32, 64, 128)[number % 3]},
            )
            for number in range(count)
        )
    )


def hyperband() -> StudySummary:
    first = [rung(n, 1 / 9, 9.5 - 0.1 * n, values={"units": (64, 96, 128, 192, 256)[n]}) for n in range(5)]
    return standing(
        *first,
        rung(5, 1 / 3, 8.6, "0004", values=first[4].values, directory="trials/0004"),
        rung(6, 1 / 3, 8.7, "0003", values=first[3].values, directory="trials/0003"),
        rung(7, 1.0, 8.1, "0005", values=first[4].values, directory="trials/0004"),
        tuner="hyperband",
    )


STUDIES = {
    "nothing begun": standing(),
    "one runs": standing(trial(0, "running")),
    "one runs and has a score": standing(trial(0, "running", score=9.0)),
    "one": standing(trial(0, score=8.0)),
    "all failed": standing(*(trial(n, "failed", reason="out of memory: of 12 GiB") for n in range(3))),
    "the first failed": standing(trial(0, "failed", reason="no"), trial(1, score=8.0)),
    "stopped only": standing(trial(0, "stopped", score=9.0), trial(1, "stopped", score=9.5)),
    "many": searched(),
    "equal scores": standing(*(trial(n, score=8.0) for n in range(9))),
    "one far off": standing(*(trial(n, score=7 + n / 10) for n in range(9)), trial(9, score=1e6)),
    "hyperband": hyperband(),
    "all parameters": standing(trial(0, score=8.0), trial(1, score=7.9), tune=["all"], fix=["units=64"]),
    "one parameter": standing(
        trial(0, score=8.0), fix=["seq_length=64", "step_weight=1", "duration_weight=1"]
    ),
    "start outside of the space": standing(
        trial(0, score=8.0, values={"units": 200, "step_weight": 9.0}), trial(1, score=7.9),
        start=START.replace(units=200, step_weight=9.0),
    ),
}  # fmt: skip


def rows(text: str) -> list[list[str]]:
    """The rows of the table of trials."""
    body = text[text.index('class="sortable"') :].partition("<tbody>")[2].partition("</tbody>")[0]
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", body, re.S)]


# trials.json and best_config.json


def test_trials_json_says_what_each_trial_was_and_came_to() -> None:
    document = trials_document(
        standing(
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
    study = standing(
        trial(0, score=8.0), trial(1, score=7.5, values={"units": 384, "seq_length": 64}), start=start, fix=["layers=3"]
    )
    artifacts.write(study, os.fspath(tmp_path))
    config = read_config(tmp_path / "best_config.json")
    # As many notes: windows half as long, twice as many train_steps.
    length = {name: 2 * value if name == "steps" else value for name, value in length.items()}
    assert config == start.replace(units=384, seq_length=64, layers=3, **length)
    assert parse_config(config.to_json(), "it") == config


def test_the_best_is_the_lowest_of_those_trained_longest() -> None:
    assert standing(trial(0, score=8.0), trial(1, "stopped", score=7.0), trial(2, score=7.9)).best.id == "0002"
    assert standing(rung(0, 1 / 3, 7.0), rung(1, 1.0, 7.5)).best.id == "0001"
    assert standing(trial(0, "stopped", score=7.0), trial(1, "failed")).best is None


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
    study = standing(
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
from tests.tuning.test_summary import artifacts, searched
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
    assert seconds_left(standing(trial(0, "running"))) is None
    # 11 to come of 100 s.
    assert seconds_left(standing(trial(0, score=8.0))) == pytest.approx(1100)
    # 9 to come and two thirds of one, by two workers.
    two = standing(
        trial(0, score=8.0), trial(1, score=8.0, worker="tuner1"), trial(2, "running", score=9.0, worker="tuner1")
    )
    assert seconds_left(two) == pytest.approx((900 + 66.7) / 2, abs=0.1)
    # tuner0's trial has just ended: it is at work all the same.
    just = standing(
        trial(0, score=8.0), trial(1, "running", worker="tuner1"), trial(2, score=8.0, worker="tuner0")
    )  # fmt: skip
    assert seconds_left(just) == pytest.approx(1000 / 2)
    assert seconds_left(dataclasses.replace(searched(), trials=searched().trials[:12])) == 0


# On the terminal


def test_a_log_gets_a_line_for_each_trial_that_ended_and_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    study = searched(4)
    with Progress() as progress:
        progress.show(standing())
        progress.show(standing(trial(0, "running")))
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
        progress.show(standing(trial(0, "running")))
        progress.show(standing(trial(0, score=8.0), trial(1, "running", score=8.5)))
    assert "\r" in terminal.getvalue()
    assert "1 of 12 trials ended | best 8.000 (0000) | 0001 33 % 8.500 | 0:17:47 left" in terminal.getvalue()
    assert "0000   completed" in terminal.getvalue()


def test_the_final_table_is_sorted_and_fits_a_log_whatever_is_searched() -> None:
    study = standing(
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


# The page


@pytest.mark.parametrize("name", STUDIES)
def test_a_page_is_whole_needs_no_network_and_can_be_read_aloud(name: str) -> None:
    text = render(STUDIES[name])
    page = Page(text)
    assert "://" not in text
    assert not [found for _, found, _ in page.elements if {"src", "href", "srcset", "data"} & found.keys()]
    assert set(re.findall(r"url\((.*?)\)", text)) <= {"#plot-broad", "#plot-narrow"}
    assert "default-src 'none'" in text
    drawings = [found for tag, found, _ in page.elements if tag == "svg"]
    assert all(found["role"] == "img" and found["aria-label"] for found in drawings)
    assert len(page.all("table")) == len(page.all("caption"))
    assert not re.search(r"\b(nan|inf)\b", text)
    for tag, found, around in page.elements:
        if "svg" in around and tag in ("path", "line", "text", "rect"):
            numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", " ".join(filter(None, found.values())))]
            assert all(map(math.isfinite, numbers))
        assert (tag == "path") <= ("svg" in around)
    last_scored = any(chain.last_scored for chain in STUDIES[name].chains)
    parameters = len(STUDIES[name].space.parameters)
    # Scatter; parallel coordinates and curves for two widths.
    assert len(drawings) == (parameters + 4 if last_scored else 0)
    if STUDIES[name].trials:
        assert len(rows(text)) == len(STUDIES[name].trials)


def test_what_comes_from_elsewhere_is_escaped() -> None:
    evil = '</script><script>alert("x")</script>&\x00\x1b[31m'
    text = render(standing(trial(0, score=8.0, worker=evil), trial(1, "failed", reason=evil)))
    page = Page(text)
    assert len(page.all("script")) == 1
    assert page.text.count('</script><script>alert("x")</script>&\ufffd\ufffd[31m') >= 2
    assert "\x00" not in text
    assert "\x1b" not in text


def test_the_table_has_every_trial_best_first() -> None:
    table = rows(render(standing(
        trial(0, score=8.0), trial(1, "failed", reason="no room"),
        trial(2, score=7.5, values={"units": 384}, attempt=3), trial(3, "stopped", score=9.0),
    )))  # fmt: skip
    assert table == [
        ["0002", "✓ completed", "7.500", "128", "384", "1", "1", "100 %", "0:01:40", "3", "tuner0", ""],
        ["0000", "✓ completed", "8.000", "128", "256", "1", "1", "100 %", "0:01:40", "1", "tuner0", ""],
        ["0003", "■ stopped", "9.000", "128", "256", "1", "1", "33 %", "0:01:40", "1", "tuner0", ""],
        ["0001", "✗ failed", "", "128", "256", "1", "1", "0 %", "0:01:40", "1", "tuner0", "no room"],
    ]


def marks(page: Page, kind: str, name: str) -> list[tuple[str, list[tuple[float, float]]]]:
    """Of the trial: class and points of its paths among `lines` or `points`, by place, in what a wide screen shows."""
    found, inside, is_narrow = [], "", False
    for tag, attributes, around in page.elements:
        if tag == "svg":
            inside, is_narrow = "", attributes.get("class") == "narrow"
        elif is_narrow:
            continue
        elif tag == "g" and around[-1] == "svg":
            inside = attributes["class"] or ""
        elif tag == "path" and inside == kind and attributes["data-trial"] == name:
            numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", attributes["d"] or "")]
            found.append((attributes["class"] or "", list(zip(numbers[::2], numbers[1::2], strict=False))))
    return found


def test_the_charts_place_the_trials_where_they_belong() -> None:
    units = {0: 64, 1: 256, 2: 512}
    scores = {0: 9.0, 1: 8.5, 2: 8.0}
    page = Page(render(standing(*(trial(n, score=scores[n], values={"units": units[n]}) for n in range(3)))))
    # Parallel coordinates: the best ends furthest left, and more units are further right.
    ends = {n: marks(page, "lines", f"{n:04d}")[0][1][-1][0] for n in range(3)}
    assert ends[0] > ends[1] > ends[2]
    assert ends[1] == pytest.approx((ends[0] + ends[2]) / 2, abs=0.2)
    # A cubic has three points a hop; the second axis is that of units.
    second = {n: marks(page, "lines", f"{n:04d}")[0][1][3][0] for n in range(3)}
    assert second[0] < second[1] < second[2]
    # Learning curves: three scores at thirds of the width.
    (_, curve) = marks(page, "lines", "0002")[1]
    assert len(curve) == 3
    assert curve[2][0] - curve[1][0] == pytest.approx(curve[1][0] - curve[0][0], abs=0.2)
    assert curve[0][1] < curve[1][1] < curve[2][1]
    # Scatter, the second chart: to the right with units, lower with the score.
    dots = {n: marks(page, "points", f"{n:04d}")[1][1][0] for n in range(3)}
    assert dots[0][0] < dots[1][0] < dots[2][0]
    assert dots[0][1] < dots[1][1] < dots[2][1]
    assert {kind for kind, _ in marks(page, "lines", "0002")} == {"best"}
    assert {kind for kind, _ in marks(page, "lines", "0000")} == {"s0 first"}


def test_one_trial_that_went_wrong_does_not_press_the_others_together() -> None:
    page = Page(render(STUDIES["one far off"]))
    heights = [marks(page, "points", f"{n:04d}")[0][1][0][1] for n in range(1, 9)]
    assert max(heights) - min(heights) > 100
    assert "A triangle marks a score above the axis: 1 of 10 configs." in page.words


def test_a_config_that_was_trained_on_is_one_line_and_compared_at_one_length() -> None:
    study = hyperband()
    assert [len(chain.trials) for chain in study.chains] == [1, 1, 1, 2, 3]
    last = study.chains[-1]
    assert [share for _, share, _ in last.curve] == [1 / 9, 1 / 3, 1.0]
    assert last.score_at(1 / 9) == pytest.approx(9.1)
    assert last.score_at(2 / 3) == pytest.approx((8.6 + 8.1) / 2)
    assert study.chains[0].score_at(1 / 3) is None
    page = Page(render(study))
    assert len(page.all("path", **{"data-trial": "0004"})) == 2 + 4 + 2 * (1 + 3)  # lines, scatter, curves with dots
    assert "after 11 % of the full length" in page.words
    assert "continues" in page.words
    assert trials_document(study)["trials"][7]["parent"] == "0005"


def test_a_stopped_trial_is_hollow_and_ends_in_a_cross() -> None:
    page = Page(render(standing(*(trial(n, score=8 + n / 10) for n in range(9)), trial(9, "stopped", score=8.95))))
    kinds = [kind for kind, _ in marks(page, "points", "0009")]
    assert sum("hollow" in kind for kind in kinds) == 4
    assert sum("cross" in kind for kind in kinds) == 1
    assert "Hollow marks are configs that were stopped" in page.words


# Importance


def test_the_hyperparameter_that_decides_is_found() -> None:
    found = importance(searched(21))
    assert found is not None
    assert next(iter(found.means)) == "units"
    assert found.means["units"] > 10 * found.means["seq_length"]
    assert found.fit > 0.5
    assert (found.share, found.configs) == (1.0, 21)
    assert "The hyperparameter units mattered most." in Page(render(searched(21))).words


def test_no_importance_is_told_from_a_few_trials_or_from_noise() -> None:
    few = searched(MIN_CONFIGS - 1)
    assert importance(few) is None
    text = Page(render(few)).words
    assert "too few scores to rank" in text
    assert "7 have scores to compare, and at least 8 are needed" in text
    equal = importance(STUDIES["equal scores"])
    assert equal is not None
    assert set(equal.means.values()) == {0.0}
    assert "No hyperparameter stands out" in Page(render(STUDIES["equal scores"])).words


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
