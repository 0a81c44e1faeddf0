"""Output of a run while it trains, and the samples that it writes or not."""

import json
import logging
import re
from types import SimpleNamespace

import pytest

from tests.factories import TINY
from tests.processes import on_terminal
from tests.trainer.runs import files, train
from tests.trainer.terminal_run import EVALUATE_EVERY, SCORING_SECONDS, STEP_SECONDS, STEPS
from trainer.callbacks.console import Console
from trainer.engine.run_length import Plan
from trainer.engine.schedule import Event
from trainer.presets import preset
from trainer.workdir.formats import MetricsRecord

LOSSES = {"pitch_nll": 2.0, "step_nll": 1.0, "duration_nll": 1.5, "velocity_nll": 4.0}


def seconds_left(train_step: int) -> float:
    scores = STEPS // EVALUATE_EVERY - train_step // EVALUATE_EVERY
    return (STEPS - train_step) * STEP_SECONDS + scores * SCORING_SECONDS


@pytest.fixture(scope="module")
def shown(dataset, tmp_path_factory):
    """What a terminal gets of a run."""
    workdir = tmp_path_factory.mktemp("terminal") / "w"
    return on_terminal("-m", "tests.trainer.terminal_run", str(dataset), str(workdir), columns=80)


def test_the_time_left_on_a_terminal_counts_scores_apart_and_does_not_jump(shown):
    bars = re.findall(r"training: +\d+%\|.*?\| (\d+)/120 \[\d\d:\d\d, (\d\d):(\d\d) left", shown)
    left = [(int(train_step), int(m) * 60 + int(s)) for train_step, m, s in bars]
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
    assert re.search(r"training: +\d+%\|[^|]{3,}\| \d+/120 \[[^\r\n]* [\d.]+ nats/note, [\d,]+ notes/s\]", shown)


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


def console(caplog, **changes) -> tuple[Console, SimpleNamespace]:
    """A console without a terminal, and the schedule of its run."""
    caplog.set_level(logging.INFO)
    schedule, shown = SimpleNamespace(plan=Plan()), Console()
    setup = SimpleNamespace(config=preset("base").replace(**changes))
    shown.on_start(SimpleNamespace(schedule=schedule, setup=setup, train_step=0, seconds_left=lambda: 45.0))
    return shown, schedule


@pytest.mark.parametrize(
    ("values", "monitor", "scores"),
    [
        ({**LOSSES, "val_nats": 4.75}, "val_nats", "training 4.500, validation 4.750 nats/note"),
        (LOSSES, "val_nats", "training 4.500 nats/note"),
        (LOSSES, "loss", "training 4.500 nats/note, weighted training loss 8.125"),
        ({"step_mse": 2.0}, "loss", "weighted training loss 8.125"),
        ({"val_nats": 4.75}, "val_nats", "validation 4.750 nats/note, weighted training loss 8.125"),
    ],
)
def test_numbers_side_by_side_have_the_same_unit_or_a_name(caplog, values, monitor, scores):
    shown, _ = console(caplog, monitor=monitor)
    metrics = MetricsRecord(train_step=7, epoch=0.5, loss=8.125, learning_rate=0.1, notes_per_second=15000.0, **values)
    shown.on_step(7, Event.REPORT, metrics)
    assert caplog.messages == [f"train_step 7: {scores}, 15,000 notes/s, 0:00:45 left"]


def test_the_planned_length_is_logged_once_and_only_when_known(caplog):
    shown, schedule = console(caplog, max_minutes=1.0)
    shown.on_call(5, 5)
    assert not caplog.messages
    for steps in (319, 289, 275):
        schedule.plan = Plan(steps)
        shown.on_call(6, 1)
    assert caplog.messages == ["training to about train_step 319, which --max_minutes=1 allows at this speed"]
