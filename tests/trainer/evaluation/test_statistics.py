import tracemalloc

import numpy as np
import pytest

from trainer.evaluation import statistics
from trainer.evaluation.statistics import (
    NoteScores,
    compute_metrics,
    confidence_intervals,
    score_composer_gain,
    score_composers,
    score_ending,
    score_unshared,
    sum_scores,
)


def test_a_summary_is_totals_over_notes():
    random = np.random.default_rng(0)
    scores = NoteScores(*random.random((3, 40)), *(random.random((3, 40)) < 0.4).astype(np.float64), random.random(40))
    summary = compute_metrics(sum_scores(scores))
    nats = summary.nats_per_note
    assert summary.notes == 40
    assert set(nats) == {"pitch", "step", "duration", "total"}
    for field in ("pitch", "step", "duration"):
        assert nats[field] == pytest.approx(getattr(scores, field).sum() / 40)
    assert nats["total"] == pytest.approx((scores.pitch.sum() + scores.step.sum() + scores.duration.sum()) / 40)
    for field in ("pitch_top1", "pitch_top5", "step_within_30ms"):
        assert getattr(summary, field) == pytest.approx(getattr(scores, field).sum() / 40)
    assert all(isinstance(value, float) for value in nats.values())


def scores_of_performances(means, notes, spread=0.0, seed=0) -> NoteScores:
    """Performances whose notes all have about the same nats."""
    nats = np.repeat(means, notes) + spread * np.random.default_rng(seed).standard_normal(np.sum(notes))
    return NoteScores(nats, 2 * nats, 3 * nats, *[np.zeros_like(nats)] * 4)


def test_the_confidence_is_that_of_performances_not_of_notes():
    """A thousand notes of a performance that are alike say no more about others than one of them does."""
    means = np.random.default_rng(1).normal(2.0, 0.3, 200)
    few, many = (
        confidence_intervals(scores_of_performances(means, np.full(200, notes)), np.full(200, notes + 1))
        for notes in (1, 50)
    )
    for field in few:
        assert many[field] == pytest.approx(few[field])
    # The interval of a mean that the normal distribution gives.
    error = 1.96 * means.std() / np.sqrt(200)
    assert few["pitch"] == pytest.approx([means.mean() - error, means.mean() + error], abs=0.01)
    assert few["total"] == pytest.approx([6 * end for end in few["pitch"]])


def test_the_confidence_weighs_performances_by_their_notes_and_takes_any_length():
    lengths = np.array([1001, 1, 0, 101])
    low, high = confidence_intervals(scores_of_performances([2.0, 4.0], [1000, 100]), lengths)["pitch"]
    assert low == 2.0
    assert high == 4.0
    same = confidence_intervals(scores_of_performances([2.0, 2.0], [1000, 100]), lengths)
    assert same == {"pitch": (2.0, 2.0), "step": (4.0, 4.0), "duration": (6.0, 6.0), "total": (12.0, 12.0)}
    assert confidence_intervals(scores_of_performances([2.0, 4.0], [1000, 100], spread=0.5), lengths) == (
        confidence_intervals(scores_of_performances([2.0, 4.0], [1000, 100], spread=0.5), lengths)
    )


def test_each_composer_has_the_notes_of_its_own_performances():
    scores = scores_of_performances([2.0, 5.0, 4.0], [10, 3, 30])
    own = score_composers(scores, np.array([11, 4, 31]), ["Liszt", "Alkan", "Liszt"])
    assert own["Alkan"].nats_per_note == pytest.approx({"pitch": 5, "step": 10, "duration": 15, "total": 30})
    assert own["Liszt"].nats_per_note["pitch"] == pytest.approx((10 * 2 + 30 * 4) / 40)


def test_a_part_has_the_notes_of_its_performances_alone():
    scores = scores_of_performances([2.0, 5.0, 4.0], [10, 3, 30])
    part = score_unshared(scores, np.array([11, 4, 31]), ["a", "b", "c"], ["c"])
    assert part.nats_per_note["pitch"] == pytest.approx((10 * 2 + 3 * 5) / 13)
    assert (part.notes, part.performances) == (13, 2)


def test_scores_without_the_pieces_of_other_splits():
    scores, lengths = scores_of_performances([2.0, 5.0, 4.0], [10, 3, 30]), np.array([11, 4, 31])
    unshared = score_unshared(scores, lengths, ["a", "b", "a"], ["a", "c"])
    assert (unshared.notes, unshared.performances, unshared.nats_per_note["pitch"]) == (3, 1, pytest.approx(5))
    assert score_unshared(scores, lengths, ["a", "b", "a"], ["c"]) is None
    assert score_unshared(scores, lengths, ["a", "b", "a"], ["a", "b"]) is None


def test_an_end_is_scored_by_performance_beside_ends_that_are_equally_likely_everywhere():
    nats = np.array([0.1, 0.2, 3.0, 0.0, 2.5])  # performances of 4 and 3 notes, and two without a scored note
    scores = NoteScores(*[np.zeros(5)] * 6, nats)
    ending = score_ending(scores, np.array([4, 1, 3, 0]))
    assert ending.nats_per_performance == pytest.approx(nats.sum() / 2)
    rate = 2 / 7  # two ends after seven notes
    assert ending.constant == pytest.approx(-np.log(rate) - 2.5 * np.log(1 - rate))


def test_the_gain_by_composers_is_that_of_the_performances_whose_composer_is_known():
    lengths = np.array([11, 4, 31])
    known, unknown = (scores_of_performances(means, lengths - 1) for means in ([2.0, 5.0, 4.0], [2.2, 9.0, 4.1]))
    gain = score_composer_gain(known, unknown, lengths, ["Liszt", "Alkan", "Chopin"], ("Chopin", "Liszt"))
    assert gain.without["pitch"] == pytest.approx((10 * 2.2 + 3 * 9 + 30 * 4.1) / 43)
    assert gain.by_composer == pytest.approx({"Chopin": 0.6, "Liszt": 1.2})
    assert gain.total == pytest.approx((10 * 1.2 + 30 * 0.6) / 40)
    assert gain.confidence_95 == pytest.approx((0.6, 1.2))
    assert score_composer_gain(known, unknown, lengths, ["", "Alkan", ""], ("Chopin", "Liszt")) is None


@pytest.mark.parametrize("lengths", [[11], [11, 1, 0]])
def test_one_performance_has_no_interval(lengths):
    assert confidence_intervals(scores_of_performances([2.0], [10], spread=0.5), np.array(lengths)) is None


def test_the_memory_of_an_interval_does_not_grow_with_its_samples(monkeypatch):
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 9, 100)
    scores = NoteScores(*rng.random((7, int(np.sum(lengths - 1)))))
    at_once = confidence_intervals(scores, lengths)
    monkeypatch.setattr(statistics, "_DRAWN_COUNTS", 2**14)
    tracemalloc.start()
    try:
        assert confidence_intervals(scores, lengths) == at_once
        assert tracemalloc.get_traced_memory()[1] < 3_000_000  # 10,000 samples of all performances take 8 MB twice
    finally:
        tracemalloc.stop()
