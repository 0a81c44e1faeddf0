"""Train_steps at which a run evaluates, reports and saves; the learning rate's schedule is in optimizer.py."""

import enum

from trainer.config import Config
from trainer.engine.run_length import Plan, next_multiple


class Event(enum.Flag):
    """Periodic actions that are due at a train_step."""

    NONE = 0
    EVALUATE = enum.auto()
    PLAY = enum.auto()  # the first score in each `evaluate_every` train_steps
    REPORT = enum.auto()
    CHECKPOINT = enum.auto()


class Schedule:
    """Periodic actions of a run, whose plan may change and whose caller may stop it at the train_step `stop_at`."""

    def __init__(self, config: Config, windows_per_epoch: int, stop_at: int | None) -> None:
        self._config, self._windows_per_epoch, self._stop_at = config, windows_per_epoch, stop_at
        self.plan = Plan()

    @property
    def evaluate_every(self) -> int:
        """Train_steps between two scores; 0 disables them."""
        configured = self._config.evaluate_every
        return min(self.plan.evaluate_every or configured, configured)

    def epoch_end(self, epoch: int) -> int:
        """Returns the train_step that completes an epoch; a batch may belong to two."""
        return -(-epoch * self._windows_per_epoch // self._config.windows_per_train_step)

    def next_boundary(self, train_step: int) -> int:
        """Returns the next train_step at which anything is due, the plan changes or the run ends."""
        periods = [self._config.log_every, self._config.checkpoint_every]
        if self._config.evaluate_every:
            periods.append(self.evaluate_every)
        ends = [end for end in (*self.plan.boundaries(), self._stop_at) if end is not None and end > train_step]
        return min([self._next(train_step, every) for every in periods] + ends)

    def events(self, train_step: int) -> Event:
        """Returns the actions that are due at a train_step."""
        config, events = self._config, Event.NONE
        is_end = train_step in (self.plan.steps, self._stop_at)
        if config.evaluate_every and (is_end or self._is_due(train_step, self.evaluate_every)):
            events |= Event.EVALUATE
            if is_end or train_step % config.evaluate_every < self.evaluate_every:
                events |= Event.PLAY
        if events or is_end or self._is_due(train_step, config.log_every):
            events |= Event.REPORT
        if self._is_due(train_step, config.checkpoint_every):
            events |= Event.CHECKPOINT
        return events

    def _next(self, train_step: int, every: int) -> int:
        """Returns the next multiple of `every`, or the next end of an epoch if that is 0."""
        if every:
            return next_multiple(train_step, every)
        return self.epoch_end(train_step * self._config.windows_per_train_step // self._windows_per_epoch + 1)

    def _is_due(self, train_step: int, every: int) -> bool:
        return self._next(train_step - 1, every) == train_step
