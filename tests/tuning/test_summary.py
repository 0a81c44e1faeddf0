"""Texts about a study and its best trial."""

import dataclasses

import pytest

from tests.tuning.summaries import STUDIES, rung, searched, summarize, trial
from tuning.summary import format_summary, seconds_left


def test_the_best_is_the_lowest_of_those_trained_longest() -> None:
    assert summarize(trial(0, score=8.0), trial(1, "stopped", score=7.0), trial(2, score=7.9)).best.id == "0002"
    assert summarize(rung(0, 1 / 3, 7.0), rung(1, 1.0, 7.5)).best.id == "0001"
    assert summarize(trial(0, "stopped", score=7.0), trial(1, "failed")).best is None


def test_a_search_whose_promoted_trials_all_failed_names_no_best() -> None:
    short, failed = rung(0, 1 / 3, 7.0), trial(1, "failed", parent="0000", directory="trials/0000", reason="no file")
    assert summarize(short, trial(1, "running", parent="0000"), tuner="hyperband").best.id == "0000"
    assert summarize(short, rung(1, 1.0, 7.5), failed).best.id == "0001"
    study = summarize(short, failed, tuner="hyperband")
    assert study.best is None
    assert format_summary(study)[-1] == "No trial of the greatest length completed, the last one failed with: no file."


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("not started", "No trial has started."),
        ("one runs", "1 trial: 1 running. None has completed yet."),
        ("one", "1 trial: 1 completed. The best, trial 0000, scores 8.000 nats/note on the validation split: it is the "
                "base config."),
        ("all failed", "3 trials: 3 failed. All failed, the last one with: out of memory: of 12 GiB."),
        ("the first failed", "2 trials: 1 completed, 1 failed. The best, trial 0001, scores 8.000 nats/note on the "
                             "validation split; the base config has no score to compare with."),
        ("all parameters", "2 trials: 2 completed. The best, trial 0001, scores 7.900 nats/note on the validation "
                           "split, 0.100 below the base config's 8.000."),
        ("hyperband", "8 trials: 8 completed. They try 5 configs: the better ones continue in further trials. "
                      "The best, trial 0007, scores 8.100 nats/note on the validation split, 1.400 below the "
                      "base config's 9.500, after only 11% of the full length."),
    ],
)  # fmt: skip
def test_the_conclusion(study: str, said: str) -> None:
    assert " ".join(format_summary(STUDIES[study])) == said


def test_trials_too_short_to_trust_are_named_with_a_length_that_is_long_enough() -> None:
    study = summarize(trial(0, score=8.0), trial(1, score=7.9))
    assert "too short" not in " ".join(format_summary(study))
    short = dataclasses.replace(study, config=dataclasses.replace(study.config, train_steps=25))
    warning = format_summary(short)[-1]
    assert "A trial of 25 train_steps is too short" in warning
    assert "warm-up alone takes 100" in warning
    assert warning.endswith("--train_steps=500 or more, and another --workdir.")


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
