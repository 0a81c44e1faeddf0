"""Measured times of a run, and the policy that fits a run into `max_minutes`."""

import collections
import dataclasses
import math
from collections.abc import Callable

from trainer.config import Config
from trainer.engine.run_length import OPEN, Costs, Plan

_CALL_SECONDS = 0.5  # target duration of a call into TensorFlow, so that a signal is answered soon
_RECENT_SECONDS = 10.0  # of training, over which the recent speed is averaged
_MEASURE_SECONDS = 4.0  # of training, before the run's length is fixed
_MEASURE_SHARE = 0.1  # of the time left; the measurement of a short run takes no longer
_PLANNED_SHARE = 0.97  # of the time left that a plan fills
_SHORTEN_AFTER = 0.8  # of the time; after this share a run that does not fit is shortened
# Number of scores of a run that lasts `max_minutes`, and the largest share of the time that they take.
_SCORES, _SCORING_SHARE = 16, 0.1


class RunTimer:
    """Times of a run.

    Args:
        clock: returns the time in seconds, from any origin.
        started: the clock's time when the command began.
        config: the run.
        play_seconds: estimated seconds of the callbacks' work at `Event.PLAY`, 0 if there is none.
        score_steps: train_steps that take about as long as one score, until a score was measured.

    Attributes:
        compiled: whether a first call, which compiles and is not measured, is done.
        measured_seconds: duration of all later calls.
        call_steps: train_steps that the next call may do.
    """

    def __init__(
        self, clock: Callable[[], float], started: float, config: Config, *, play_seconds: float, score_steps: float
    ) -> None:
        self.clock, self._config = clock, config
        self.compiled, self.measured_seconds, self.call_steps = False, 0.0, 1
        self._measured_steps = 0
        self._recent: collections.deque[tuple[int, float]] = collections.deque()
        self._recent_seconds = 0.0
        self._earlier_seconds = 0.0
        self._started: float | None = started
        self._play_seconds, self._score_steps = play_seconds, score_steps
        self._has_scored = False
        self._scoring_seconds: float | None = None

    def resume(self, seconds: float) -> None:
        """Adds the seconds of earlier processes; start-up and compilation of this one do not count."""
        self._earlier_seconds, self._started = seconds, None

    @property
    def used_seconds(self) -> float:
        """Seconds of training, over all processes of the run."""
        return self._earlier_seconds + (0.0 if self._started is None else self.clock() - self._started)

    def count_call(self, train_steps: int, begin: float) -> float:
        """Counts a call of train_steps that began at a time of the clock; returns its seconds."""
        now = self.clock()
        seconds = now - begin
        if self._started is None:
            self._started = now
        if self.compiled:
            self.call_steps = max(int(_CALL_SECONDS * train_steps / max(seconds, 1e-9)), 1)
            self.measured_seconds += seconds
            self._measured_steps += train_steps
            self._recent.append((train_steps, seconds))
            self._recent_seconds += seconds
            while self._recent_seconds - self._recent[0][1] >= _RECENT_SECONDS:
                self._recent_seconds -= self._recent.popleft()[1]
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
        """Counts a score; the first one compiles and is not measured."""
        if self._has_scored:
            self._scoring_seconds = min(self.clock() - begin, self._scoring_seconds or math.inf)
        self._has_scored = True

    def count_play(self, begin: float) -> None:
        """Counts the callbacks' work at `Event.PLAY`."""
        self._play_seconds = min(self.clock() - begin, self._play_seconds)

    @property
    def scoring_seconds(self) -> float:
        """Seconds of a score, measured or estimated from the speed of training."""
        if self._scoring_seconds is not None:
            return self._scoring_seconds
        return self._score_steps * (self.seconds_per_step or 0.0)

    def costs(self, evaluate_every: int) -> Costs:
        """Returns the costs of a run; `evaluate_every` 0 stands for no scores."""
        every, scoring = evaluate_every or OPEN, self.scoring_seconds
        if self._config.evaluate_every:
            scoring += self._play_seconds * every / self._config.evaluate_every
        # Before the first measured call, only one train_step at a time is known to fit.
        return Costs(self.recent_seconds_per_step or math.inf, scoring, every)

    def seconds_left(self, plan: Plan, train_step: int, evaluate_every: int) -> float | None:
        """Returns the seconds until the end of the run, scores included, or None if unknown."""
        if plan.steps is None or self.seconds_per_step is None:
            return None
        return self.costs(evaluate_every).seconds_left(plan.steps, train_step)


def fit_to_time_limit(plan: Plan, train_step: int, timer: RunTimer, config: Config) -> Plan | None:
    """Returns a plan that fits into `max_minutes`, or None if the plan needs no change.

    The length is fixed once the speed is measured, and shortened if the run becomes slower.

    Args:
        plan: the current plan.
        train_step: train_steps done.
        timer: the run's times.
        config: the run, of which `max_minutes` is set.
    """
    limit = config.max_minutes * 60
    left = limit - timer.used_seconds
    if timer.recent_seconds_per_step is None and left > 0:
        return None
    needed = min(_MEASURE_SECONDS, _MEASURE_SHARE * (left + timer.measured_seconds))
    is_measured = timer.measured_seconds >= max(needed, 1e-9)
    configured = config.evaluate_every
    costs = timer.costs(min(plan.evaluate_every or configured, configured))
    fitting = costs.steps_that_fit(left, train_step)
    is_last_call = fitting <= timer.call_steps
    if plan.steps is None:
        return _fix_length(plan, train_step, timer, config, left) if is_measured or is_last_call else None
    if train_step + fitting >= plan.steps:
        return None
    if is_measured and plan.shortened_from is None and timer.used_seconds >= _SHORTEN_AFTER * limit:
        steps = train_step + max(costs.steps_that_fit(left * _PLANNED_SHARE, train_step), 1)
        return plan.shortened(steps, train_step)
    return dataclasses.replace(plan, steps=train_step + max(fitting, 1)) if is_last_call else None


def _fix_length(plan: Plan, train_step: int, timer: RunTimer, config: Config, left: float) -> Plan:
    """Returns the plan with length and evaluation interval for the measured speed and the seconds left."""
    every = min(plan.evaluate_every or config.evaluate_every, config.evaluate_every)

    def planned_steps() -> int:
        return train_step + max(timer.costs(every).steps_that_fit(left * _PLANNED_SHARE, train_step), 1)

    steps = planned_steps()
    if config.evaluate_every and not config.patience and timer.seconds_per_step is not None:
        costs = Costs(timer.seconds_per_step, timer.scoring_seconds, config.evaluate_every)
        every = costs.affordable_interval(steps, scores=_SCORES, share=_SCORING_SHARE)
        plan = dataclasses.replace(plan, evaluate_every=every)
        steps = planned_steps()
    return plan.with_steps(steps, train_step, warmup_steps=config.warmup_steps, lr_decay_from=train_step)
