"""A MIDI piano, by a Web MIDI of the test's own: a headless browser has no ports."""

import pytest

FAKE = """
window.sent = [];
const input = { id: 'in', name: 'Stage piano', state: 'connected' };
const output = { id: 'out', name: 'Disklavier', state: 'connected',
  send: (bytes, at = performance.now()) => { window.sent.push([at, ...bytes]); window.onSent?.(); } };
const access = { inputs: new Map([['in', input]]), outputs: new Map([['out', output]]) };
navigator.requestMIDIAccess = async () => access;
window.unplug = () => { input.state = 'disconnected'; access.inputs.delete('in'); access.onstatechange(); };
window.receive = (...data) => input.onmidimessage({ data, timeStamp: performance.now() });
"""


@pytest.fixture
def midi_page(empty_page, stub):
    page = empty_page
    script = page._call("Page.addScriptToEvaluateOnNewDocument", source=FAKE)["identifier"]
    page.open_url(stub.url)
    page.wait("sostenuto.state == 'ready'")
    page.click("#midi-connect")
    page.wait("!document.querySelector('#midi-ports').hidden")
    yield page
    page._call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


def choose_output(page):
    page.run("""(() => {
      document.querySelector('#midi-output').value = 'out';
      document.querySelector('#midi-alone').checked = true;
    })()""")


def messages(page):
    """Returns what the output plays, in the order of time."""
    return [message for _, *message in sorted(page.run("sent"))]


def test_keys_and_the_pedal_of_a_midi_piano_are_sent(midi_page, stub):
    assert midi_page.run("[...document.querySelector('#midi-input').options].map((option) => option.text)") == [
        "all inputs", "Stage piano",
    ]  # fmt: skip
    midi_page.run("receive(0xb0, 64, 127); receive(0x90, 61, 99); receive(0x90, 61, 0); receive(0xb0, 64, 0)")
    stub.wait(lambda: len(stub.of("pedal")) == 2)
    assert [pedal["down"] for pedal in stub.of("pedal")] == [True, False]
    assert [(key["pitch"], key["velocity"]) for key in stub.of("key")] == [(61, 99), (61, 0)]
    midi_page.run("receive(0x80, 61, 64); receive(0xf8)")  # a release of no key, and a clock


def test_a_note_that_is_cancelled_as_it_starts_also_ends(midi_page, stub):
    choose_output(midi_page)
    # The key comes after the note is sent, and before its moment.
    midi_page.run("""window.onSent = () => queueMicrotask(() => {
      window.onSent = undefined;
      document.body.dispatchEvent(new KeyboardEvent('keydown', { code: 'KeyQ', key: 'q', bubbles: true }));
    }), 0""")
    stub.play([[50.0, 62, 3000.0, 78]])
    midi_page.wait("sent.length == 2")
    midi_page.key_up("KeyQ")
    assert messages(midi_page) == [[0x90, 62, 78], [0x80, 62, 0]]


def test_the_models_notes_go_to_a_midi_output(midi_page, stub):
    choose_output(midi_page)
    stub.play([[0.0, 60, 150.0, 77], [400.0, 62, 3000.0, 78], [2900.0, 64, 100.0, 79]])
    midi_page.wait("sostenuto.sounded.model == 2")
    midi_page.key_down("KeyQ")
    midi_page.wait("sent.length == 4")
    midi_page.key_up("KeyQ")
    assert messages(midi_page) == [[0x90, 60, 77], [0x80, 60, 0], [0x90, 62, 78], [0x80, 62, 0]]


def test_a_repeated_note_is_not_ended_by_the_one_before(midi_page, stub):
    choose_output(midi_page)
    stub.play([[0.0, 60, 300.0, 77], [300.0, 60, 300.0, 78]])
    midi_page.wait("sent.length == 4")
    assert messages(midi_page) == [[0x90, 60, 77], [0x80, 60, 0], [0x90, 60, 78], [0x80, 60, 0]]


def test_a_note_shorter_than_a_millisecond_ends_after_it_starts(midi_page, stub):
    choose_output(midi_page)
    stub.play([[100.0, 60, 0.5, 77], [100.0, 60, 300.0, 78]])
    midi_page.wait("sent.length == 4")
    sent = midi_page.run("sent")
    assert [status for _, status, *_ in sent] == [0x90, 0x80, 0x90, 0x80]
    times = [at for at, *_ in sent]
    assert times == sorted(times)


def test_a_note_that_outlasts_the_next_one_of_its_pitch_does_not_end_it(midi_page, stub):
    choose_output(midi_page)
    stub.play([[0.0, 60, 400.0, 77], [200.0, 60, 600.0, 78]])
    midi_page.wait("sent.length == 4")
    assert messages(midi_page) == [[0x90, 60, 77], [0x80, 60, 0], [0x90, 60, 78], [0x80, 60, 0]]
    on_a, off_a, on_b, off_b = sorted(midi_page.run("sent.map(([at]) => at)"))
    assert (off_a - on_a, off_b - on_b) == (pytest.approx(199, abs=1), pytest.approx(599, abs=1))


def test_notes_end_at_the_output_where_they_began(midi_page, stub):
    choose_output(midi_page)
    stub.play([[0.0, 60, 600.0, 77]])
    midi_page.wait("sent.length == 1")
    midi_page.run("document.querySelector('#midi-output').value = ''")
    midi_page.wait("sent.length == 2")


def test_notes_end_when_the_page_is_left(midi_page, stub):
    choose_output(midi_page)
    stub.play([[0.0, 60, 60_000.0, 77]])
    midi_page.wait("sent.length == 1")
    midi_page.run("dispatchEvent(new Event('pagehide')), 0")
    assert messages(midi_page) == [[0x90, 60, 77], [0x80, 60, 0]]


def test_keys_of_a_piano_that_is_unplugged_are_released(midi_page, stub):
    midi_page.run("receive(0xb0, 64, 127); receive(0x90, 61, 99); dispatchEvent(new Event('blur'))")
    stub.wait(lambda: stub.of("key"))
    assert [pedal["down"] for pedal in stub.of("pedal")] == [True]
    midi_page.run("unplug()")
    stub.wait(lambda: len(stub.of("pedal")) == 2)
    assert [(key["pitch"], key["velocity"]) for key in stub.of("key")] == [(61, 99), (61, 0)]
