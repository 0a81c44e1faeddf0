"""The command on MIDI ports of the system, in the place of those of the tests' own."""

import contextlib
import signal
import time
from pathlib import Path

import mido
import pytest

from tests.factories import tiny_model, write_trained
from tests.play.commands import SECONDS, end, started, still_sounding
from tests.play.jack import BACKEND, SERVER, jack_server, missing
from tests.processes import wait_until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
def server(tmp_path, monkeypatch):
    with jack_server(tmp_path) as name:
        monkeypatch.setenv(SERVER, name)
        yield name


def test_a_port_of_our_own_is_found_and_another_by_a_part_of_its_name(server, tmp_path: Path):
    workdir = write_trained(tmp_path / "w", tiny_model("density"))
    backend, received = mido.Backend(BACKEND), []

    def receive(message: mido.Message) -> None:
        received.append((time.monotonic(), message))

    arguments = (f"--workdir={workdir}", "--midi_in=virtual", "--midi_out=piano", "--pause=0.4", "--density=15")
    with contextlib.ExitStack() as stack:
        stack.enter_context(backend.open_input("Piano", virtual=True, callback=receive))
        process, line = stack.enter_context(started(*arguments, MIDO_BACKEND=BACKEND, **{SERVER: server}))
        assert "hears Sostenuto, plays on " in line
        (name,) = (name for name in backend.get_output_names() if "Sostenuto" in name)
        keys = stack.enter_context(backend.open_output(name))
        for pitch in (60, 64, 67):
            keys.send(mido.Message("note_on", note=pitch, velocity=70))
            time.sleep(0.05)
            released = time.monotonic()
            keys.send(mido.Message("note_off", note=pitch))
        wait_until(lambda: still_sounding(received), SECONDS, lambda: f"no answer: {received}")
        first, message = received[0]
        assert message.type == "note_on"
        assert first - released >= 0.35
        status, error = end(process, signal.SIGINT)
        assert (status, error.splitlines()[-1]) == (130, "play: interrupted")
        time.sleep(0.2)
        assert still_sounding(received) == set()
