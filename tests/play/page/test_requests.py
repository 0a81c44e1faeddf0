"""Controls, files and the connection."""

import time

import pytest

from tests.play.page.stub import MIDI_FILE


def texts(page, selector):
    return page.run(f"[...document.querySelectorAll({selector!r})].map((node) => node.textContent)")


def test_the_first_message_starts_a_session(page, stub):
    assert stub.messages[0]["type"] == "start"
    assert stub.messages[0]["settings"] == {}
    assert stub.messages[0]["epoch"] == 0
    stub.wait(lambda: len(stub.of("clock")) > 2)


def test_a_changed_control_is_sent(page, stub):
    page.run("document.querySelector('#temperature').focus()")
    page._call(
        "Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39
    )
    page._call("Input.dispatchKeyEvent", type="keyUp", key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    stub.wait(lambda: [message["settings"] for message in stub.of("set")] == [{"temperature": 1.01}])
    page.run("""(() => {
      const change = (id, value) => {
        document.querySelector(id).value = value;
        document.querySelector(id).dispatchEvent(new Event('change', { bubbles: true }));
      };
      change('#key', 'D minor');
      change('#seed', '7');
      change('#seed', '-1');
      change('#density', '5');
      change('#density', '8');
    })()""")
    page.click(".modes label:nth-of-type(3)")
    page.click(".choices label:nth-of-type(2)")
    stub.wait(lambda: len(stub.of("set")) == 7)
    assert page.run("document.querySelector('#seed').value") == "7"
    assert [message["settings"] for message in stub.of("set")[1:]] == [
        {"key": "D minor"}, {"seed": 7}, {"density": 5}, {"density": 8}, {"mode": "listen"}, {"hand_over": "pedal"},
    ]  # fmt: skip
    assert texts(page, "#hint") == ["Play, then let the model continue."]


def test_a_control_that_is_changed_before_the_server_accepts_is_kept(empty_page, stub):
    page = empty_page
    stub.accepts = False
    page.open_url(stub.url)
    page.wait("document.querySelector('#density').value == '0'")
    page.run("""(() => {
      document.querySelector('#density').value = '5';
      document.querySelector('#density').dispatchEvent(new Event('change', { bubbles: true }));
    })()""")
    assert stub.messages == []
    stub.accepts = True
    page.wait("sostenuto.state == 'ready'")
    assert stub.of("start")[0]["settings"] == {"density": 5}
    assert page.run("document.querySelector('#density').value") == "5"


def test_the_key_of_the_command_is_shown_by_its_own_name(empty_page, stub):
    page = empty_page
    stub.settings["key"] = "Gb major"
    page.open_url(stub.url)
    page.wait("sostenuto.state == 'ready'")
    assert page.run("document.querySelector('#key').value") == "Gb major"
    page.run("""(() => {
      document.querySelector('#key').value = 'D minor';
      document.querySelector('#key').dispatchEvent(new Event('change', { bubbles: true }));
    })()""")
    stub.wait(lambda: [message["settings"] for message in stub.of("set")] == [{"key": "D minor"}])


@pytest.mark.parametrize("has_density", [False, True])
def test_the_density_is_offered_only_if_the_model_has_one(empty_page, stub, has_density):
    stub.has_density = has_density
    empty_page.open_url(stub.url)
    empty_page.wait("sostenuto.state == 'ready'")
    assert empty_page.run("document.querySelector('#density').getBoundingClientRect().width > 0") == has_density


def test_the_composer_is_offered_only_if_the_model_knows_some(empty_page, stub):
    page = empty_page
    for composers in ([], ["Bach"]):
        stub.composers = composers
        page.open_url(stub.url)
        page.wait("sostenuto.state == 'ready'")
        assert page.run("document.querySelector('#composer').closest('.field').hidden") == (not composers)


def test_space_goes_on_and_stops(page, stub):
    page.type_key("Space", " ")
    stub.wait(lambda: stub.of("continue"))
    page.wait("document.querySelector('#go-on').textContent.startsWith('Stop')")
    page.wait("sostenuto.sounded.model > 0")
    page.type_key("Space", " ")
    epoch = stub.wait(lambda: stub.of("stop"))[0]["epoch"]
    assert epoch == 1
    sounded = page.run("sostenuto.sounded.model")
    time.sleep(0.7)
    assert page.run("sostenuto.sounded.model") == sounded
    assert texts(page, "#turn") == ["Your turn"]


def test_undo_shows_what_remains(page, stub):
    page.type_key("Space", " ")
    page.wait("sostenuto.sounded.model > 0")
    stub.music = [[-3000.0, 60, 500.0, 80, 0]]
    page.type_key("Backspace", "Backspace")
    assert stub.wait(lambda: stub.of("undo"))[0]["epoch"] == 1
    page.wait("document.querySelectorAll('#piano .model').length == 0")


def test_a_branch_is_heard_and_chosen(page, stub):
    page.click("#branches")
    page.wait("document.querySelectorAll('.branch').length == 3")
    stub.wait(lambda: stub.of("branches"))
    page.click(".branch .listen")
    page.wait("document.querySelector('.branch .listen').textContent == 'Stop'")
    page.click(".branch:nth-child(2) .choose")
    assert stub.wait(lambda: stub.of("choose"))[0]["branch"] == 1
    assert page.run("document.querySelector('dialog').open") is False
    page.wait("sostenuto.sounded.model > 0")


def test_no_branch_is_chosen_by_escape(page, stub):
    page.type_key("Enter", "Enter")
    page.wait("document.querySelectorAll('.branch').length == 3")
    page.type_key("KeyQ")
    page._call("Input.dispatchKeyEvent", type="rawKeyDown", key="Escape", code="Escape", windowsVirtualKeyCode=27)
    assert stub.wait(lambda: stub.of("choose"))[0]["branch"] == -1
    assert stub.of("key") == []


def test_clear_asks_once_more(page, stub):
    page.click("#clear")
    page.wait("document.querySelector('#clear').textContent == 'Sure?'")
    assert stub.of("clear") == []
    page.click("#clear")
    stub.wait(lambda: stub.of("clear"))
    page.wait("document.querySelector('#clear').textContent == 'Clear'")


def test_save_downloads_the_file(page, stub, tmp_path):
    page.save_downloads(tmp_path)
    page.click("#save")
    stub.wait(lambda: (tmp_path / "sostenuto-seed-0.mid").exists())
    assert (tmp_path / "sostenuto-seed-0.mid").read_bytes() == MIDI_FILE


def test_a_dropped_file_is_sent_and_replayed(page, stub):
    page.click("#start")
    page.drop(MIDI_FILE, "tune.mid")
    stub.wait(lambda: MIDI_FILE in stub.messages)
    before = stub.messages[stub.messages.index(MIDI_FILE) - 1]
    assert (before["type"], before["epoch"]) == ("stop", 1)  # a binary message has no epoch
    page.wait("sostenuto.sounded.file > 0")
    page.type_key("KeyQ")
    assert stub.wait(lambda: stub.of("key"))[0]["epoch"] == 2


def test_other_files_are_rejected_with_a_sentence(page, stub):
    page.drop(b"GIF89a", "picture.gif")
    page.wait("document.querySelector('#notice').textContent.includes('picture.gif is not a MIDI file')")
    page.drop(b"MThd" + bytes(1 << 20), "long.mid")
    page.wait("document.querySelector('#notice').textContent.includes('long.mid is too large')")
    assert not [message for message in stub.messages if isinstance(message, bytes)]


def test_a_link_sets_what_the_page_starts_with(empty_page, stub):
    page = empty_page
    page.open_url(
        stub.url + "#seed=7&temperature=1.25&key=D+minor&composer=Chopin&mode=together&top_p=9&nonsense=1&density=x"
    )
    page.wait("sostenuto.state == 'ready'")
    assert stub.messages[0]["settings"] == {
        "seed": 7, "temperature": 1.25, "key": "D minor", "mode": "together", "top_p": 1, "composer": "Chopin",
    }  # fmt: skip
    assert page.run("document.querySelector('#settings-form').elements.composer.value") == "Chopin"
    page.grant("clipboardReadWrite", "clipboardSanitizedWrite")
    page.click("#link")
    page.wait("document.querySelector('#notice').textContent.includes('copied')")
    link = page.run("location.hash")
    assert page.run("navigator.clipboard.readText()") == stub.url + link
    page.open_url("about:blank")
    page.open_url(stub.url + link)
    stub.wait(lambda: len(stub.of("start")) == 2)
    settings = stub.of("start")[1]["settings"]
    assert len(settings) == 9
    assert settings["seed"] == 7
    assert settings["key"] == "D minor"


def test_a_setting_of_a_link_that_the_server_rejects_is_named(empty_page, stub):
    page = empty_page
    stub.complaint = "composer: got 'Satie', expected one of Bach, Chopin"
    page.open_url(stub.url + "#seed=7")
    page.wait("sostenuto.state == 'ready'")
    assert texts(page, "#notice") == [stub.complaint]


@pytest.mark.parametrize("resumes", [True, False])
def test_a_lost_connection_is_shown_and_comes_back(page, stub, resumes):
    stub.resumes = resumes
    page.run("document.querySelector('[value=together]').click()")
    stub.wait(lambda: stub.of("set"))
    page.type_key("KeyQ")
    stub.close(1001, "")
    page.wait("sostenuto.state == 'lost'")
    assert "The connection to the server is lost." in texts(page, "#notice")[0]
    assert page.run("document.querySelector('#go-on').disabled")
    page.wait("sostenuto.state == 'ready'")
    assert stub.connections == 2
    start = stub.of("start")[1]
    assert (start["settings"]["mode"], start["epoch"]) == ("together", 0)
    assert start["session"] == stub.of("start")[0]["session"] != ""
    assert texts(page, "#notice") == ["" if resumes else "The server no longer has the piece. A new one begins."]


def test_the_reason_is_shown_when_all_places_are_taken(empty_page, stub):
    page = empty_page
    stub.refusal = 1013, "All four places are taken. Try again later"
    page.open_url(stub.url)
    page.wait("sostenuto.state == 'full'")
    assert texts(page, "#notice")[0].startswith("All four places are taken. Try again later. This page")


def test_an_error_of_the_server_is_shown(page, stub):
    page.click("#branches")
    page.wait("document.querySelectorAll('.branch').length == 3")
    stub.send(type="error", message="<b>Nothing</b> to go on from.")
    page.wait("document.querySelector('#notice').textContent == '<b>Nothing</b> to go on from.'")
    assert page.run("document.querySelector('dialog').open") is False


def test_the_page_is_usable_while_its_sounds_are_loaded(empty_page, stub):
    page = empty_page
    stub.sample_delay = 1.5
    page.open_url(stub.url)
    page.wait("document.querySelector('#hint').textContent.startsWith('Loading the piano')")
    page.type_key("KeyQ")
    stub.wait(lambda: len(stub.of("key")) == 2)
    page.wait("sostenuto.state == 'ready'")
    assert page.run("sostenuto.samples") == 16
