"""Sessions of players who have lost their connection, until they come back."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

from play.session import Session

KEPT_SECONDS: Final = 600.0  # without a connection

_Close = Callable[[], Awaitable[object]]


class LostSession(NamedTuple):
    """A session, and the player's time at which the connection was lost."""

    session: Session
    at_us: int


class KeptSessions:
    """Sessions by the ids that their pages have chosen.

    Args:
        limit: the most that are kept without a connection.
        clock: seconds, ascending.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._kept: dict[str, tuple[float, LostSession]] = {}  # the oldest first
        self._open: dict[str, tuple[_Close, asyncio.Event]] = {}

    @contextlib.asynccontextmanager
    async def connected(self, session_id: str, close: _Close) -> AsyncIterator[None]:
        """Marks a session as one with a connection, after another connection of it is closed.

        Args:
            session_id: of the session; "" for one that cannot be continued.
            close: closes this connection.
        """
        # A page may be back before the server has noticed its loss.
        while session_id in self._open:
            close_other, is_closed = self._open[session_id]
            await close_other()
            await is_closed.wait()
        is_closed = asyncio.Event()
        if session_id:
            self._open[session_id] = close, is_closed
        try:
            yield
        finally:
            if session_id:
                del self._open[session_id]
            is_closed.set()

    def keep(self, session_id: str, session: LostSession) -> None:
        """Keeps a session, if it can be continued."""
        self._forget_old()
        if session_id:
            self._kept[session_id] = self._clock(), session
        while len(self._kept) > self._limit:
            del self._kept[next(iter(self._kept))]

    def take(self, session_id: str) -> LostSession | None:
        """Returns the session that was kept, or None."""
        self._forget_old()
        _, session = self._kept.pop(session_id, (0.0, None))
        return session

    def _forget_old(self) -> None:
        oldest = self._clock() - KEPT_SECONDS
        self._kept = {session_id: kept for session_id, kept in self._kept.items() if kept[0] >= oldest}
