"""The command as a process: the page's server and the MIDI ports, with a real model, and what it says of mistakes."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import time
from pathlib import Path

import aiohttp
import mido
import pytest

from tests.factories import tiny_model, write_trained
from tests.play import port_backend
from tests.play.commands import SECONDS, end, started, still_sounding
from tests.play.server import playing
from tests.processes import run_python


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    model = tiny_model("density", layers=2, pitch_range=(30, 90), composers=("Ada", "Bach"))
    return write_trained(tmp_path_factory.mktemp("runs") / "first", model)


class Client:
    """What `playing` needs of a client."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    def ws_connect(self, path, headers=None):
        return self._session.ws_connect(self._url.rstrip("/") + path, headers=headers)


async def play_with(url: str) -> list[float]:
    """Plays eight notes, and returns the moments of the answer's notes, counted from the last key."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.get(url) as page:
            assert page.status == 200
            assert "<title>" in await page.text()
        base = url.partition("?")[0]
        async with playing(Client(session, base), settings={"pause": 0.3, "composer": "Bach", "density": 15}) as player:
            await player.play(60, 62, 64, 65, 67, 69, 71, 72)
            released = player.now()
            await player.wait_for("notes", 2)
            assert player.of("turn")[0]["latency"] < 5_000
            return [note[0] - released for message in player.of("notes") for note in message["notes"]]


def test_the_page_answers_and_a_signal_ends_it(workdir):
    with started(f"--workdir={workdir}", "--port=0", "--nobrowser") as (process, line):
        url = re.fullmatch(r"play at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends\)\n", line)[1]
        moments = asyncio.run(asyncio.wait_for(play_with(url), SECONDS))
        assert moments == sorted(moments)
        assert moments[0] >= 250
        port = re.search(r":(\d+)/", url)[1]
        taken = run_python("-m", "play", f"--workdir={workdir}", f"--port={port}", "--nobrowser")
        assert taken.returncode == 2
        assert "the port is taken" in taken.stderr.splitlines()[-1]
        status, error = end(process, signal.SIGINT)
        assert (status, error.splitlines()[-1]) == (130, "play: interrupted")
        assert "Traceback" not in error


def test_for_others_there_is_a_token(workdir):
    arguments = (f"--workdir={workdir}", "--host=0.0.0.0", "--port=0", "--nobrowser")
    with started(*arguments) as (process, line):
        port, token = re.search(r":(\d+)/\?token=([\w-]{16,})", line).groups()
        asyncio.run(asyncio.wait_for(play_with(f"http://127.0.0.1:{port}/?token={token}"), SECONDS))
        with pytest.raises(AssertionError, match="403"):
            asyncio.run(asyncio.wait_for(play_with(f"http://127.0.0.1:{port}/"), SECONDS))
        assert end(process, signal.SIGTERM)[0] == 143


class Ports:
    """The other ends of the ports: keys go in, notes come out."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "ports")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._listener.settimeout(SECONDS)
        self.ends: dict[str, socket.socket] = {}

    def close(self) -> None:
        for connection in (self._listener, *self.ends.values()):
            connection.close()

    def accept(self) -> None:
        for _ in range(2):
            connection, _ = self._listener.accept()
            self.ends[connection.recv(1).decode()] = connection

    def send(self, *messages: mido.Message) -> None:
        for message in messages:
            self.ends["i"].sendall(message.bin())

    def receive(self, seconds: float) -> list[tuple[float, mido.Message]]:
        """Returns what comes out within some seconds, with its time."""
        parser, received, until = mido.Parser(), [], time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.ends["o"].settimeout(left)
            with contextlib.suppress(TimeoutError):
                data = self.ends["o"].recv(1024)
                if not data:
                    break  # The process has ended.
                parser.feed(data)
                received += [(time.monotonic(), message) for message in parser]
        return received


@pytest.fixture
def ports(tmp_path):
    ports = Ports(tmp_path)
    yield ports
    ports.close()


