"""The page of a study in a browser: nothing is cut on a phone, on a screen, in the dark or on paper."""

import pytest

from tests.pictures import picture
from tests.trainer.browser import CHROMIUM, browser
from tests.trainer.looks import faults
from tests.tuning.summaries import STUDIES, summarize, trial
from tuning.report.page import render

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

SEARCHED = {
    "default": [
        trial(n, "failed" if n == 5 else "stopped" if n == 7 else "completed", None if n == 5 else 9 - n / 9,
              values={"units": 64 * (1 + n % 8), "seq_length": 32 << n % 4, "step_weight": 0.3 + n / 3},
              reason="out of memory: 11.9 of 12 GiB were taken" if n == 5 else "worse than the others")
        for n in range(12)
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(params=["default", "all parameters", "hyperband"])
def study(request, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(STUDIES.get(request.param) or summarize(*SEARCHED[request.param])))
    return path


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_cut_or_faint(page, study, width, dark):
    page.look(width=width, dark=dark)
    page.open(study)
    assert page.errors == []
    assert faults(page) == {}
    # Only the table of all trials is wider than a phone.
    wide = page.run(
        "[...document.querySelectorAll('.wide')].filter((one) => one.scrollWidth > one.clientWidth)"
        ".map((one) => one.getAttribute('aria-label'))"
    )
    assert set(wide) <= {"All trials"}
    shown = "[...document.querySelectorAll('svg')].filter((one) => one.getBoundingClientRect().width).length"
    assert page.run(shown) == page.run("document.querySelectorAll('svg:not(.narrow)').length")


def test_a_shadow_marks_the_edge_beyond_which_the_table_goes_on(page, study, tmp_path):
    def right_edge():
        """The brightness of the table's region at its right edge and in the middle, in the last row."""
        page.picture(tmp_path / "page.png", whole=True)
        box = page.run(
            "(({right, left, bottom}) => [right - 3, (left + right) / 2, bottom + scrollY - 6])"
            "(document.querySelector('.wide[aria-label=\"All trials\"]').getBoundingClientRect())"
        )
        brightness = picture(tmp_path / "page.png").mean(axis=2)
        return [brightness[int(box[2]), int(x)] for x in box[:2]]

    page.look(width=390)
    page.open(study)
    edge, middle = right_edge()
    assert edge < middle - 0.05
    page.run("document.querySelector('.wide[aria-label=\"All trials\"]').scrollLeft = 9999")
    edge, middle = right_edge()
    assert edge == pytest.approx(middle, abs=0.01)


def test_the_table_of_the_default_search_fits_a_screen(page, tmp_path):
    (tmp_path / "report.html").write_text(render(summarize(*SEARCHED["default"])))
    page.look(width=1280)
    page.open(tmp_path / "report.html")
    assert page.run("[...document.querySelectorAll('.wide')].every((one) => one.scrollWidth <= one.clientWidth)")


def test_on_paper_nothing_is_cut(page, study):
    page.look(width=718, media="print")  # A4 but for its margins
    page.open(study)
    assert faults(page) == {}
    assert page.run("[...document.querySelectorAll('.wide')].every((one) => one.scrollWidth <= one.clientWidth)")
