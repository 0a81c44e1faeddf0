"""The connection of one player: messages in, music out, and the clock between them."""

import asyncio
import concurrent.futures
import time
from collections.abc import Callable
from typing import Final, TypeVar

from aiohttp import WSCloseCode, WSMsgType, web

from play import protocol
from play.kept_sessions import KeptSessions, LostSession
from play.session import Output, Session
from play.settings import Settings
from sostenuto.errors import UserError
from sostenuto.music.midi import Sustain, read_midi
from trainer.generation.live import LiveSampler

Result = TypeVar("Result")

_SEND_SECONDS: Final = 10.0  # A player who does not read for so long is disconnected.
_START_SECONDS: Final = 10.0  # until the first message
FROZEN_SECONDS: Final = 5.0  # Without a message for so long, the player's clock stands still: a page that sleeps.

# A player sends a few dozen messages a second at most.
_MESSAGES_PER_SECOND: Final = 400
_BURST: Final = 1_000


class Instrument:
    """The model that all players share, and the thread that calls it.

    Args:
        executor: has one thread.

    Attributes:
        sampler: of the model.
        settings: of a player who chooses none.
        sustain: as for `Session`.
        description: of the model, for the player.
    """

    def __init__(
        self,
        sampler: LiveSampler,
        settings: Settings,
        *,
        executor: concurrent.futures.Executor,
        sustain: Sustain = "ignore",
        description: str = "",
    ) -> None:
        self.sampler, self.settings, self.sustain, self.description = sampler, settings, sustain, description
        self._executor = executor

    async def call(self, function: Callable[[], Result]) -> Result:
        """Runs a function in the model's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)


class Connection:
    """A player's connection.

    Args:
        socket: the WebSocket.
        instrument: what the player plays with.
        kept: sessions to continue.
    """

    def __init__(self, socket: web.WebSocketResponse, instrument: Instrument, kept: KeptSessions) -> None:
        self._socket, self._instrument, self._kept = socket, instrument, kept
        self._limit = RateLimit(_MESSAGES_PER_SECOND, _BURST)
        # The player's time, and when it was so.
        self._player_us, self._since = 0, time.monotonic()

    async def run(self) -> None:
        """Serves the player until the connection ends."""
        try:
            if message := await self._receive_start():
                session_id = message.session_id()
                async with self._kept.connected(session_id, self._close_for_another):
                    await self._play(message, self._kept.take(session_id))
        except protocol.ProtocolError as error:
            await self._socket.close(code=WSCloseCode.POLICY_VIOLATION, message=str(error).encode()[:120])
        except (TimeoutError, ConnectionError):
            await self._socket.close(code=WSCloseCode.GOING_AWAY)

    async def _receive_start(self) -> protocol.Message | None:
        """Returns the first message; None if the player leaves."""
        received = await self._socket.receive(timeout=_START_SECONDS)
        if received.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
            return None
        if received.type != WSMsgType.TEXT or (message := protocol.Message(received.data)).kind != "start":
            raise protocol.ProtocolError("expected a message of type start first")
        self._set_clock(message.at_us)
        return message

    async def _play(self, start: protocol.Message, lost: LostSession | None) -> None:
        """Serves a session, a lost one or a new one, and keeps it for the player's next connection."""
        instrument = self._instrument
        session = lost.session if lost else await self._begin(start)
        keeps = True
        try:
            resumed = await instrument.call(lambda: session.resume(lost.at_us)) if lost else []
            if lost:
                await self._answer(lambda: session.change(start.at_us, start.settings()))
            await self._send(
                protocol.ready(instrument.sampler, session.settings, instrument.description, is_resumed=bool(lost))
            )
            for output in resumed:
                await self._send(protocol.encode(output))
            while await self._serve(session):
                pass
        except Exception as error:
            # A bug, or what no page sends, may come again.
            keeps = isinstance(error, TimeoutError | ConnectionError)
            raise
        finally:
            if keeps:
                self._kept.keep(start.session_id(), LostSession(session, self._now_us()))

    async def _begin(self, start: protocol.Message) -> Session:
        """Returns a new session."""
        instrument, changes = self._instrument, start.settings()
        try:
            return await instrument.call(lambda: self._new_session(instrument.settings.change(changes)))
        except UserError as error:
            # A link may name a composer that another model knows.
            await self._send(protocol.error(f"{error}. The page starts with the usual settings"))
            return await instrument.call(lambda: self._new_session(instrument.settings))

    async def _close_for_another(self) -> None:
        await self._socket.close(code=WSCloseCode.GOING_AWAY, message=b"The page has another connection.")

    def _new_session(self, settings: Settings) -> Session:
        return Session(self._instrument.sampler, settings, self._instrument.sustain)

    async def _serve(self, session: Session) -> bool:
        """Handles the next message or moment; returns False if the player has left."""
        try:
            received = await self._socket.receive(timeout=self._wait_seconds(session))
        except TimeoutError:
            await self._tick(session)
            return True
        if received.type == WSMsgType.TEXT:
            await self._handle(session, protocol.Message(received.data))
        elif received.type == WSMsgType.BINARY:
            await self._load(session, received.data)
        else:
            return False
        self._limit.take()
        # Messages may come faster than the wait ends.
        await self._tick(session)
        return True

    async def _handle(self, session: Session, message: protocol.Message) -> None:
        if message.kind == "start":
            raise protocol.ProtocolError("start: expected once")
        if message.kind == "clock":
            self._set_clock(message.at_us)
        else:
            await self._answer(lambda: protocol.handle(session, message))

    async def _load(self, session: Session, data: bytes) -> None:
        try:
            # Not in the model's thread: a file may take long to read.
            decoded = await asyncio.to_thread(read_midi, data, "the file", sustain=self._instrument.sustain)
        except UserError as error:
            await self._send(protocol.error(str(error)))
        else:
            await self._answer(lambda: session.load(self._now_us(), decoded.notes))

    async def _tick(self, session: Session) -> None:
        due_us = session.next_tick_us()
        if due_us is not None and due_us <= self._now_us():
            await self._answer(lambda: session.tick(self._now_us()))

    async def _answer(self, action: Callable[[], list[Output]]) -> None:
        """Runs an action of the session in the model's thread, and sends what it returns."""
        try:
            outputs = await self._instrument.call(action)
        except UserError as error:
            await self._send(protocol.error(str(error)))
            return
        for output in outputs:
            await self._send(protocol.encode(output))

    async def _send(self, message: str | bytes) -> None:
        async with asyncio.timeout(_SEND_SECONDS):
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)

    def _wait_seconds(self, session: Session) -> float | None:
        """Returns the seconds until the session's next tick; None if only a message can bring it on."""
        due_us = session.next_tick_us()
        if due_us is None or self._is_frozen():
            return None
        return max((due_us - self._now_us()) / 1e6, 0.001)

    def _set_clock(self, player_us: int) -> None:
        self._player_us, self._since = player_us, time.monotonic()

    def _now_us(self) -> int:
        """Returns the player's time."""
        return self._player_us + round(min(time.monotonic() - self._since, FROZEN_SECONDS) * 1e6)

    def _is_frozen(self) -> bool:
        return time.monotonic() - self._since >= FROZEN_SECONDS


class RateLimit:
    """A limit on messages per second, with bursts.

    Args:
        per_second: the rate.
        burst: the most at once.
        clock: seconds, ascending.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._left, self._since = float(burst), clock()

    def take(self) -> None:
        """Counts a message; raises ProtocolError if there are too many."""
        now = self._clock()
        self._left = min(self._left + (now - self._since) * self._per_second, self._burst)
        self._since = now
        if self._left < 1:
            raise protocol.ProtocolError(f"got more than {self._per_second:g} messages a second")
        self._left -= 1
