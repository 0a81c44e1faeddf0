"""Length of a run and the fall of its learning rate, as run.json records them."""

import dataclasses
from typing import Any

from trainer.workdir.formats import RunInfo

OPEN = 2**31  # a train_step that no run reaches

_FIELDS = ("steps", "horizon", "horizon_from", "shortened_from", "shortened_horizon", "evaluate_every")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Length of a run and the fall of its learning rate.

    The learning rate of a train_step follows from the plan alone, so that a run resumed from any checkpoint repeats it.

    Attributes:
        steps: train_steps in all, or None until the speed has been measured.
        horizon: the train_step at which the cosine ends as first planned, or None until it is planned.
        horizon_from: the train_step from which `horizon` holds; before it the learning rate does not fall.
        shortened_from: the train_step from which the rest of the cosine is compressed, or None.
        shortened_horizon: the train_step at which the compressed cosine ends, or None.
        evaluate_every: train_steps between two scores of the validation split where the run chose that itself, or None.
    """

    steps: int | None = None
    horizon: int | None = None
    horizon_from: int = 0
    shortened_from: int | None = None
    shortened_horizon: int | None = None
    evaluate_every: int | None = None

    @staticmethod
    def from_record(run: RunInfo) -> "Plan":
        """Returns the plan that run.json records; without one, a plan in which nothing is fixed."""
        values = {name: getattr(run, name) for name in _FIELDS}
        return Plan(**{name: value for name, value in values.items() if value is not None})

    def to_record(self) -> dict[str, Any]:
        """Returns the plan's entries of run.json."""
        return {name: getattr(self, name) for name in _FIELDS}

    @staticmethod
    def from_numbers(numbers: list[float]) -> "Plan":
        """Returns the plan of which `to_numbers` made these."""
        values = {name: int(number) for name, number in zip(_FIELDS, numbers, strict=True) if number >= 0}
        return Plan(**values)

    def to_numbers(self) -> list[float]:
        """Returns the plan as numbers that workers can add up, -1 for None."""
        return [-1.0 if value is None else float(value) for value in self.to_record().values()]

    def with_steps(self, steps: int, train_step: int, *, warmup_steps: int, horizon_from: int) -> "Plan":
        """Returns the plan with another length; once the learning rate has begun to fall, it falls as before.

        Args:
            steps: train_steps in all.
            train_step: train_steps done.
            warmup_steps: train_steps before the learning rate falls.
            horizon_from: the train_step from which a new horizon holds.
        """
        if self.horizon is not None and train_step > warmup_steps:
            return dataclasses.replace(self, steps=steps)
        return Plan(steps, horizon=steps, horizon_from=horizon_from, evaluate_every=self.evaluate_every)

    def shortened(self, steps: int, train_step: int) -> "Plan":
        """Returns the plan with a shorter length at whose end the cosine ends too, compressed from `train_step` on."""
        return dataclasses.replace(self, steps=steps, shortened_from=train_step, shortened_horizon=steps)

    def cosine(self, train_step: int, warmup_steps: int) -> tuple[float, float]:
        """Returns where the cosine that holds after `train_step` updates begins and ends.

        A compressed cosine continues from the learning rate that it begins with: its beginning lies where the first one
        would have to begin to get there.

        Args:
            train_step: train_steps done.
            warmup_steps: train_steps before the learning rate falls.
        """
        first = self._first_cosine(train_step, warmup_steps)
        if self.shortened_from is None or self.shortened_horizon is None or train_step < self.shortened_from:
            return first
        begin, end = self._first_cosine(self.shortened_from, warmup_steps)
        fallen = max(self.shortened_from - begin, 0) / max(end - begin, 1)
        if fallen >= 1:
            return first
        return (self.shortened_from - fallen * self.shortened_horizon) / (1 - fallen), float(self.shortened_horizon)

    def _first_cosine(self, train_step: int, warmup_steps: int) -> tuple[float, float]:
        is_open = self.horizon is None or train_step < self.horizon_from
        return float(warmup_steps), float(OPEN if is_open or self.horizon is None else self.horizon)

    def boundaries(self) -> list[int]:
        """Returns the train_steps at which the learning rate's fall changes, or the run ends."""
        ends = (self.steps, self.horizon_from, self.shortened_from)
        return [end for end in ends if end is not None]


def next_multiple(train_step: int, every: int) -> int:
    """Returns the next train_step after this one that is a multiple of `every`."""
    return (train_step // every + 1) * every


def steps_that_fit(
    seconds: float, train_step: int, *, seconds_per_step: float, scoring_seconds: float, evaluate_every: int
) -> int:
    """Returns how many train_steps fit into so many seconds, with the scores between them and at their end.

    Args:
        seconds: the time there is.
        train_step: train_steps done.
        seconds_per_step: the time that one takes.
        scoring_seconds: the time that one score takes.
        evaluate_every: train_steps between two scores, above 0.
    """
    seconds -= scoring_seconds
    to_next = next_multiple(train_step, evaluate_every) - train_step
    first_round = to_next * seconds_per_step + scoring_seconds
    if seconds < first_round:
        return min(max(int(seconds / seconds_per_step), 0), to_next)
    rounds, rest = divmod(seconds - first_round, evaluate_every * seconds_per_step + scoring_seconds)
    return to_next + int(rounds) * evaluate_every + min(int(rest / seconds_per_step), evaluate_every)


def seconds_left(
    steps: int, train_step: int, *, seconds_per_step: float, scoring_seconds: float, evaluate_every: int
) -> float:
    """Returns how long the rest of a run takes, with the scores between its train_steps and at its end.

    Args:
        steps: the run's length in train_steps.
        train_step: train_steps done.
        seconds_per_step: the time that one takes.
        scoring_seconds: the time that one score takes.
        evaluate_every: train_steps between two scores, above 0.
    """
    if train_step >= steps:
        return 0.0
    scores = (steps - 1) // evaluate_every - train_step // evaluate_every + 1
    return (steps - train_step) * seconds_per_step + scores * scoring_seconds


def affordable_interval(
    steps: int, most: int, *, seconds_per_step: float, scoring_seconds: float, scores: int, share: float
) -> int:
    """Returns after how many train_steps to score, so that a run has so many scores if their cost allows it.

    Args:
        steps: the run's length in train_steps.
        most: train_steps between two scores that are not exceeded, above 0.
        seconds_per_step: the time that a train_step takes.
        scoring_seconds: the time that one score takes.
        scores: how many scores a run is to have.
        share: how much of the time for training scores may take, 0 to 1.
    """
    cheapest = scoring_seconds / (share * seconds_per_step)
    return min(max(-(-steps // scores), int(cheapest) + 1), most)
