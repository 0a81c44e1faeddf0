"""Train_steps at which a run evaluates, reports and saves."""

import dataclasses

from trainer.config import Config
from trainer.engine.run_length import Plan
from trainer.engine.schedule import Event, Schedule
from trainer.presets import preset

CONFIG: Config = preset("base").replace(
    batch_size=8, steps=100, log_every=10, evaluate_every=30, checkpoint_every=25, warmup_steps=5
)


def schedule_of(config: Config = CONFIG, *, stop_at: int | None = None, **plan) -> Schedule:
    schedule = Schedule(config, 40, stop_at)
    schedule.plan = dataclasses.replace(Plan(config.steps, config.steps), **plan)
    return schedule


def boundaries(schedule: Schedule, end: int) -> list[int]:
    train_step, found = 0, []
    while train_step < end:
        train_step = schedule.next_boundary(train_step)
        found.append(train_step)
    return found


def test_nothing_is_due_between_two_boundaries():
    schedule = schedule_of(stop_at=47)
    stops = boundaries(schedule, 100)
    assert stops == [10, 20, 25, 30, 40, 47, 50, 60, 70, 75, 80, 90, 100]
    assert all(schedule.events(step) for step in stops)
    assert not any(schedule.events(step) for step in range(1, 100) if step not in stops)


def test_a_score_is_reported_and_the_end_is_scored():
    schedule = schedule_of(stop_at=47)
    for train_step in (30, 47, 90, 100):
        assert Event.EVALUATE | Event.REPORT in schedule.events(train_step)
    assert schedule.events(10) == Event.REPORT
    assert schedule.events(25) == Event.CHECKPOINT


def test_an_epoch_is_the_period_of_what_has_none():
    """Five train_steps of eight windows each are an epoch of forty."""
    schedule = schedule_of(CONFIG.replace(log_every=0, evaluate_every=0, checkpoint_every=0, batch_size=12))
    # Three and a third train_steps an epoch; a train_step that two epochs share completes the first.
    assert boundaries(schedule, 14) == [4, 7, 10, 14]
    assert [schedule.epoch_end(epoch) for epoch in (1, 2, 3)] == [4, 7, 10]


def test_of_many_scores_the_first_of_each_period_is_played():
    schedule = schedule_of(evaluate_every=7)
    scored = [step for step in range(1, 100) if Event.EVALUATE in schedule.events(step)]
    assert scored == list(range(7, 100, 7))
    assert [step for step in scored if Event.PLAY in schedule.events(step)] == [35, 63, 91]
