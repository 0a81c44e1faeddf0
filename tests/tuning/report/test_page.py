"""The page of a study: structure, escaping, places of the marks in the charts."""

import math
import re

import pytest

from tests.pages import Page
from tests.tuning.summaries import STUDIES, hyperband, searched, summarize, trial
from tuning.artifacts import trials_document
from tuning.report.page import render


def rows(text: str) -> list[list[str]]:
    """The rows of the table of trials."""
    body = text[text.index('class="sortable"') :].partition("<tbody>")[2].partition("</tbody>")[0]
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", body, re.S)]


@pytest.mark.parametrize("name", STUDIES)
def test_a_page_is_whole_needs_no_network_and_can_be_read_aloud(name: str) -> None:
    text = render(STUDIES[name])
    page = Page(text)
    assert "://" not in text
    assert not [found for _, found, _ in page.elements if {"src", "href", "srcset", "data"} & found.keys()]
    assert set(re.findall(r"url\((.*?)\)", text)) <= {"#plot-broad", "#plot-narrow"}
    assert "default-src 'none'" in text
    drawings = [found for tag, found, _ in page.elements if tag == "svg"]
    assert all(found["role"] == "img" and found["aria-label"] for found in drawings)
    assert len(page.all("table")) == len(page.all("caption"))
    assert not re.search(r"\b(nan|inf)\b", text)
    for tag, found, around in page.elements:
        if "svg" in around and tag in ("path", "line", "text", "rect"):
            numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", " ".join(filter(None, found.values())))]
            assert all(map(math.isfinite, numbers))
        assert (tag == "path") <= ("svg" in around)
    last_scored = any(chain.last_scored for chain in STUDIES[name].chains)
    parameters = len(STUDIES[name].space.parameters)
    # Scatter; parallel coordinates and curves for two widths.
    assert len(drawings) == (parameters + 4 if last_scored else 0)
    if STUDIES[name].trials:
        assert len(rows(text)) == len(STUDIES[name].trials)


def test_what_comes_from_elsewhere_is_escaped() -> None:
    evil = '</script><script>alert("x")</script>&\x00\x1b[31m'
    text = render(summarize(trial(0, score=8.0, worker=evil), trial(1, "failed", reason=evil)))
    page = Page(text)
    assert len(page.all("script")) == 1
    assert page.text.count('</script><script>alert("x")</script>&\ufffd\ufffd[31m') >= 2
    assert "\x00" not in text
    assert "\x1b" not in text


def test_the_table_has_every_trial_best_first() -> None:
    table = rows(render(summarize(
        trial(0, score=8.0), trial(1, "failed", reason="no room"),
        trial(2, score=7.5, values={"units": 384}, attempt=3), trial(3, "stopped", score=9.0),
    )))  # fmt: skip
    assert table == [
        ["0002", "✓ completed", "7.500", "128", "384", "1", "1", "100%", "0:01:40", "3", "tuner0", ""],
        ["0000", "✓ completed", "8.000", "128", "256", "1", "1", "100%", "0:01:40", "1", "tuner0", ""],
        ["0003", "■ stopped", "9.000", "128", "256", "1", "1", "33%", "0:01:40", "1", "tuner0", ""],
        ["0001", "✗ failed", "", "128", "256", "1", "1", "0%", "0:01:40", "1", "tuner0", "no room"],
    ]


def marks(page: Page, kind: str, name: str) -> list[tuple[str, list[tuple[float, float]]]]:
    """Of the trial: class and points of its paths among `lines` or `points`, by place, in what a wide screen shows."""
    found, inside, is_narrow = [], "", False
    for tag, attributes, around in page.elements:
        if tag == "svg":
            inside, is_narrow = "", attributes.get("class") == "narrow"
        elif is_narrow:
            continue
        elif tag == "g" and around[-1] == "svg":
            inside = attributes["class"] or ""
        elif tag == "path" and inside == kind and attributes["data-trial"] == name:
            numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", attributes["d"] or "")]
            found.append((attributes["class"] or "", list(zip(numbers[::2], numbers[1::2], strict=False))))
    return found


