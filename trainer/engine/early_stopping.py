"""Best score of a run, the lowest of the config's `monitor`, and whether the run's patience is used up."""

import dataclasses
import math


@dataclasses.dataclass
class BestMetric:
    """Lowest value of the monitored score, stored with each checkpoint."""

    best: float | None = None
    best_train_step: int = 0
    measured: int = 0  # number of scores
    since_best: int = 0  # number of scores since the best one

    def update(self, value: float, train_step: int) -> bool:
        """Counts a score; returns whether it is the best."""
        self.measured += 1
        self.since_best += 1
        # A resumed run may reach the train_step of the best weights once more.
        is_better = math.isfinite(value) and (
            self.best is None or value < self.best or train_step == self.best_train_step
        )
        if is_better:
            self.best, self.best_train_step, self.since_best = value, train_step, 0
        return is_better

    def is_exhausted(self, patience: int) -> bool:
        """Returns True after `patience` scores without progress; 0 never ends a run."""
        return bool(patience) and self.since_best >= patience
