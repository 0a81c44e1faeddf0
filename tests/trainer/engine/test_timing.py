"""Runs that last `max_minutes`, on a machine whose speed the test decides."""

import functools
import json
import logging
import shutil
import threading

import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.text import duration
from tests.trainer.machine import Machine
from tests.trainer.report_pages import read_page
from tests.trainer.runs import metrics, weights
from trainer.callbacks.standard import report_writers
from trainer.config import Config
from trainer.engine import loop, setup
from trainer.presets import preset

LIMIT = 60.0  # seconds
CONFIG: Config = preset("base").replace(
    units=8, layers=1, head_units=8, head_blocks=0, recent_embedding=0, memory_units=0, composer_embedding=0,
    seq_length=16, batch_size=4, warmup_steps=20, max_minutes=LIMIT / 60,
    log_every=20, checkpoint_every=20, max_to_keep=100, evaluate_every=500,
)  # fmt: skip


def train_on(machine: Machine, patch: pytest.MonkeyPatch, data, workdir, config: Config = CONFIG, **options):
    patch.setattr(setup, "TrainState", machine.state)
    manifest = Manifest.load(data)
    return loop.train(config, manifest, str(workdir), callbacks=report_writers(), clock=machine.clock, **options)


@pytest.fixture
def train(dataset, monkeypatch):
    """Trains on a machine."""

    def run(machine: Machine, workdir, config: Config = CONFIG, **options):
        return train_on(machine, monkeypatch, dataset, workdir, config, **options)

    return run


def record(workdir) -> dict:
    return json.loads((workdir / "run.json").read_text())


def assert_annealed(workdir) -> None:
    """Checks that the learning rate fell all the way, and never rose after warm-up."""
    rates = {line["train_step"]: line["learning_rate"] for line in metrics(workdir)}
    falling = [rate for train_step, rate in sorted(rates.items()) if train_step >= CONFIG.warmup_steps]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == pytest.approx(CONFIG.learning_rate / 100, rel=0.01)


def assert_same_weights(one, other) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all((left[name] == right[name]).all() for name in left)


CONSTANT = {0.0: 0.1}
SLOWER = {0.0: 0.1, LIMIT / 2: 0.5}
FASTER = {0.0: 0.5, LIMIT / 5: 0.1}
SPEEDS = {"slower": SLOWER, "faster": FASTER}


def test_at_a_constant_speed_the_first_plan_holds_and_more_minutes_go_on_from_its_end(train, tmp_path):
    workdir, machine = tmp_path / "w", Machine(CONSTANT)
    result = train(machine, workdir)
    assert 0.95 * LIMIT <= machine.now <= LIMIT
    run = record(workdir)
    assert result.train_step == run["steps"] == run["horizon"]
    assert run["revisions"] == []
    assert_annealed(workdir)
    # Enough scores for a curve, although evaluate_every allows one alone; and the best is the best of them all.
    scores = {line["train_step"]: line["val_nats"] for line in metrics(workdir) if "val_nats" in line}
    assert 12 <= len(scores) <= 20
    assert all(train_step % run["evaluate_every"] == 0 for train_step in list(scores)[:-1])
    assert result.best == min(scores.values()) == scores[result.best_train_step]

    longer = train(machine, workdir, CONFIG.replace(max_minutes=1.5 * LIMIT / 60)).train_step
    assert 0.95 * 1.5 * LIMIT <= 0.1 * longer <= 1.5 * LIMIT
    assert record(workdir)["horizon"] == run["horizon"]


def test_the_minute_adds_up_and_a_shorter_plan_is_logged_once(train, tmp_path, monkeypatch, caplog):
    machine = Machine({0.0: 0.1, LIMIT / 2: 0.5}, scoring_seconds=1.0)
    monkeypatch.setattr(setup, "Scorer", machine.scorer)
    caplog.set_level(logging.INFO)
    train(machine, tmp_path / "w")
    (seconds,) = (record.figures["seconds"] for record in caplog.records if record.message.startswith("trained for "))
    scores = sum("val_nats" in line for line in metrics(tmp_path / "w"))
    assert seconds["scoring"] == scores
    assert seconds["train_steps"] > LIMIT / 2
    assert sum(seconds.values()) == round(machine.now)
    # The page has the same time: both count the call that compiles.
    assert f"{duration(seconds['train_steps'])} h:mm:ss, with compilation" in read_page(tmp_path / "w").words
    planned = [line for line in caplog.messages if line.startswith("training to ")]
    shorter = [line for line in caplog.messages if line.startswith("training became slower")]
    assert (len(planned), len(shorter)) == (1, 1)
    assert shorter[0].endswith("to keep to --max_minutes=1")


def test_patience_takes_the_requested_number_of_measurements(train, tmp_path):
    train(Machine(CONSTANT), tmp_path / "w", CONFIG.replace(patience=100, evaluate_every=50, max_minutes=0.2))
    scored = [line["train_step"] for line in metrics(tmp_path / "w") if "val_nats" in line]
    assert scored[:-1] == [50, 100]


@pytest.fixture(scope="module")
def train_once(dataset, tmp_path_factory):
    """Trains on a machine of given speeds; gives the workdir and the machine."""

    @functools.cache
    def run(name: str):
        workdir, machine = tmp_path_factory.mktemp(name) / "w", Machine(SPEEDS[name])
        with pytest.MonkeyPatch.context() as patch:
            train_on(machine, patch, dataset, workdir)
        return workdir, machine

    return run