def test_the_ports_answer_and_notes_that_begin_also_end(workdir, ports):
    variables = {"MIDO_BACKEND": "tests.play.port_backend", port_backend.SOCKET: ports.path}
    arguments = (f"--workdir={workdir}", "--midi_in=desk", "--midi_out=piano 2", "--pause=0.4", "--density=15")
    with started(*arguments, **variables) as (process, line):
        assert "hears Desk, plays on Test Piano 2" in line
        ports.accept()
        for pitch in (60, 64, 67):
            ports.send(mido.Message("note_on", note=pitch, velocity=70))
            time.sleep(0.05)
            released = time.monotonic()
            ports.send(mido.Message("note_on", note=pitch, velocity=0), mido.Message("pitchwheel", pitch=3))
        received = ports.receive(6)
        starts = [(at, message) for at, message in received if message.type == "note_on"]
        assert starts[0][0] - released >= 0.35
        assert starts[0][0] - released < 1.5
        assert len(starts) > 1
        ports.send(mido.Message("note_on", note=50, velocity=70))
        received += ports.receive(1)
        assert still_sounding(received) == set()
        ports.send(mido.Message("note_off", note=50))
        assert any(message.type == "note_on" for _, message in ports.receive(3))
        status, error = end(process, signal.SIGINT)
        assert (status, error.splitlines()[-1]) == (130, "play: interrupted")
        assert all(message.type == "note_off" for _, message in ports.receive(0.5))


def test_when_the_terminal_is_closed_all_notes_end(workdir, ports):
    variables = {"MIDO_BACKEND": "tests.play.port_backend", port_backend.SOCKET: ports.path}
    arguments = (f"--workdir={workdir}", "--midi_in=desk", "--midi_out=piano 2", "--pause=0.2", "--density=15")
    with started(*arguments, **variables) as (process, _):
        ports.accept()
        ports.send(mido.Message("note_on", note=60, velocity=70), mido.Message("note_off", note=60))
        received, until = ports.receive(0.3), time.monotonic() + SECONDS
        while not still_sounding(received):
            assert time.monotonic() < until, received
            received += ports.receive(0.05)
        process.send_signal(signal.SIGHUP)
        received += ports.receive(SECONDS)
        assert still_sounding(received) == set()
        _, error = process.communicate(timeout=SECONDS)
        assert process.returncode == 129
        assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--midi_in=desk"], "--midi_in=desk: --midi_out is missing"),
        (["--midi_in=piano", "--midi_out=desk"], "--midi_in=piano: got 2 ports of this name"),
        (["--midi_in=desk", "--midi_out=organ"], "--midi_out=organ: got 0 ports of this name"),
        (["--host=no.such.host.invalid"], "the host is unknown"),
        (["--host=192.168..1"], "the host is unknown"),
        (["--host=192.0.2.1"], "this machine does not have the address"),
        (["--composer=Eve"], "Eve"),
        (["--key=H"], "--key: got 'H'"),
        (["--temperature=9"], "temperature"),
    ],
)
def test_a_mistake_is_one_line_before_the_model_is_loaded(workdir, ports, arguments, words):
    variables = {"MIDO_BACKEND": "tests.play.port_backend", port_backend.SOCKET: ports.path}
    process = run_python("-m", "play", f"--workdir={workdir}", "--nobrowser", *arguments, **variables)
    assert process.returncode == 2
    assert words in process.stderr.splitlines()[-1]
    assert "compiling" not in process.stderr


def test_a_system_without_midi_is_one_line(workdir):
    process = run_python("-m", "play", f"--workdir={workdir}", "--midi_in=x", "--midi_out=x")
    assert process.returncode == 2
    assert "--midi_in=x" in process.stderr.splitlines()[-1]
    assert "ALSA lib" not in process.stderr.splitlines()[0]


def test_a_density_that_the_model_does_not_have_is_rejected(tmp_path):
    workdir = write_trained(tmp_path / "w", tiny_model("regression"))
    process = run_python("-m", "play", f"--workdir={workdir}", "--density=5", "--nobrowser")
    assert process.returncode == 2
    assert "--density=5: got a model with model=regression" in process.stderr.splitlines()[-1]
    assert "compiling" not in process.stderr


def test_a_model_that_cannot_start_is_rejected(tmp_path):
    workdir = write_trained(tmp_path / "w", tiny_model("regression", positions="last", seq_length=8))
    process = run_python("-m", "play", f"--workdir={workdir}")
    assert process.returncode == 2
    assert "positions=last" in process.stderr
    assert json.loads((workdir / "config.json").read_text())["positions"] == "last"
