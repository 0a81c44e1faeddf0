"""A server of the play page in this process, and players without a browser."""

import asyncio
import concurrent.futures
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType
from aiohttp.test_utils import TestClient, TestServer

from play.connection import Instrument
from play.server import Server
from play.settings import Settings
from tests.play.fake_sampler import FakeSampler

SECONDS = 30  # for an answer, which takes milliseconds on an idle machine


@contextlib.asynccontextmanager
async def serving(sampler=None, *, max_players=4, token=None) -> AsyncIterator[TestClient]:
    """Yields a client of a server."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        sampler = sampler or FakeSampler(50_000)
        instrument = Instrument(sampler, Settings(), executor=executor, description="a model")
        app = Server(instrument, max_players=max_players, token=token).make_app()
        async with TestClient(TestServer(app, access_log=None)) as client:
            yield client


class Player:
    """A player's page: it sends its clock, and keeps what it is sent.

    Attributes:
        messages: what the server sent.
        leads: milliseconds from the arrival of each message of notes to the first of them.
    """

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket, self._began = socket, time.monotonic()
        self.messages: list[dict[str, Any] | bytes] = []
        self.leads: list[float] = []
        self.closed: tuple[int | None, str] | None = None
        self._changed = asyncio.Event()

    def now(self) -> float:
        return (time.monotonic() - self._began) * 1000

    async def send(self, kind: str, **fields) -> None:
        await self.socket.send_str(json.dumps({"type": kind, "at": self.now(), "epoch": 0, **fields}))

    async def play(self, *pitches: int) -> None:
        for pitch in pitches:
            await self.send("key", pitch=pitch, velocity=80)
            await asyncio.sleep(0.02)
            await self.send("key", pitch=pitch, velocity=0)

    async def read(self) -> None:
        """Keeps messages until the server closes the connection."""
        while True:
            received = await self.socket.receive()
            if received.type == WSMsgType.TEXT:
                message = json.loads(received.data)
                if message["type"] == "notes":
                    self.leads.append(message["notes"][0][0] - self.now())
                self.messages.append(message)
            elif received.type == WSMsgType.BINARY:
                self.messages.append(received.data)
            else:
                self.closed = (self.socket.close_code, str(received.extra or ""))
                self._changed.set()
                return
            self._changed.set()

    async def send_clock(self) -> None:
        while True:
            await self.send("clock")
            await asyncio.sleep(0.2)

    async def wait_for(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Returns the message of a type that comes as number `count`."""
        async with asyncio.timeout(SECONDS):
            while len(found := self.of(kind)) < count:
                self._changed.clear()
                await self._changed.wait()
                assert self.closed is None or len(self.of(kind)) >= count, self.closed
        return found[count - 1]

    async def wait_for_file(self) -> bytes:
        """Returns the file that the server sends."""
        async with asyncio.timeout(SECONDS):
            while not (files := [message for message in self.messages if isinstance(message, bytes)]):
                self._changed.clear()
                await self._changed.wait()
        return files[0]

    async def wait_for_close(self) -> tuple[int | None, str]:
        """Returns code and reason with which the server closes the connection."""
        async with asyncio.timeout(SECONDS):
            while self.closed is None:
                self._changed.clear()
                await self._changed.wait()
        return self.closed

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if isinstance(message, dict) and message["type"] == kind]


@contextlib.asynccontextmanager
async def playing(
    client: TestClient, *, clock: bool = True, settings=None, headers=None, session=""
) -> AsyncIterator[Player]:
    """Yields a player who is ready."""
    async with client.ws_connect("/play", headers=headers or {}) as socket:
        player = Player(socket)
        tasks = [asyncio.create_task(player.read())]
        await player.send("start", settings=settings or {}, session=session)
        await player.wait_for("ready")
        if clock:
            tasks.append(asyncio.create_task(player.send_clock()))
        try:
            yield player
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