@pytest.fixture
def slower(train_once):
    """The workdir of a run that became five times slower after half the time; its machine."""
    return train_once("slower")


@pytest.fixture
def faster(train_once):
    """The workdir of a run that became five times faster after a fifth of the time; its machine."""
    return train_once("faster")


def test_a_run_that_becomes_slower_ends_in_time_and_anneals(slower):
    workdir, machine = slower
    run, result = record(workdir), json.loads((workdir / "result.json").read_text())
    assert 0.95 * LIMIT <= machine.now <= LIMIT
    assert result["train_step"] == run["steps"] == run["revisions"][0][1] < run["horizon"]
    assert_annealed(workdir)


def test_a_run_that_becomes_faster_takes_the_time_it_was_given_and_anneals(faster):
    workdir, machine = faster
    run, result = record(workdir), json.loads((workdir / "result.json").read_text())
    assert 0.9 * LIMIT <= machine.now <= LIMIT
    assert result["train_step"] == run["steps"] == run["revisions"][-1][1] > 3 * run["horizon"]
    assert_annealed(workdir)


def test_a_run_that_becomes_faster_and_slower_again_ends_in_time_and_anneals(train, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    machine = Machine({**FASTER, 0.6 * LIMIT: 0.3})
    result = train(machine, tmp_path / "w")
    assert 0.9 * LIMIT <= machine.now <= LIMIT
    run = record(tmp_path / "w")
    *longer, shorter = (end for _, end in run["revisions"])
    assert [run["horizon"], *longer] == sorted([run["horizon"], *longer])
    assert run["horizon"] < result.train_step == run["steps"] == shorter < longer[-1]
    assert_annealed(tmp_path / "w")
    changes = [line.split()[2] for line in caplog.messages if line.startswith("training became")]
    assert changes == [*["faster:"] * len(longer), "slower:"]


def test_a_run_that_becomes_slower_still_stops_when_the_time_is_up(train, tmp_path):
    machine = Machine({**SLOWER, 0.9 * LIMIT: 2.0})
    result = train(machine, tmp_path / "w")
    assert machine.now < LIMIT + 2.5  # the call in flight
    run = record(tmp_path / "w")
    assert result.train_step == run["steps"] < run["revisions"][0][1]
    assert "val_nats" in metrics(tmp_path / "w")[-1]


def test_a_run_with_hardly_any_time_still_leaves_weights(train, tmp_path):
    result = train(Machine({0.0: 10.0}), tmp_path / "w", CONFIG.replace(max_minutes=0.05))
    assert 1 <= result.train_step <= 2
    assert list((tmp_path / "w" / "best").iterdir())


def copy_unfinished(workdir, target, *, until):
    """Copies a workdir without its result, its best weights and the checkpoints after a train_step."""
    shutil.copytree(workdir, target)
    (target / "result.json").unlink()
    shutil.rmtree(target / "best")
    for checkpoint in (target / "checkpoints").iterdir():
        if int(checkpoint.name) > until:
            shutil.rmtree(checkpoint)


@pytest.mark.parametrize("change", SPEEDS)
def test_a_revised_run_that_is_resumed_ends_as_if_nothing_had_happened(change, train_once, train, tmp_path):
    """Also from a checkpoint that is older than the revision, as after damage to the later ones."""
    workdir, _ = train_once(change)
    run = record(workdir)
    revised = run["revisions"][-1][0]
    copy_unfinished(workdir, tmp_path / "older", until=max(revised - 21, 0))

    interrupted, stop = Machine(SPEEDS[change]), threading.Event()
    interrupted.after_call = lambda train_step: train_step > revised and stop.set()
    assert not train(interrupted, tmp_path / "interrupted", stop=stop).reason.is_final
    interrupted.after_call = lambda train_step: None
    interrupted.now += 1e6  # a night
    for name, machine in (("interrupted", interrupted), ("older", Machine(CONSTANT))):
        assert train(machine, tmp_path / name).reason.is_final
        assert record(tmp_path / name) == run
        assert_same_weights(tmp_path / name, workdir)
        assert metrics(tmp_path / name) == metrics(workdir)


def test_a_kill_between_the_checkpoint_and_the_shorter_plan_does_no_harm(slower, train, tmp_path):
    workdir, _ = slower
    run = record(workdir)
    copy_unfinished(workdir, tmp_path / "killed", until=run["revisions"][0][0])
    before = {**run, "steps": run["horizon"], "revisions": []}
    (tmp_path / "killed" / "run.json").write_text(json.dumps(before))
    machine = Machine({0.0: 0.5})
    result = train(machine, tmp_path / "killed")
    assert result.train_step == record(tmp_path / "killed")["revisions"][0][1]
    assert machine.now <= 0.2 * LIMIT + 1.0  # the first call compiles, and is not counted
    assert_annealed(tmp_path / "killed")


def test_interruptions_neither_add_to_the_time_nor_take_from_it(train, tmp_path):
    machine, config = Machine(CONSTANT), CONFIG.replace(evaluate_every=0)
    for train_steps in (10, 450):
        stop = threading.Event()
        machine.after_call = lambda train_step, after=train_steps, stop=stop: train_step >= after and stop.set()
        assert not train(machine, tmp_path / "w", config, stop=stop).reason.is_final
        machine.now += 1e6
    machine.after_call = lambda train_step: None
    result = train(machine, tmp_path / "w", config)
    assert result.reason.is_final
    assert 0.95 * LIMIT <= 0.1 * result.train_step <= LIMIT + 0.5
    assert record(tmp_path / "w")["revisions"] == []
