"""Length of a run and the fall of its learning rate, as numbers alone."""

import math

import numpy as np
import pytest

from trainer.engine.run_length import MOST_REVISIONS, OPEN, Costs, Plan
from trainer.workdir.formats import RunInfo

WARMUP = 100


def fallen(plan: Plan, train_step: int) -> float:
    """How much of its cosine the learning rate has behind it, 0 to 1."""
    begin, end = plan.cosine(train_step, WARMUP)
    return min(max(train_step - begin, 0) / max(end - begin, 1), 1)


def test_a_plan_survives_its_record_and_the_way_to_other_workers():
    many = tuple((index, 1000 + index) for index in range(MOST_REVISIONS))
    for plan in (Plan(), Plan(900, 1000, 40, 60, ((300, 1200), (700, 850))), Plan(1, 1, 0, None, many)):
        assert Plan.from_record(RunInfo(**plan.to_record())) == plan
        assert Plan.from_numbers(plan.to_numbers()) == plan
        assert len(plan.to_numbers()) == len(Plan().to_numbers())


def test_the_learning_rate_falls_from_the_end_of_warm_up_to_the_run_s_end():
    plan = Plan().with_steps(1000, 0, warmup_steps=WARMUP, lr_decay_from=0)
    assert plan.cosine(0, WARMUP) == plan.cosine(999, WARMUP) == (WARMUP, 1000)


def test_before_the_length_is_measured_the_learning_rate_does_not_fall():
    plan = Plan().with_steps(1000, 300, warmup_steps=WARMUP, lr_decay_from=300)
    assert Plan().cosine(5, WARMUP) == plan.cosine(299, WARMUP) == (WARMUP, OPEN)
    assert plan.cosine(300, WARMUP) == (WARMUP, 1000)


def test_a_longer_run_keeps_its_first_horizon_once_the_learning_rate_falls():
    plan = Plan().with_steps(1000, 0, warmup_steps=WARMUP, lr_decay_from=0)
    assert plan.with_steps(2000, 500, warmup_steps=WARMUP, lr_decay_from=0).cosine(500, WARMUP) == (WARMUP, 1000)
    assert plan.with_steps(2000, 50, warmup_steps=WARMUP, lr_decay_from=0).cosine(500, WARMUP) == (WARMUP, 2000)


@pytest.mark.parametrize("shortened_from", [0, 60, 300, 700, 990])
def test_a_shortened_run_falls_from_where_it_was_to_the_floor_at_its_new_end(shortened_from):
    before = Plan().with_steps(1000, 0, warmup_steps=WARMUP, lr_decay_from=0)
    after = before.revised(shortened_from + 50, shortened_from)
    assert all(after.cosine(step, WARMUP) == before.cosine(step, WARMUP) for step in range(shortened_from))
    assert fallen(after, shortened_from) == pytest.approx(fallen(before, shortened_from))
    shares = [fallen(after, step) for step in range(shortened_from, shortened_from + 51)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert fallen(after, 5000) == 1


@pytest.mark.parametrize("lengthened_from", [0, 60, 300, 700])
@pytest.mark.parametrize("shortened_from", [800, 1500])
def test_a_lengthened_run_falls_from_where_it_was_to_the_floor_at_its_new_end(lengthened_from, shortened_from):
    before = Plan().with_steps(1000, 0, warmup_steps=WARMUP, lr_decay_from=0)
    longer = before.revised(2000, lengthened_from)
    shorter = longer.revised(1600, shortened_from)
    assert all(longer.cosine(step, WARMUP) == before.cosine(step, WARMUP) for step in range(lengthened_from))
    assert all(shorter.cosine(step, WARMUP) == longer.cosine(step, WARMUP) for step in range(shortened_from))
    for plan, steps in ((longer, 2000), (shorter, 1600)):
        shares = [fallen(plan, step) for step in range(steps + 1)]
        assert np.diff(shares) == pytest.approx(np.diff(shares).clip(0, 0.005))
        assert shares[-2] < 1
        assert shares[-1] == pytest.approx(1)
    assert [plan.is_shortened for plan in (before, longer, shorter)] == [False, False, True]


def test_a_run_that_is_at_the_floor_stays_there_when_it_is_shortened():
    plan = Plan(2000, 1000).revised(1600, 1500)
    assert fallen(plan, 1500) == fallen(plan, 1600) == 1


@pytest.mark.parametrize("train_step", [0, 7, 49, 50])
@pytest.mark.parametrize("scoring_seconds", [0.0, 3.0, 40.0])
def test_what_fits_takes_the_time_there_is_and_one_train_step_more_does_not_fit(train_step, scoring_seconds):
    costs = Costs(0.5, scoring_seconds, 50)
    for seconds in (45, 100, 333, 1000):
        steps = costs.steps_that_fit(seconds, train_step)
        end = train_step + steps
        assert not steps or costs.seconds_left(end, train_step) <= seconds
        # One more may bring a score with it.
        assert costs.seconds_left(end + 1, train_step) > seconds - scoring_seconds - 0.5


def test_nothing_fits_into_no_time_or_at_an_unknown_speed():
    assert Costs(1, 2, 10).steps_that_fit(-5, 3) == 0
    assert Costs(math.inf, 2, 10).steps_that_fit(60, 3) == 0


def test_the_time_left_counts_each_score():
    costs = Costs(1.0, 10.0, 20)
    assert costs.seconds_left(100, 0) == 100 + 5 * 10
    assert costs.seconds_left(105, 0) == 105 + 6 * 10
    assert costs.seconds_left(100, 99) == 11
    assert costs.seconds_left(100, 20) == 80 + 4 * 10
    assert costs.seconds_left(100, 100) == 0


def test_scores_are_many_where_they_are_cheap_and_few_where_they_are_not():
    def interval(steps: int, scoring_seconds: float) -> int:
        return Costs(1.0, scoring_seconds, 500).affordable_interval(steps)

    assert interval(480, 0.5) == 30
    assert interval(480, 10.0) == 101
    assert interval(480, 1000.0) == 500
    assert interval(1_000_000, 0.5) == 500
    assert interval(3, 0.0) == 1
