"""Best score of a run."""

import math

import pytest

from trainer.engine.early_stopping import BestMetric


def test_only_a_lower_score_is_better():
    best = BestMetric()
    assert [best.update(value, step) for step, value in enumerate([3.0, 3.0, 2.0, 2.5], 1)] == [
        True,
        False,
        True,
        False,
    ]
    assert best == BestMetric(best=2.0, best_train_step=3, measured=4, since_best=1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_never_the_best(value):
    best = BestMetric()
    assert not best.update(value, 1)
    assert best.best is None


def test_patience_counts_scores_since_the_best():
    best = BestMetric()
    for step, value in enumerate([3.0, 4.0, 4.0], 1):
        assert not best.is_exhausted(2)
        best.update(value, step)
    assert best.is_exhausted(2)
    assert not best.is_exhausted(3)
    assert not best.is_exhausted(0)
