"""Server of the page's tests: the protocol with made-up music."""

import asyncio
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import soundfile
from aiohttp import WSMsgType, web

from play.server import add_page

POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PITCHES, VELOCITIES = list(range(24, 109, 12)), [60, 110]
MIDI_FILE = b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk\0\0\0\4\0\xff\x2f\0"
SETTINGS = {
    "mode": "answer", "pause": 0.5, "hand_over": "pause", "temperature": 1.0, "top_p": 1.0, "density": 0,
    "key": "", "composer": "", "seed": 0,
}  # fmt: skip
_TIMEOUT = 60  # seconds


def flac(pitch: int) -> bytes:
    """Returns a decaying tone of two seconds."""
    rate = 22050
    times = np.arange(2 * rate) / rate
    wave = np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * times) * np.exp(-2 * times) * 0.4
    buffer = io.BytesIO()
    soundfile.write(buffer, wave.astype(np.float32), rate, format="FLAC")
    return buffer.getvalue()


class Stub:
    """A running server.

    Attributes:
        messages: those of the page, in order; bytes are a file.
        refusal: a code and a reason with which every connection is closed at its start.
        complaint: an error that is sent before `ready`.
        accepts: False lets connections wait at their start.
        settings: those of the server's command.
        resumes: whether it still has the piece of a former connection.
        answer: notes of an answer, as [offset in ms, pitch, duration, velocity].
        sample_delay: seconds that each sample takes.
    """

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.refusal: tuple[int, str] | None = None
        self.complaint = ""
        self.accepts = True
        self.settings: dict[str, Any] = dict(SETTINGS)
        self.resumes = False
        self.answer = [[120.0 * index, 60 + index % 12, 110.0, 50 + 5 * index] for index in range(10)]
        self.composers = ["Bach", "Chopin"]
        self.has_density = True
        self.music: list[list[float]] = []
        self.sample_delay = 0.0
        self.url = ""
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._socket: web.WebSocketResponse | None = None
        self._answering: asyncio.Task[None] | None = None
        self._settings = self.settings
        self._epoch = 0
        self._began = 0.0  # the page's clock at this process's clock 0, in ms

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Returns the page's messages of a type."""
        return [message for message in self.messages if isinstance(message, dict) and message["type"] == kind]

    def wait(self, done: Callable[[], Any], what: str = "the page's message") -> Any:
        """Waits until a function returns something true, and returns it."""
        until = time.monotonic() + _TIMEOUT
        while not (result := done()):
            assert time.monotonic() < until, f"{what} did not come: {self.messages[-8:]}"
            time.sleep(0.02)
        return result

    def send(self, **message: Any) -> None:
        """Sends a message to the page."""
        self._run(self._send(**message))

    def close(self, code: int, reason: str) -> None:
        """Closes the connection."""
        assert self._socket is not None
        self._run(self._socket.close(code=code, message=reason.encode()))

    def now(self) -> float:
        """Returns the time on the page's clock in ms, some ms late."""
        return time.monotonic() * 1000 - self._began

    def play(self, offsets: list[list[float]], ahead: float = 80, who: int = 1) -> None:
        """Sends notes whose times are offsets from now in ms."""
        start = self.now() + ahead
        self.send(type="notes", epoch=self._epoch, notes=[[start + note[0], *note[1:], who] for note in offsets])

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_TIMEOUT)

    async def _send(self, **message: Any) -> None:
        if self._socket is not None and not self._socket.closed:
            await self._socket.send_str(json.dumps(message))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"velocities": VELOCITIES, "pitches": PITCHES})

    async def _sample(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(self.sample_delay)
        return web.Response(body=flac(int(request.match_info["pitch"])), content_type="audio/flac")

    async def _play(self, request: web.Request) -> web.StreamResponse:
        while not self.accepts:
            await asyncio.sleep(0.02)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        if self.refusal:
            await socket.close(code=self.refusal[0], message=self.refusal[1].encode())
            return socket
        self._socket, self._epoch = socket, 0
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                content = json.loads(message.data)
                self.messages.append(content)
                self._began = time.monotonic() * 1000 - content["at"] if content["type"] == "clock" else self._began
                self._epoch = max(self._epoch, content["epoch"])
                await self._handle(content)
            elif message.type == WSMsgType.BINARY:
                self.messages.append(message.data)
                await self._send(type="turn", whose="model")
                await self._send_notes(self.answer, self.now() + 200, who=2)
        return socket

    async def _handle(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "start":
            self._settings = self.settings | message["settings"]
            self._began = time.monotonic() * 1000 - message["at"]
            if self.complaint:
                await self._send(type="error", message=self.complaint)
            await self._send(
                type="ready", settings=self._settings, composers=self.composers, lowest=21, highest=108, model="A stub",
                has_density=self.has_density, resumed=self.resumes,
            )  # fmt: skip
        elif kind == "set":
            self._settings |= message["settings"]
        elif kind == "key":
            if self._answering:
                self._answering.cancel()
            if message["velocity"] == 0 and self._settings["mode"] == "answer":
                self._answering = asyncio.create_task(self._reply(message["at"]))
        elif kind == "continue":
            await self._model(None, self.now())
        elif kind == "undo":
            await self._send(type="turn", whose="yours")
            await self._send(type="music", notes=self.music)
        elif kind == "clear":
            await self._send(type="music", notes=[])
        elif kind == "branches":
            ways = [[[note[0], note[1] + 5 * way, *note[2:]] for note in self.answer] for way in range(3)]
            await self._send(type="branches", branches=ways)
        elif kind == "choose" and message["branch"] >= 0:
            await self._model(None, self.now())
        elif kind == "save":
            assert self._socket is not None
            await self._socket.send_bytes(MIDI_FILE)

    async def _reply(self, released: float) -> None:
        await asyncio.sleep(self._settings["pause"])
        await self._model(released, self.now())

    async def _model(self, released: float | None, now: float) -> None:
        begin = now + 60
        latency = {} if released is None else {"latency": begin - released}
        await self._send(type="turn", whose="model", **latency)
        await self._send_notes(self.answer, begin, who=1)

    async def _send_notes(self, notes: list[list[float]], begin: float, who: int) -> None:
        await self._send(type="notes", epoch=self._epoch, notes=[[begin + note[0], *note[1:], who] for note in notes])

    async def _begin(self) -> web.AppRunner:
        @web.middleware
        async def policy(request: web.Request, handler: Any) -> web.StreamResponse:
            response = await handler(request)
            if not isinstance(response, web.WebSocketResponse):
                response.headers["Content-Security-Policy"] = POLICY
                response.headers["Cache-Control"] = "no-store"
            return response

        app = web.Application(middlewares=[policy])
        app.router.add_get("/piano.json", self._list)
        app.router.add_get("/piano/{pitch}-{velocity}.flac", self._sample)
        app.router.add_get("/play", self._play)
        add_page(app.router)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        return runner

    async def _end(self, runner: web.AppRunner) -> None:
        if self._answering:
            self._answering.cancel()
        if self._socket is not None:
            await self._socket.close()
        await runner.cleanup()


@contextlib.contextmanager
def stub_server() -> Iterator[Stub]:
    """Runs the server in a thread, on a free port of this machine."""
    stub = Stub()
    thread = threading.Thread(target=stub._loop.run_forever)
    thread.start()
    runner = stub._run(stub._begin())
    try:
        yield stub
    finally:
        stub._run(stub._end(runner))
        stub._loop.call_soon_threadsafe(stub._loop.stop)
        thread.join()
        stub._loop.close()
