"""Measured times of a run."""

import collections
import math
from collections.abc import Callable

from trainer.config import Config
from trainer.engine.run_length import OPEN, Costs

_CALL_SECONDS = 0.5  # target duration of a call into TensorFlow, so that a signal is answered soon
_RECENT_SECONDS = 10.0  # of training, over which the recent speed is averaged


class RunTimer:
    """Times of a run whose command began at `started` of a clock in seconds.

    The work of the callbacks at `Event.PLAY` is estimated to take `play_seconds`, and a score as long as `score_steps`
    train_steps, until both are measured.
    """

    def __init__(
        self, clock: Callable[[], float], started: float, config: Config, *, play_seconds: float, score_steps: float
    ) -> None:
        self.clock, self._config = clock, config
        self.compiled = False  # The first call compiles and is not measured.
        self.call_steps = 1  # train_steps that the next call may do
        self.measured_seconds, self._measured_steps = 0.0, 0  # of all later calls
        self._compiling_seconds = 0.0  # of the first call, unless the run was resumed
        self._recent: collections.deque[tuple[int, float]] = collections.deque()
        self._started: float | None = started
        self._earlier_seconds = 0.0
        self._play_seconds, self._score_steps = [play_seconds], score_steps
        self._scoring_seconds: list[float] = []

    def resume(self, seconds: float) -> None:
        """Adds the seconds of earlier processes; start-up and compilation of this one do not count."""
        self._earlier_seconds, self._started = seconds, None

    @property
    def used_seconds(self) -> float:
        """Seconds of training, over all processes of the run."""
        return self._earlier_seconds + (0.0 if self._started is None else self.clock() - self._started)

    def shares(self) -> dict[str, int]:
        """Returns the whole seconds of each activity of this process; all add up to the seconds of training.

        The compilation of the train_steps counts as theirs, as on report.html.
        """
        shares = {
            "train_steps": round(self._compiling_seconds + self.measured_seconds),
            "scoring": int(sum(self._scoring_seconds)),
            "samples for TensorBoard": int(sum(self._play_seconds[1:])),
        }
        rest = "earlier processes" if self._earlier_seconds else "start-up and all else"
        return {**shares, rest: max(round(self.used_seconds) - sum(shares.values()), 0)}

    def count_call(self, train_steps: int, begin: float) -> float:
        """Counts a call of train_steps that began at a time of the clock; returns its seconds."""
        now = self.clock()
        seconds = now - begin
        if self._started is None:
            self._started = now
        elif not self.compiled:
            self._compiling_seconds = seconds
        if self.compiled:
            self.call_steps = max(int(_CALL_SECONDS * train_steps / max(seconds, 1e-9)), 1)
            self.measured_seconds += seconds
            self._measured_steps += train_steps
            self._recent.append((train_steps, seconds))
            while sum(seconds for _, seconds in self._recent) - self._recent[0][1] >= _RECENT_SECONDS:
                self._recent.popleft()
        self.compiled = True
        return seconds

    @property
    def seconds_per_step(self) -> float | None:
        """Seconds of a train_step, or None before the first measured call."""
        return self.measured_seconds / self._measured_steps if self._measured_steps else None

    @property
    def recent_seconds_per_step(self) -> float | None:
        """Seconds of a train_step in the last ten seconds of training, or None before the first measured call."""
        if not self._recent:
            return None
        return sum(seconds for _, seconds in self._recent) / sum(train_steps for train_steps, _ in self._recent)

    def count_score(self, begin: float) -> None:
        """Counts a score that began at a time of the clock."""
        self._scoring_seconds.append(self.clock() - begin)

    def count_play(self, begin: float) -> None:
        """Counts the callbacks' work at `Event.PLAY`."""
        self._play_seconds.append(self.clock() - begin)

    @property
    def scoring_seconds(self) -> float:
        """Seconds of a score, measured after the first, which compiles, or estimated from the speed of training."""
        measured = self._scoring_seconds[1:]
        return min(measured) if measured else self._score_steps * (self.seconds_per_step or 0.0)

    def costs(self, evaluate_every: int) -> Costs:
        """Returns the costs of a run; `evaluate_every` 0 stands for no scores."""
        every, scoring = evaluate_every or OPEN, self.scoring_seconds
        if self._config.evaluate_every:
            scoring += min(self._play_seconds) * every / self._config.evaluate_every
        # Before the first measured call, only one train_step at a time is known to fit.
        return Costs(self.recent_seconds_per_step or math.inf, scoring, every)

    def seconds_left(self, steps: int | None, train_step: int, evaluate_every: int) -> float | None:
        """Returns the seconds until the end of a run of `steps`, scores included, or None if unknown."""
        if steps is None or self.seconds_per_step is None:
            return None
        return self.costs(evaluate_every).seconds_left(steps, train_step)
