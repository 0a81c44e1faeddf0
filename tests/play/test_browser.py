"""The page and its server together: what is played by keys in Chromium is answered, heard, seen and saved."""

import asyncio
import threading
import time

import pytest

from sostenuto.music.midi import midi_bytes, read_midi
from tests.factories import regular_notes
from tests.play.fake_sampler import FakeSampler
from tests.play.page.browser import PlayPage
from tests.play.server import serving
from tests.trainer.browser import CHROMIUM, browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

KEYS = ("KeyZ", "KeyX", "KeyC", "KeyV", "KeyB", "KeyN", "KeyM", "KeyQ")


@pytest.fixture(scope="module")
def url():
    """The address of a server in a thread of its own."""
    ready, address, end = threading.Event(), [], []

    async def serve():
        async with serving(FakeSampler(120_000)) as client:
            address.append(f"http://{client.host}:{client.port}/")
            stop = asyncio.Event()
            end.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    yield address[0]
    loop, stop = end[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture
def page(url, tmp_path):
    with browser(tmp_path / "profile", PlayPage) as page:
        page.desk()
        page.save_downloads(tmp_path)
        page.open_url(url)
        page.wait("sostenuto.state == 'ready'")
        yield page
        assert page.errors == []
        assert {address.split("/")[2] for address in page.requests if "://" in address} == {url.split("/")[2]}


def test_eight_notes_are_answered_heard_seen_and_saved(page, tmp_path):
    page.wait("sostenuto.samples == 44")
    for key in KEYS:
        page.type_key(key)
    page.wait("sostenuto.sounded.model >= 5")
    assert page.run("sostenuto.audio") == "running"
    assert page.run("sostenuto.sounded.you") == 8
    assert page.run("sostenuto.underruns") == 0
    page.type_key("Space", " ")
    page.wait("document.querySelector('#turn').textContent == 'Your turn'")
    heard = page.run("sostenuto.sounded.model")
    # Not before: reading the pixels keeps the page from counting what sounds meanwhile.
    colours = page.run("""(() => {
      const canvas = document.querySelector("canvas");
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      const colours = new Set();
      for (let at = 0; at < pixels.length; at += 4) colours.add(pixels.slice(at, at + 3).join());
      return colours.size;
    })()""")
    assert colours > 4
    page.click("#save")
    until = time.monotonic() + 60
    while not (files := list(tmp_path.glob("*.mid"))) and time.monotonic() < until:
        time.sleep(0.05)
    notes = read_midi(files[0].read_bytes(), "saved").notes
    assert notes.pitch[:8].tolist() == [48, 50, 52, 53, 55, 57, 59, 60]
    # The page counts by its timers, which are early or late: the last note may be on either side of the stop.
    assert abs(len(notes) - 8 - heard) <= 1


def test_a_dropped_file_goes_on(page):
    page.click("#start")
    page.drop(midi_bytes(regular_notes(60, seed=2)), "tune.mid")
    page.wait("sostenuto.sounded.file > 3")
    page.wait("sostenuto.sounded.model > 3")
