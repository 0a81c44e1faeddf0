"""A machine whose speed a test decides."""

from collections.abc import Callable

from trainer.engine.train_state import TrainState
from trainer.evaluation.scorer import Scorer


class Machine:
    """A machine whose clock is moved by train_steps and scores alone.

    Args:
        speeds: seconds a train_step takes, each from a time on.
        scoring_seconds: what a score takes.
    """

    def __init__(self, speeds: dict[float, float], scoring_seconds: float = 0.0) -> None:
        self.now = 0.0
        self._scoring_seconds = scoring_seconds
        self.after_call: Callable[[int], None] = lambda train_step: None
        self._speeds = speeds

    def clock(self) -> float:
        return self.now

    def state(self, *arguments) -> TrainState:
        state = TrainState(*arguments)
        run = state.run

        def timed_run(train_steps) -> None:
            before = int(state.train_step.numpy())
            run(train_steps)
            for _ in range(int(state.train_step.numpy()) - before):
                self.now += next(
                    speed for since, speed in sorted(self._speeds.items(), reverse=True) if since <= self.now
                )
            self.after_call(int(state.train_step.numpy()))

        state.run = timed_run
        return state

    def scorer(self, model) -> Scorer:
        scorer = Scorer(model)
        score = scorer.score

        def timed_score(*arguments, **options):
            self.now += self._scoring_seconds
            return score(*arguments, **options)

        scorer.score = timed_score
        return scorer
