"""Best score of a run, and whether the run's patience is used up."""

import dataclasses
import math


@dataclasses.dataclass
class BestMetric:
    """Best value of the monitored score, stored with each checkpoint.

    Attributes:
        best: the lowest score, or None before the first.
        best_train_step: train_steps done at that score.
        measured: number of scores.
        since_best: number of scores since the best one.
    """

    best: float | None = None
    best_train_step: int = 0
    measured: int = 0
    since_best: int = 0

    def update(self, value: float, train_step: int) -> bool:
        """Updates the best metric; returns whether it improved."""
        self.measured += 1
        is_better = math.isfinite(value) and (self.best is None or value < self.best)
        if is_better:
            self.best, self.best_train_step, self.since_best = value, train_step, 0
        else:
            self.since_best += 1
        return is_better

    def is_exhausted(self, patience: int) -> bool:
        """Returns True after `patience` scores without progress; 0 never ends a run."""
        return bool(patience) and self.since_best >= patience
