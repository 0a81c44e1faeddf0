"""Lines on the terminal."""

import dataclasses
import io
import shlex
import sys

import pytest

from sostenuto.progress import silenced
from tests.tuning.summaries import searched, summarize, trial
from tuning.console import Progress, final_report


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
        "0000   completed     100%      8.875    8.875  0:01:40    0:18:20      32     64       1         1"
    )
    assert lines[5].split()[3:5] == ["8.625", "8.625"]
    assert lines[6].split()[:4] == ["0004", "failed", "0%", "8.625"]
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
    with silenced(), Progress() as progress:
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
    assert "1 of 12 trials ended | best 8.000 (0000) | 0001 33% 8.500 | 0:17:47 left" in terminal.getvalue()
    assert "0000   completed" in terminal.getvalue()


def test_the_final_table_is_sorted_and_fits_a_log_for_every_study() -> None:
    study = summarize(
        trial(0, score=8.0),
        trial(1, "failed", reason="no room " * 30),
        trial(2, "stopped", score=7.0),
        trial(3, score=7.5, values={"learning_rate": 0.00123}),
        tune=["all"],
    )
    lines = final_report(study).splitlines()
    assert [line[:4] for line in lines[2:6]] == ["0003", "0000", "0002", "0001"]
    assert max(map(len, lines[:6])) <= 100
    assert lines[2].split()[3:5] == ["7.500", "-0.500"]
    # The base config's score was 9 when the stopped one had 7.
    assert lines[4].split()[3:5] == ["7.000", "-2.000"]
    assert lines[6].endswith("head_blocks: see trials.json")
    assert lines[9].endswith("0.500 below the base config's 8.000.")


def test_the_last_lines_name_the_best_trial_the_files_and_the_command_to_paste() -> None:
    study = summarize(trial(0, score=8.0), trial(1, score=7.5))
    *_, best, config, report, command = final_report(study).splitlines()
    assert best == "best       trial 0001, 7.500 nats/note"
    assert config == "config     /my studies/first/best_config.json"
    assert report == "report     /my studies/first/report.html"
    assert shlex.split(command.removeprefix("next step  ")) == [
        "sostenuto", "train", "--config=/my studies/first/best_config.json", "--data=/data/maestro",
        "--workdir=/my studies/first/best",
    ]  # fmt: skip
    assert final_report(study, retrain=True).splitlines()[-1] == "report  /my studies/first/report.html"
    assert final_report(summarize(trial(0, "failed", reason="no"))).splitlines()[-2:] == [
        "",
        "report  /my studies/first/report.html",
    ]