def test_the_charts_place_the_trials_where_they_belong() -> None:
    units = {0: 64, 1: 256, 2: 512}
    scores = {0: 9.0, 1: 8.5, 2: 8.0}
    page = Page(render(summarize(*(trial(n, score=scores[n], values={"units": units[n]}) for n in range(3)))))
    # Parallel coordinates: the best ends furthest left, and more units are further right.
    ends = {n: marks(page, "lines", f"{n:04d}")[0][1][-1][0] for n in range(3)}
    assert ends[0] > ends[1] > ends[2]
    assert ends[1] == pytest.approx((ends[0] + ends[2]) / 2, abs=0.2)
    # A cubic has three points a hop; the second axis is that of units.
    second = {n: marks(page, "lines", f"{n:04d}")[0][1][3][0] for n in range(3)}
    assert second[0] < second[1] < second[2]
    # Learning curves: three scores at thirds of the width.
    (_, curve) = marks(page, "lines", "0002")[1]
    assert len(curve) == 3
    assert curve[2][0] - curve[1][0] == pytest.approx(curve[1][0] - curve[0][0], abs=0.2)
    assert curve[0][1] < curve[1][1] < curve[2][1]
    # Scatter, the second chart: to the right with units, lower with the score.
    dots = {n: marks(page, "points", f"{n:04d}")[1][1][0] for n in range(3)}
    assert dots[0][0] < dots[1][0] < dots[2][0]
    assert dots[0][1] < dots[1][1] < dots[2][1]
    assert {kind for kind, _ in marks(page, "lines", "0002")} == {"best"}
    assert {kind for kind, _ in marks(page, "lines", "0000")} == {"s0 first"}


def test_each_line_meets_the_bar_of_its_choice() -> None:
    study = searched(21)
    text = render(study)
    drawing = text[text.index("<svg ") :].partition("</svg>")[0]  # the broad one
    bars = [
        tuple(map(float, found))
        for found in re.findall(r'<line x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="[\d.]+" class="choice">', drawing)
    ]
    assert len(bars) == 5 + 7  # the choices of seq_length and units
    paths = re.findall(r'<path d="([^"]+)"', drawing)
    assert len(paths) == 21
    for path in paths:
        numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", path)]
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        for x, y in (points[0], points[3]):
            assert any(
                left - 0.1 <= x <= right + 0.1 for left, bar_y, right in bars if bar_y == pytest.approx(y, abs=0.1)
            )
    assert "Lines through the same choice are spread over its bar" in Page(text).words


def test_the_page_has_the_whole_command_and_marks_what_was_fixed() -> None:
    text = render(summarize(trial(0, score=8.0), trial(1, score=7.5), fix=["layers=3"]))
    words = "sostenuto train '--config=/my studies/first/best_config.json' --data=/data/maestro"
    assert f"{words} '--workdir=/my studies/first/best'" in Page(text).words
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', text)
    assert heads[1:3] == ["best, trial 0001", "base config, trial 0000"]
    (cells,) = [row for row in re.findall(r"<tr>.*?</tr>", text, re.S) if ">layers<" in row]
    assert re.findall(r'<td class="(.*?)">(.*?)</td>', cells) == [
        ("number", "3"), ("number", "3"), ("unit", "fixed"),
    ]  # fmt: skip


def test_one_trial_that_went_wrong_does_not_press_the_others_together() -> None:
    page = Page(render(STUDIES["one far off"]))
    heights = [marks(page, "points", f"{n:04d}")[0][1][0][1] for n in range(1, 9)]
    assert max(heights) - min(heights) > 100
    assert "A triangle marks a score above the axis: 1 of 10 configs." in page.words


def test_a_config_that_was_trained_on_is_one_line_and_compared_at_one_length() -> None:
    study = hyperband()
    assert [len(chain.trials) for chain in study.chains] == [1, 1, 1, 2, 3]
    last = study.chains[-1]
    assert [share for _, share, _ in last.curve] == [1 / 9, 1 / 3, 1.0]
    assert last.score_at(1 / 9) == pytest.approx(9.1)
    assert last.score_at(2 / 3) == pytest.approx((8.6 + 8.1) / 2)
    assert study.chains[0].score_at(1 / 3) is None
    page = Page(render(study))
    assert len(page.all("path", **{"data-trial": "0004"})) == 2 + 4 + 2 * (1 + 3)  # lines, scatter, curves with dots
    assert "after 11% of the full length" in page.words
    assert "continues" in page.words
    assert trials_document(study)["trials"][7]["parent"] == "0005"


def test_a_stopped_trial_is_hollow_and_ends_in_a_cross() -> None:
    page = Page(render(summarize(*(trial(n, score=8 + n / 10) for n in range(9)), trial(9, "stopped", score=8.95))))
    kinds = [kind for kind, _ in marks(page, "points", "0009")]
    assert sum("hollow" in kind for kind in kinds) == 4
    assert sum("cross" in kind for kind in kinds) == 1
    assert "Hollow marks are configs that were stopped" in page.words
