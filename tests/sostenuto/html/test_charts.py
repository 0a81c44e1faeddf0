"""Charts: geometry of curves and histograms, and the values for the script."""

import html
import json
import re
from typing import Any

import pytest

from sostenuto.html.axes import continuous
from sostenuto.html.charts import Plane, Series, plot
from tests.pages import Page


def draw(*series: Series, high: float = 10) -> str:
    return str(plot("Loss", "nats", series, continuous(0, 10), continuous(0, high), description="a loss").drawing)


def values(drawing: str) -> list[dict[str, Any]]:
    (match,) = re.findall(r'data-series="([^"]*)"', drawing)
    return json.loads(html.unescape(match))


def test_a_curve_goes_through_its_points_and_is_cut_beyond_the_axes() -> None:
    drawing = draw(Series("validation", "best dots", [(0, 0), (5, 5), (10, 100)], ["0", "5", "10"], ["a", "b", "c"]))
    plane = Plane()
    (curve,) = values(drawing)
    assert curve["x"] == [plane.left, plane.left + plane.width / 2, plane.left + plane.width]
    assert curve["y"] == [plane.bottom, plane.bottom - plane.height / 2, plane.top]
    assert (curve["name"], curve["at"], curve["values"]) == ("validation", ["0", "5", "10"], ["a", "b", "c"])
    assert drawing.count('class="best dots dot"') == 3
    assert f"M{plane.left:.1f} {plane.bottom:.1f}L" in drawing


def test_a_histogram_has_a_stair_for_each_bin_above_a_filled_area() -> None:
    drawing = draw(Series("real", "held area", [(1, 2), (6, 8)], ["low", "high"], ["20%", "80%"], edges=[0, 2, 10]))
    Page(drawing)  # all elements are closed
    (line,) = re.findall(r'<path d="M([^"]*)" class="held area">', drawing)
    assert len(line.split("L")) == 4
    heights = [float(corner.split()[1]) for corner in line.split("L")]
    assert heights == pytest.approx([148, 148, 46, 46])
    assert len(re.findall(r'class="held area filled"', drawing)) == 1


def test_names_from_elsewhere_are_escaped_in_a_drawing() -> None:
    evil = '"></svg><script>alert(1)</script>'
    drawing = draw(Series(evil, "best", [(0, 0), (1, 1)], [evil, evil], [evil, evil]))
    assert "<script" not in drawing
    assert values(drawing)[0]["name"] == evil
