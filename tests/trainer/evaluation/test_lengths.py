import pytest

from trainer.evaluation.lengths import EDGES, compare_lengths


def test_equal_lengths_overlap_fully_and_others_not_at_all():
    same = compare_lengths([100, 1_000, 9_000], [9_000, 100, 1_000], ended=3, end_odds=1.0)
    assert same.overlap == pytest.approx(1)
    assert same.mean == {"generated": pytest.approx(10_100 / 3), "real": pytest.approx(10_100 / 3)}
    assert compare_lengths([100, 120], [9_000], ended=2, end_odds=1.0).overlap == 0


def test_bins_are_half_octaves_and_the_outer_ones_are_open():
    compared = compare_lengths([1, 15, 16, 10**6], [63, 64, 90, 91], ended=0, end_odds=1.0)
    assert sum(compared.counts["generated"]) == sum(compared.counts["real"]) == 4
    assert compared.counts["generated"][0] == 3
    assert compared.counts["generated"][-1] == 1
    first = EDGES.tolist().index(64)
    assert compared.counts["real"][first - 1 : first + 2] == [1, 2, 1]
    # A half of the pieces of each kind in the same bin is an overlap of a half.
    assert compare_lengths([64, 1_000], [65, 5_000], ended=0, end_odds=1.0).overlap == pytest.approx(0.5)
