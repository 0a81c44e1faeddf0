"""Notes of the player and of the model."""

import time

import pytest


def press(page, codes, seconds=0.03):
    for code in codes:
        page.key_down(code)
        time.sleep(seconds)
        page.key_up(code)


def key_middle(page, pitch):
    return page.middle(f"#piano .key:nth-child({pitch - 20})")


def test_eight_notes_of_the_computers_keys_are_sent_and_an_answer_sounds(page, stub):
    press(page, ["KeyZ", "KeyS", "KeyX", "KeyQ", "Digit2", "KeyW", "KeyP", "Slash"])
    stub.wait(lambda: len(stub.of("key")) == 16)
    keys = stub.of("key")
    assert [key["pitch"] for key in keys[::2]] == [48, 49, 50, 60, 61, 62, 76, 64]
    assert [key["pitch"] for key in keys[1::2]] == [key["pitch"] for key in keys[::2]]
    assert [key["velocity"] for key in keys] == [80, 0] * 8
    times = [key["at"] for key in keys]
    assert times == sorted(times)
    assert page.run("performance.now()") > times[-1] > times[0] > 0
    assert page.run("sostenuto.sounded.you") == 8
    page.wait("sostenuto.sounded.model == 10")
    assert page.run("sostenuto.audio") == "running"
    assert page.run("sostenuto.underruns") == 0
    assert page.run("document.querySelector('#turn').textContent") == "The model plays"
    hint = page.run("document.querySelector('#hint').textContent")
    assert hint.startswith("answered ")
    after_pause, after_key = (int(word) for word in hint.split() if word.isdigit())
    assert after_key - after_pause == 500


def test_octaves_move_by_the_brackets(page, stub):
    press(page, ["BracketRight", "KeyZ", "BracketLeft", "BracketLeft", "KeyZ"])
    stub.wait(lambda: len(stub.of("key")) == 4)
    assert [key["pitch"] for key in stub.of("key")] == [60, 60, 36, 36]


def test_a_held_key_repeats_no_note(page, stub):
    page.key_down("KeyZ")
    page._call("Input.dispatchKeyEvent", type="keyDown", code="KeyZ", key="z", autoRepeat=True)
    page.key_up("KeyZ")
    stub.wait(lambda: len(stub.of("key")) == 2)


def test_keys_are_released_when_the_window_loses_the_focus(page, stub):
    page.key_down("KeyZ")
    page.run("dispatchEvent(new Event('blur'))")
    stub.wait(lambda: [key["velocity"] for key in stub.of("key")] == [80, 0])


def test_letters_typed_into_a_field_are_no_notes(page, stub):
    page.run("document.querySelector('#seed').focus()")
    press(page, ["Digit2", "KeyQ"])
    page.run("document.querySelector('#seed').blur()")
    press(page, ["KeyQ"])
    stub.wait(lambda: len(stub.of("key")) == 2)


def test_the_mouse_slides_over_keys_and_plays_louder_further_down(page, stub):
    x, y = key_middle(page, 60)
    top = page.run("document.querySelector('#piano').getBoundingClientRect().top")
    page.mouse("mousePressed", x - 3, top + 8)
    page.mouse("mouseMoved", key_middle(page, 62)[0], y + 95)
    page.mouse("mouseReleased", x, y)
    stub.wait(lambda: len(stub.of("key")) >= 4)
    keys = stub.of("key")
    pressed = [key for key in keys if key["velocity"]]
    assert pressed[0]["pitch"] == 60
    assert pressed[-1]["pitch"] == 62
    assert 1 <= pressed[0]["velocity"] < pressed[-1]["velocity"] <= 127
    assert {key["pitch"] for key in keys if not key["velocity"]} == {key["pitch"] for key in pressed}


def test_fingers_play_chords(empty_page, stub):
    page = empty_page
    page.phone(844, 390)
    page.open_url(stub.url)
    page.wait("sostenuto.state == 'ready'")
    places = [key_middle(page, pitch) for pitch in (60, 64, 67)]
    fingers = [(finger, x, y + 40) for finger, (x, y) in enumerate(places)]
    page.touch("touchStart", *fingers)
    stub.wait(lambda: len(stub.of("key")) == 3)
    page.touch("touchEnd")
    stub.wait(lambda: len(stub.of("key")) == 6)
    assert {key["pitch"] for key in stub.of("key")} == {60, 64, 67}


