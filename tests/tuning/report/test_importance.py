"""Importance of the hyperparameters."""

from tests.pages import Page
from tests.tuning.summaries import STUDIES, searched
from tuning.report.importance import MIN_CONFIGS, importance
from tuning.report.page import render


def test_the_hyperparameter_that_decides_is_found() -> None:
    found = importance(searched(21))
    assert found is not None
    assert next(iter(found.means)) == "units"
    assert found.means["units"] > 10 * found.means["seq_length"]
    assert found.fit > 0.5
    assert (found.share, found.configs) == (1.0, 21)
    assert "The hyperparameter units mattered most." in Page(render(searched(21))).words


def test_no_importance_is_shown_for_a_few_trials_or_for_noise() -> None:
    few = searched(MIN_CONFIGS - 1)
    assert importance(few) is None
    text = Page(render(few)).words
    assert "too few scores to rank" in text
    assert "7 have scores to compare, and at least 8 are needed" in text
    equal = importance(STUDIES["equal scores"])
    assert equal is not None
    assert set(equal.means.values()) == {0.0}
    assert "±" not in render(STUDIES["equal scores"])
    assert "No hyperparameter stands out" in Page(render(STUDIES["equal scores"])).words
