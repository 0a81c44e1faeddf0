"""Length of a run and the decay of its learning rate, as run.json records them."""

import dataclasses
import itertools
from typing import Any, NamedTuple

from trainer.workdir.formats import RunInfo

OPEN = 2**31  # a train_step that no run reaches

# Number of scores of a run that lasts `max_minutes`, and the largest share of the time that they take.
_SCORES, _SCORING_SHARE = 16, 0.1

# The fields of a plan, and their keys in run.json.
_KEYS = {
    "steps": "steps",
    "lr_decay_steps": "horizon",
    "lr_decay_from": "horizon_from",
    "evaluate_every": "evaluate_every",
    "revisions": "revisions",
}

MOST_REVISIONS = 16


@dataclasses.dataclass(frozen=True)
class Plan:
    """Length of a run. The learning rate follows from it alone, so a run resumed from any checkpoint repeats it."""

    steps: int | None = None  # None until the speed has been measured
    lr_decay_steps: int | None = None  # the train_step at which the cosine ends as first planned
    lr_decay_from: int = 0  # the train_step from which that holds; before it the learning rate does not decay
    evaluate_every: int | None = None  # train_steps between two scores, if the run chose that itself
    # Pairs of a train_step and the one at which the cosine ends from then on, at most MOST_REVISIONS.
    revisions: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def from_record(run: RunInfo) -> "Plan":
        """Returns the plan that run.json records, or an empty plan."""
        values = {field: getattr(run, key) for field, key in _KEYS.items()}
        return Plan(**{field: value for field, value in values.items() if value is not None})

    def to_record(self) -> dict[str, Any]:
        """Returns the plan's entries of run.json."""
        return {key: getattr(self, field) for field, key in _KEYS.items()}

    @staticmethod
    def from_numbers(numbers: list[float]) -> "Plan":
        """Returns the plan that `to_numbers` encoded."""
        values = [int(number) if number >= 0 else None for number in numbers]
        steps, lr_decay_steps, lr_decay_from, evaluate_every, *revisions = values
        known = [value for value in revisions if value is not None]
        pairs = tuple(zip(known[::2], known[1::2], strict=True))
        return Plan(steps, lr_decay_steps, lr_decay_from or 0, evaluate_every, pairs)

    def to_numbers(self) -> list[float]:
        """Returns the plan as numbers for an all-reduce, always as many, -1 for None."""
        revisions = [number for pair in self.revisions for number in pair]
        values = [self.steps, self.lr_decay_steps, self.lr_decay_from, self.evaluate_every, *revisions]
        padding = [-1.0] * (2 * MOST_REVISIONS - len(revisions))
        return [-1.0 if value is None else float(value) for value in values] + padding

    def with_steps(self, steps: int, train_step: int, *, warmup_steps: int, lr_decay_from: int) -> "Plan":
        """Returns the plan with another length; a learning rate that already decays at `train_step` keeps its decay."""
        if self.lr_decay_steps is not None and train_step > warmup_steps:
            return dataclasses.replace(self, steps=steps)
        return Plan(steps, lr_decay_steps=steps, lr_decay_from=lr_decay_from, evaluate_every=self.evaluate_every)

    def revised(self, steps: int, train_step: int) -> "Plan":
        """Returns a longer or shorter plan, the rest of whose cosine, from `train_step` on, ends with the run."""
        return dataclasses.replace(self, steps=steps, revisions=(*self.revisions, (train_step, steps)))

    @property
    def last_lr_decay_steps(self) -> int | None:
        """The train_step at which the cosine ends as last planned."""
        return self.revisions[-1][1] if self.revisions else self.lr_decay_steps

    @property
    def is_shortened(self) -> bool:
        """Whether a revision made the run shorter."""
        ends = [self.lr_decay_steps or 0, *(end for _, end in self.revisions)]
        return any(end < before for before, end in itertools.pairwise(ends))

    def cosine(self, train_step: int, warmup_steps: int) -> tuple[float, float]:
        """Returns the begin and the end of the cosine that applies after `train_step` updates.

        A revised cosine continues from the current learning rate, so its begin is extrapolated.
        """
        begin, end = self._first_cosine(train_step, warmup_steps)
        for revised_from, revised_end in self.revisions:
            decayed = max(revised_from - begin, 0) / max(end - begin, 1)
            if train_step >= revised_from and decayed < 1:
                begin, end = (revised_from - decayed * revised_end) / (1 - decayed), float(revised_end)
        return begin, end

    def _first_cosine(self, train_step: int, warmup_steps: int) -> tuple[float, float]:
        end = self.lr_decay_steps if train_step >= self.lr_decay_from else None
        return float(warmup_steps), float(OPEN if end is None else end)

    def boundaries(self) -> list[int]:
        """Returns the train_steps at which the decay changes or the run ends."""
        begins = [begin for begin, _ in self.revisions]
        return [end for end in (self.steps, self.lr_decay_from, *begins) if end is not None]


class Costs(NamedTuple):
    """Durations that a run consists of."""

    seconds_per_step: float  # infinite if unknown
    scoring_seconds: float
    evaluate_every: int  # train_steps between two scores, above 0

    def steps_that_fit(self, seconds: float, train_step: int) -> int:
        """Returns how many train_steps fit into the time after `train_step`, with the scores between and at the end."""
        seconds -= self.scoring_seconds
        steps_to_score = next_multiple(train_step, self.evaluate_every) - train_step
        first_round = steps_to_score * self.seconds_per_step + self.scoring_seconds
        if seconds < first_round:
            return min(max(int(seconds / self.seconds_per_step), 0), steps_to_score)
        round_seconds = self.evaluate_every * self.seconds_per_step + self.scoring_seconds
        rounds, rest = divmod(seconds - first_round, round_seconds)
        last_round = min(int(rest / self.seconds_per_step), self.evaluate_every)
        return steps_to_score + int(rounds) * self.evaluate_every + last_round

    def seconds_left(self, steps: int, train_step: int) -> float:
        """Returns the seconds from `train_step` to the end of a run of `steps`, scores included."""
        if train_step >= steps:
            return 0.0
        scores = (steps - 1) // self.evaluate_every - train_step // self.evaluate_every + 1
        return (steps - train_step) * self.seconds_per_step + scores * self.scoring_seconds

    def affordable_interval(self, steps: int) -> int:
        """Returns the train_steps between two scores that a run of `steps` can afford, at most `evaluate_every`."""
        cheapest = self.scoring_seconds / (_SCORING_SHARE * self.seconds_per_step)
        return min(max(-(-steps // _SCORES), int(cheapest) + 1), self.evaluate_every)


def next_multiple(train_step: int, every: int) -> int:
    """Returns the next multiple of `every` after a train_step."""
    return (train_step // every + 1) * every
