"""How the page looks, and whether everyone can use it."""

import time
from pathlib import Path

import pytest

from play import server
from tests.trainer.looks import faults

SIZES = {"desktop": (1360, 850), "small desktop": (1024, 640), "portrait": (390, 844), "landscape": (844, 390)}
CONTROLS = ("button", "slider", "radio", "combobox", "spinbutton", "checkbox", "application", "image", "dialog")


def play(page, stub):
    page.type_key("KeyQ")
    stub.play([[index * 90.0, 40 + index, 200.0, 80] for index in range(30)])
    time.sleep(0.5)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut_or_faint(empty_page, stub, size, dark):
    page, (width, height) = empty_page, SIZES[size]
    if width == 390 or height == 390:
        page.phone(width, height, dark=dark)
    else:
        page.look(width=width, height=height, dark=dark)
    page.open_url(stub.url)
    page.wait("sostenuto.state == 'ready'")
    for _ in range(2):  # with the welcome, and with music
        found = faults(page)
        found.pop("stuck", None)  # the dialog and the settings are meant to be
        # So are keys that are half outside of the keyboard, and the names of icons.
        meant = ('id="piano"', 'class="case"', ' key"', 'class="letter"', 'class="label"')
        for kind in found.keys() - {"faint"}:
            found[kind] = [node for node in found[kind] if not any(part in node for part in meant)]
        assert not any(found.values()), found
        assert page.run("document.documentElement.scrollHeight <= innerHeight")
        assert page.run(
            "[...document.querySelectorAll('.modes, header, .actions')]"
            ".every((node) => node.scrollWidth <= node.clientWidth)"
        )
        play(page, stub)


def test_the_pictures_colours_follow_the_light(page, stub):
    colours = []
    for dark in (False, True):
        page.prefer(dark=dark)
        colours.append(page.run("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


def test_a_phone_shows_keys_that_a_finger_can_hit(empty_page, stub):
    page = empty_page
    page.phone(390, 844)
    page.open_url(stub.url)
    page.wait("sostenuto.state == 'ready'")
    assert page.run("document.querySelector('.white').getBoundingClientRect().width") >= 38
    page.click("#octave-up")
    page.wait("document.querySelector('#range').textContent.startsWith('C5')")
    assert page.run("document.documentElement.scrollWidth") == 390


def test_every_control_has_a_name(page, stub):
    page.click("#branches")
    page.wait("document.querySelectorAll('.branch').length == 3")
    names = {}
    for close in (False, True):
        if close:
            page.click(".none")
        for node in page.accessibility_tree():
            role = node.get("role", {}).get("value")
            if not node.get("ignored") and role in CONTROLS:
                names.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert all(name for all_names in names.values() for name in all_names), names
    assert {"Choose Way 1", "Listen to Way 3", "Go on", "Undo", "Octave up", "New seed"} <= set(names["button"])
    assert "Temperature" in names["slider"]
    assert page.run("[...document.querySelectorAll('[role=status]')].map((node) => node.id)")[:2] == ["turn", "notice"]


def test_the_tab_key_reaches_every_control(page, stub):
    reached = []
    page.run("document.body.focus()")
    for _ in range(40):
        page._call("Input.dispatchKeyEvent", type="rawKeyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        page._call("Input.dispatchKeyEvent", type="keyUp", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(page.run("document.activeElement.id || document.activeElement.name"))
    wanted = {"mode", "open", "save", "link", "start", "go-on", "undo", "branches", "clear", "pedal", "octave-down",
              "octave-up", "piano", "temperature", "top-p", "density", "key", "composer", "seed", "new_seed",
              "hand_over", "pause", "volume", "touch", "midi-connect"}  # fmt: skip
    assert wanted <= set(reached)
    outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_the_start_button_starts_the_sound_by_the_keyboard(page, stub):
    page.run("document.querySelector('#start').focus()")
    for kind in ("keyDown", "keyUp"):
        page._call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    page.wait("sostenuto.audio == 'running'")
    assert page.run("document.querySelector('#welcome').hidden")
    assert page.run("document.activeElement.id") == "piano"
    assert stub.of("branches") == []


def test_the_roll_stands_still_with_reduced_motion(empty_page, stub, tmp_path):
    """Between two pictures of a held note, only the line of the present and the note grow; nothing scrolls."""
    page = empty_page
    page.prefer(still=True)
    page.open_url(stub.url)
    page.wait("sostenuto.state == 'ready'")
    page.click("#start")
    page.type_key("KeyQ")
    tops = []
    for _ in range(2):
        time.sleep(0.15)
        tops.append(
            page.run("""(() => {
          const canvas = document.querySelector('#roll');
          const copy = new OffscreenCanvas(canvas.width, canvas.height);
          const context = copy.getContext('2d', { willReadFrequently: true });
          context.drawImage(canvas, 0, 0);
          const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
          for (let at = 0; at < data.length; at += 4) {
            if (data[at] > 180 && data[at + 2] < 90 && data[at + 3] > 100) return Math.floor(at / 4 / canvas.width);
          }
        })()""")
        )
    assert tops[0] == tops[1] is not None


def test_the_page_has_no_code_or_style_of_others():
    for file in (Path(server.__file__).parent / "static").iterdir():
        text = file.read_text(encoding="utf-8")
        assert "console." not in text, file
        assert "http" not in text.replace("http://www.w3.org/", "").replace('"http"', ""), file
        assert " style=" not in text, file
        assert len(text.splitlines()) < 350, file
