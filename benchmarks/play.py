"""Latency of `sostenuto play`: from the pause to the answer's first note, and how early its notes are sent.

Starts the command on a trained model, and plays through its WebSocket as pages do. A player calls and is answered again
and again; then several players listen at once to dense music. A note that arrives after its moment is an underrun.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import numpy as np

_PAUSE = 0.5
_CLOCK_SECONDS = 0.2


class Player:
    """A player who keeps the leads: milliseconds from the arrival of notes to the first of them."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._began = socket, time.perf_counter()
        self.answers: list[float] = []  # milliseconds from the end of a pause to the first note of the answer
        self.leads: list[float] = []
        self.onsets: list[float] = []
        self._released = 0.0
        self._answered = asyncio.Event()

    def now(self) -> float:
        """Returns the player's time in milliseconds."""
        return (time.perf_counter() - self._began) * 1000

    async def send(self, kind: str, **fields: Any) -> None:
        """Sends a message."""
        await self._socket.send_str(json.dumps({"type": kind, "at": self.now(), "epoch": 0, **fields}))

    async def send_clock(self) -> None:
        """Sends the time again and again."""
        while True:
            await self.send("clock")
            await asyncio.sleep(_CLOCK_SECONDS)

    async def read(self) -> None:
        """Reads what the server sends."""
        async for received in self._socket:
            message, now = json.loads(received.data), self.now()
            if message["type"] == "notes":
                onset = message["notes"][0][0]
                self.onsets += [note[0] for note in message["notes"]]
                self.leads.append(onset - now)
                if not self._answered.is_set():
                    # A note that arrives late is heard as it arrives.
                    self.answers.append(max(onset, now) - self._released - _PAUSE * 1000)
                    self._answered.set()

    async def call(self, pitches: list[int]) -> None:
        """Plays a phrase and waits for the answer."""
        for pitch in pitches:
            await self.send("key", pitch=pitch, velocity=80)
            await asyncio.sleep(0.08)
            await self.send("key", pitch=pitch, velocity=0)
        self._released = self.now()
        self._answered.clear()
        await asyncio.wait_for(self._answered.wait(), 30)


@contextlib.asynccontextmanager
async def _player(session: aiohttp.ClientSession, url: str, settings: dict[str, Any]) -> Any:
    async with session.ws_connect(url + "play") as socket:
        player = Player(socket)
        await player.send("start", settings=settings)
        ready = json.loads((await socket.receive()).data)
        assert ready["type"] == "ready", ready
        tasks = [asyncio.create_task(player.read()), asyncio.create_task(player.send_clock())]
        player._answered.set()
        try:
            yield player
        finally:
            for task in tasks:
                task.cancel()


async def _measure_answers(url: str, calls: int) -> list[float]:
    random = np.random.default_rng(0)
    async with (
        aiohttp.ClientSession() as session,
        _player(session, url, {"pause": _PAUSE}) as player,
    ):
        for _ in range(calls):
            await player.call(random.integers(48, 84, 8).tolist())
            await asyncio.sleep(1.5)
        return player.answers


async def _measure_listening(url: str, players: int, seconds: float, density: float) -> list[Player]:
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
        listening = []
        for seed in range(players):
            settings = {"density": density, "mode": "listen", "seed": seed}
            listening.append(await stack.enter_async_context(_player(session, url, settings)))
        for player in listening:
            await player.send("continue")
        await asyncio.sleep(seconds)
        return listening


@contextlib.contextmanager
def _server(workdir: str) -> Iterator[str]:
    command = [sys.executable, "-m", "play", f"--workdir={workdir}", "--port=0", "--nobrowser", "--players=16"]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        if len(words) < 3:
            raise SystemExit(2)  # The command has said why.
        print(f"ready after {time.perf_counter() - begun:.1f} s, the model compiled", flush=True)
        try:
            yield words[2]
        finally:
            process.terminate()


def _describe(name: str, milliseconds: list[float]) -> str:
    quantiles = np.percentile(milliseconds, [0, 5, 50, 95, 100])
    values = "  ".join(
        f"{label} {value:7.1f}"
        for label, value in zip(("least", "5 %", "median", "95 %", "most"), quantiles, strict=True)
    )
    return f"{name}: {values} ms ({len(milliseconds):,})"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="of a trained model, or its export")
    parser.add_argument("--calls", type=int, default=40, help="phrases of eight notes that are answered")
    parser.add_argument("--players", type=int, default=4, help="players at once")
    parser.add_argument("--seconds", type=float, default=300, help="seconds that they listen")
    parser.add_argument("--density", type=float, default=20, help="notes a second that they ask for")
    options = parser.parse_args()
    with _server(options.workdir) as url:
        answers = asyncio.run(_measure_answers(url, options.calls))
        print(_describe("first note after the pause", answers), flush=True)
        listening = asyncio.run(_measure_listening(url, options.players, options.seconds, options.density))
        leads = [lead for player in listening for lead in player.leads]
        notes = sum(len(player.onsets) for player in listening)
        played = sum((player.onsets[-1] - player.onsets[0]) / 1000 for player in listening)
        print(_describe(f"notes ahead, {options.players} players", leads))
        print(f"{notes:,} notes, {notes / played:.1f} a second for each player; {sum(np.array(leads) < 0):,} underruns")


if __name__ == "__main__":
    main()
