"""Output of a run while it trains, and the samples that it writes or not."""

import json
import re

import pytest

from tests.factories import TINY
from tests.processes import on_terminal
from tests.trainer.runs import files, train
from tests.trainer.terminal_run import EVALUATE_EVERY, SCORING_SECONDS, STEP_SECONDS, STEPS


def seconds_left(train_step: int) -> float:
    scores = STEPS // EVALUATE_EVERY - train_step // EVALUATE_EVERY
    return (STEPS - train_step) * STEP_SECONDS + scores * SCORING_SECONDS


@pytest.fixture(scope="module")
def shown(dataset, tmp_path_factory):
    """What a terminal gets of a run."""
    workdir = tmp_path_factory.mktemp("terminal") / "w"
    return on_terminal("-m", "tests.trainer.terminal_run", str(dataset), str(workdir), columns=80)


def test_the_time_left_on_a_terminal_counts_scores_apart_and_does_not_jump(shown):
    bars = re.findall(r"training: +\d+%\|.*?\| (\d+)/120 \[[\d:]+, (\d+):(\d\d):(\d\d) left", shown)
    left = [(int(train_step), int(h) * 3600 + int(m) * 60 + int(s)) for train_step, h, m, s in bars]
    assert {train_step for train_step, _ in left} >= {50, 60, 80, 100}
    # The first score compiles; from the second one on it is known what they take.
    for train_step, seconds in left:
        if train_step > 2 * EVALUATE_EVERY:
            at_least = seconds_left(train_step)
            # Between a score and the report that follows it, the bar still shows it as to come.
            due = SCORING_SECONDS if train_step % EVALUATE_EVERY == 0 else 0
            assert at_least - 1 <= seconds <= at_least + due + 1


def test_each_phase_has_a_bar_of_its_own(shown):
    assert re.search(r"scoring validation: +\d+%\|[^\r\n]*/58 \[", shown)
    assert "exporting the best weights [" in shown
    assert not re.search(r"(exporting|playing|scoring|compiling)[^\r\n]*/120 \[", shown)
    after = shown[shown.index("exporting the best weights") :]
    assert "/120 [" not in after


def test_the_bar_of_training_fits_a_terminal_of_80_columns(shown):
    assert re.search(r"training: +\d+%\|[^|]{3,}\| \d+/120 \[[^\r\n]* loss [\d.]+, [\d,]+ notes/s\]", shown)


def test_for_a_machine_the_time_left_counts_the_scores_to_come(dataset, tmp_path):
    flags = [*TINY["base"], "--steps=40", "--evaluate_every=5", "--log_every=1", "--samples=0", "--log_json"]
    process = train(dataset, tmp_path / "w", *flags)
    assert process.returncode == 0, process.stderr
    lines = [json.loads(line) for line in process.stderr.splitlines() if line.startswith("{")]
    left = {line["train_step"]: line["seconds_left"] for line in lines if line.get("seconds_left") is not None}
    assert left[40] == 0
    assert all(seconds > 0 for train_step, seconds in left.items() if train_step < 40)
    # No samples were asked for: none are there, and TensorBoard has neither sound nor pictures of them.
    assert not (tmp_path / "w" / "samples").exists()
    assert (tmp_path / "w" / "report.html").exists()
    assert "export/saved_model.pb" in files(tmp_path / "w")
    summaries = b"".join(path.read_bytes() for path in (tmp_path / "w" / "summaries").rglob("*tfevents*"))
    assert b"pitch_nll" in summaries
    assert b"piano roll" not in summaries
    # They are no part of what the run is.
    assert "is finished" in train(dataset, tmp_path / "w", "--steps=40", "--samples=2").stderr


def test_as_many_samples_are_left_as_asked_for(dataset, tmp_path):
    process = train(dataset, tmp_path / "w", *TINY["base"], "--steps=2", "--samples=1", "--quiet")
    assert process.returncode == 0, process.stderr
    assert {name for name in files(tmp_path / "w" / "samples") if name.endswith(".mid")} == {"sample-000.mid"}
