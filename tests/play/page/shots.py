"""Takes pictures of the page: python -m tests.play.page.shots FOLDER."""

import pathlib
import sys
import tempfile
import time

import numpy as np

from tests.play.page.browser import PlayPage
from tests.play.page.stub import MIDI_FILE, Stub, stub_server
from tests.trainer.browser import browser


def dense(seconds: float, rate: float, seed: int = 3) -> list[list[float]]:
    """Returns music of a left and a right hand."""
    random = np.random.default_rng(seed)
    notes, time_ms, place = [], 0.0, 66.0
    while time_ms < seconds * 1000:
        place = np.clip(place + random.normal(0, 2.5), 55, 90)
        notes.append([time_ms, int(place), float(random.uniform(90, 450)), int(random.uniform(40, 110))])
        if random.random() < 0.35:
            notes.append([time_ms, int(place) - int(random.choice([12, 19, 24])), float(random.uniform(300, 900)), 55])
        time_ms += 1000 / rate * float(random.choice([0.5, 1, 1, 2]))
    return notes


def play_a_while(page: PlayPage, stub: Stub) -> None:
    """Plays a phrase and waits for the middle of an answer."""
    for code in ("KeyQ", "KeyE", "KeyT", "KeyI", "KeyT", "KeyE"):
        page.key_down(code)
        time.sleep(0.14)
        page.key_up(code)
        time.sleep(0.05)
    time.sleep(2.6)


def main(folder: pathlib.Path) -> None:
    """Writes all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        stub_server() as stub,
        tempfile.TemporaryDirectory() as profile,
        browser(pathlib.Path(profile), PlayPage) as page,
    ):
        stub.answer = dense(4, 7)
        page.look(width=1360, height=850)
        page.open_url(stub.url)
        page.wait("sostenuto.state == 'ready'")
        page.picture(folder / "desktop-first.png")
        page.key_down("KeyQ")
        page.key_up("KeyQ")
        for name, dark in (("light", False), ("dark", True)):
            page.look(width=1360, height=850, dark=dark)
            play_a_while(page, stub)
            page.key_down("KeyZ")
            page.picture(folder / f"desktop-{name}-you.png")
            page.key_up("KeyZ")
            play_a_while(page, stub)
            page.picture(folder / f"desktop-{name}.png")
            page.click("#branches")
            page.wait("document.querySelectorAll('.branch').length == 3")
            page.click(".listen")
            time.sleep(0.8)
            page.picture(folder / f"branches-{name}.png")
            page.click(".none")
        page.look(width=1360, height=850)
        page.run("document.body.classList.add('dropping')")
        page.picture(folder / "desktop-drop.png")
        page.run("document.body.classList.remove('dropping')")
        page.drop(MIDI_FILE, "tune.mid")
        page.drop(b"GIF89a", "picture.gif")
        time.sleep(2.5)
        page.picture(folder / "desktop-file-error.png")
        stub.refusal = 1013, "All four places are taken. Try again in a few minutes."
        stub.close(1001, "")
        page.wait("sostenuto.state == 'full'")
        page.picture(folder / "desktop-full.png")
        stub.refusal = None
        page.prefer(still=True)
        page.look(width=1920, height=1000, dark=True)
        page.wait("sostenuto.state == 'ready'")
        play_a_while(page, stub)
        page.picture(folder / "desktop-wide.png")
        page.look(width=1024, height=640)
        page.prefer(still=True)
        play_a_while(page, stub)
        page.picture(folder / "desktop-small-still.png")
        for name, width, height in (("portrait", 390, 844), ("landscape", 844, 390), ("tablet", 820, 1180)):
            page.phone(width, height, dark=name == "landscape")
            page.open_url(stub.url)
            page.wait("sostenuto.state == 'ready'")
            page.picture(folder / f"phone-{name}-first.png")
            play_a_while(page, stub)
            page.picture(folder / f"phone-{name}.png")
            page.click("#settings-button")
            page.picture(folder / f"phone-{name}-settings.png")
            page.click("#settings-close")
        page.click("#branches")
        page.wait("document.querySelectorAll('.branch').length == 3")
        page.phone(390, 844)
        page.picture(folder / "phone-portrait-branches.png")
        print(page.errors, page.run("({...sostenuto.sounded, under: sostenuto.underruns, audio: sostenuto.audio})"))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
