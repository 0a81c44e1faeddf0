"""The page of a run in a real browser: it opens without a complaint, plays, and tells its values."""

import pytest

from tests.factories import comparison, evaluation, reports, write_run, write_samples
from tests.trainer.browser import CHROMIUM, browser
from tests.trainer.looks import faults
from trainer.reporting.page import write

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def report(dataset, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "w"
    write_run(directory, dataset, evaluation_test=evaluation(), generated_test=comparison())
    write_samples(directory, dataset)
    write(str(directory))
    return directory / "report.html"


@pytest.fixture(scope="module")
def with_warnings(dataset, tmp_path_factory):
    """The page of a run with every kind of warning, in a workdir of a long name."""
    directory = tmp_path_factory.mktemp("runs") / "a-directory-of-a-long-name" / ("a_run_of_a_long_name" * 4)
    lines = reports((8.5, 8.1, 8.4, 8.9))
    documents = {
        "evaluation_test": evaluation(total=20.5, ngram=9.4, train_step=150),
        "generated_test": comparison(train_step=150),
        "generated_validation": {**comparison("validation"), "dataset": "5e" * 32},
    }
    write_run(directory, dataset, lines=lines, **documents)
    write_samples(directory, dataset, train_step=100)
    write(str(directory))
    return directory / "report.html"


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        page.look(width=1100)
        page.open(report)
        yield page


def test_it_opens_without_an_error_and_asks_for_nothing_else(page, report):
    assert page.run("document.querySelectorAll('section').length") == 6
    assert page.errors == []
    assert page.requests == [report.as_uri()]


def test_each_player_has_a_duration(page):
    durations = page.run("""Promise.all([...document.querySelectorAll('audio')].map((player) =>
        player.readyState ? player.duration : new Promise((done, fail) => {
          player.onloadedmetadata = () => done(player.duration);
          player.onerror = () => fail(player.error.message);
        })))""")
    assert len(durations) == 8
    lengths = page.run("[...document.querySelectorAll('.sheet')].map((sheet) => Number(sheet.dataset.seconds))")
    for duration, length in zip(durations, lengths, strict=True):
        assert length < duration < length + 8  # the last note and the pedal ring on


def test_each_chart_draws_its_points(page):
    lengths = page.run(
        "[...document.querySelectorAll('.chart')].map((chart) => [...chart.querySelectorAll('.plane path')]"
        ".map((path) => path.getTotalLength()))"
    )
    assert len(lengths) == 18
    assert all(drawn and min(drawn) > 0 and max(drawn) > 100 for drawn in lengths)
    bars = page.run("[...document.querySelectorAll('.sheet')].map((sheet) => sheet.querySelectorAll('.played').length)")
    assert all(bars)


def test_a_chart_tells_the_values_under_the_pointer_and_under_the_arrow_keys(page):
    chart = "document.querySelectorAll('.chart')[1]"
    page.run(f"{chart}.scrollIntoView({{block: 'center'}})")
    left, top, width = page.run(
        f"(() => {{ const box = {chart}.getBoundingClientRect(); return [box.x, box.y, box.width]; }})()"
    )
    page.point(left + 0.95 * width, top + 50)
    tip = f"{chart}.parentNode.querySelector('.tip')"
    assert page.run(f"{tip}.innerText").splitlines()[0] == "train_step 200"
    assert "validation 8.100" in page.run(f"{tip}.innerText")
    page.point(1, 1)
    assert page.run(f"{tip}.hidden")
    page.run(f"{chart}.focus()")
    page.press("Home")
    assert page.run(f"{tip}.innerText").splitlines()[0] == "train_step 10"
    page.press("ArrowRight")
    assert page.run(f"{tip}.innerText").splitlines()[0] == "train_step 20"
    assert page.errors == []


def test_a_click_on_a_roll_plays_from_there_and_stops_the_others(page):
    page.run("document.querySelectorAll('.sheet')[0].scrollIntoView({block: 'center'})")
    page.run("""(() => {
      const click = (index) => {
        const sheet = document.querySelectorAll('.sheet')[index], box = sheet.getBoundingClientRect();
        sheet.dispatchEvent(new MouseEvent('click', {clientX: box.x + box.width / 2, bubbles: true}));
      };
      click(0);
      click(1);
      return new Promise((done) => setTimeout(done, 300));
    })()""")
    first, second = page.run("[...document.querySelectorAll('audio')].slice(0, 2).map((one) => one.currentTime)")
    half = page.run("Number(document.querySelectorAll('.sheet')[1].dataset.seconds) / 2")
    assert second == pytest.approx(half, abs=5)
    assert page.run("[...document.querySelectorAll('audio')].filter((one) => !one.paused).length") <= 1
    assert first > 0
    page.run("document.querySelectorAll('audio').forEach((one) => one.pause())")
    assert page.errors == []


def test_it_fits_a_phone_and_is_dark_by_night(page, report):
    page.look(width=360, height=700)
    page.open(report)
    assert page.run("document.documentElement.scrollWidth") <= 360
    day = page.run("getComputedStyle(document.body).backgroundColor")
    page.look(width=360, height=700, dark=True)
    night = page.run("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, day[4:-1].split(", "))) > 600 > 150 > sum(map(int, night[4:-1].split(", ")))
    page.look(width=800, media="print")
    assert page.run("getComputedStyle(document.querySelector('audio')).display") == "none"
    assert page.errors == []


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_cut_or_faint(page, with_warnings, width, dark):
    page.look(width=width, dark=dark)
    page.open(with_warnings)
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.run("document.querySelectorAll('.diagnostics .warning').length") >= 5
    assert faults(page) == {}


def test_on_a_phone_the_scores_need_no_scrolling(page, with_warnings):
    page.look(width=390)
    page.open(with_warnings)
    tables = page.run(
        "[...document.querySelectorAll('.wide')].filter((one) => one.scrollWidth > one.clientWidth)"
        ".map((one) => one.getAttribute('aria-label'))"
    )

    assert set(tables) <= {"The test split by composer"}


def test_on_paper_nothing_is_cut_and_no_player_is_left(page, with_warnings):
    page.look(width=718, media="print")  # A4 but for its margins
    page.open(with_warnings)
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert faults(page) == {}
    assert page.run("[...document.querySelectorAll('.wide')].every((one) => one.scrollWidth <= one.clientWidth)")
    hidden = page.run(
        "[...document.querySelectorAll('audio, nav, .listen')].map((one) => one.getBoundingClientRect().height)"
    )
    assert set(hidden) == {0}
    broken = page.run(
        "[...document.querySelectorAll('figure, .tile, tr, h2 + p')]"
        ".filter((one) => getComputedStyle(one).breakInside !== 'avoid').length"
    )
    assert broken == 0
    page.look(width=1100)
