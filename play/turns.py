"""The turns of a piece; the last one can be undone."""

import collections
from typing import Final

from play.piece import YOU

_MAX_TURNS: Final = 1_000  # that can be undone


class Turns:
    """The turns of a piece, each with the time at which it began and who played."""

    def __init__(self) -> None:
        self._turns: collections.deque[tuple[int, int]] = collections.deque(maxlen=_MAX_TURNS)

    def begin(self, at_us: int, player: int) -> None:
        """Begins a turn; each key that you play after another of yours is in the same turn."""
        if player != YOU or not self._turns or self._turns[-1][1] != YOU:
            self._turns.append((at_us, player))

    def undo(self) -> int | None:
        """Removes the last turn; returns when it began, or None if there is none."""
        return self._turns.pop()[0] if self._turns else None
