"""Axes: positions and ticks."""

import pytest

from sostenuto.html.axes import continuous


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0, 200, False, ["0", "50", "100", "150", "200"]),
        (7.9, 8.0, False, ["7.9", "7.92", "7.94", "7.96", "7.98", "8"]),
        (0, 4e6, False, ["0", "1e+06", "2e+06", "3e+06", "4e+06"]),
        (0.01, 10, True, ["0.01", "0.1", "1", "10"]),
        (3, 8, True, ["3", "5", "7"]),
        (2.1, 2.4, True, ["2.1", "2.2", "2.3", "2.4"]),
    ],
)
def test_ticks_are_round_and_within_the_axis(low: float, high: float, log: bool, ticks: list[str]) -> None:
    axis = continuous(low, high, log=log)
    assert [text for _, text in axis.ticks][: len(ticks)] == ticks
    places = [place for place, _ in axis.ticks]
    assert places == sorted(places)
    assert min(places) >= -1e-6
    assert max(places) <= 1 + 1e-6


def test_places_run_from_0_to_1_less_the_inset() -> None:
    axis = continuous(1, 100, log=True, inset=0.1)
    assert [axis.place(value) for value in (1, 10, 100)] == pytest.approx([0.1, 0.5, 0.9])
    assert continuous(5, 5).place(5) == 0.5