def test_the_pedal_is_sent_once(page, stub):
    page.key_down("KeyA")
    page.key_up("KeyA")
    x, y = page.middle("#pedal")
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    stub.wait(lambda: len(stub.of("pedal")) == 4)
    assert [pedal["down"] for pedal in stub.of("pedal")] == [True, False, True, False]


def test_a_key_cancels_the_answer_and_raises_the_epoch(page, stub):
    stub.answer = [[400.0 * index, 60, 300.0, 80] for index in range(20)]
    press(page, ["KeyQ"])
    page.wait("sostenuto.sounded.model > 0")
    before = stub.of("key")[-1]["epoch"]
    page.key_down("KeyW")
    sounded = page.run("sostenuto.sounded.model")
    stub.wait(lambda: stub.of("key")[-1]["pitch"] == 62)
    assert stub.of("key")[-1]["epoch"] > before
    time.sleep(1)
    assert page.run("sostenuto.sounded.model") == sounded
    assert page.run("document.querySelector('#turn').textContent") == "Your turn"
    page.key_up("KeyW")


def test_notes_of_an_earlier_epoch_are_ignored(page, stub):
    page.type_key("KeyQ")
    epoch = stub.wait(lambda: stub.of("key"))[-1]["epoch"]
    page.key_down("KeyW")  # held, so that no answer comes
    newer = stub.wait(lambda: [key["epoch"] for key in stub.of("key") if key["pitch"] == 62])[0]
    assert newer == epoch + 1
    for number, sent in ((1, newer), (0, newer - 1)):
        now = page.run("performance.now()")
        stub.send(type="notes", epoch=sent, notes=[[now + 150, 70, 100, 80, 1]])
        page.wait(f"performance.now() > {now + 600}")
        assert page.run("sostenuto.sounded.model") == 1, number
    page.key_up("KeyW")


def test_together_a_key_lets_sounding_notes_go_on(page, stub):
    page.click("#start")
    page.wait("sostenuto.audio == 'running'")
    page.run("document.querySelector('[value=together]').click()")
    stub.wait(lambda: stub.of("set"))
    stub.play([[0.0, 60, 4000.0, 80], [2500.0, 62, 100.0, 80]])
    page.wait("document.querySelectorAll('#piano .model').length == 1")
    page.type_key("KeyQ")
    time.sleep(0.5)
    assert page.run("document.querySelectorAll('#piano .model').length") == 1
    time.sleep(2.5)
    assert page.run("sostenuto.sounded.model") == 1


def test_cut_cancels_later_notes_only(page, stub):
    page.click("#start")
    page.wait("sostenuto.audio == 'running'")
    start = stub.now() + 300
    stub.play([[0.0, 60, 100.0, 80], [800.0, 62, 100.0, 80], [1500.0, 64, 100.0, 80]], ahead=300)
    stub.send(type="cut", at=start + 1100)
    time.sleep(2.5)
    assert page.run("sostenuto.sounded.model") == 2


def test_notes_after_their_moment_are_counted(page, stub):
    page.click("#start")
    page.wait("sostenuto.audio == 'running'")
    stub.play([[0.0, 60, 100.0, 80]], ahead=-200)
    page.wait("sostenuto.underruns == 1")
    page.wait("sostenuto.sounded.model == 1")


@pytest.mark.parametrize("size", [(1360, 850), (390, 844)])
def test_keys_light_in_the_players_colours(page, stub, size):
    page.look(width=size[0], height=size[1])
    page.wait(f"innerWidth == {size[0]}")
    page.run("document.querySelector('[value=together]').click()")
    page.key_down("KeyQ")
    page.wait("document.querySelectorAll('#piano .you').length == 1")
    stub.play([[0.0, 64, 2000.0, 80]])
    page.wait("document.querySelectorAll('#piano .model').length == 1")
    page.key_up("KeyQ")
    page.wait("document.querySelectorAll('#piano .you').length == 0")


def test_very_many_notes_leave_the_page_responsive(page, stub):
    page.click("#start")
    for _ in range(5):
        stub.play([[index * 4.0, 30 + index % 70, 500.0, 80] for index in range(200)], ahead=300)
    page.wait("sostenuto.sounded.model >= 900")
    page.type_key("KeyQ")
    stub.wait(lambda: stub.of("key"))
