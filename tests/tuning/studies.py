"""Studies with a made-up objective, driven by the calls of their workers."""

import json
import math
from typing import Any

from trainer.presets import preset
from tuning.scheduler import Scheduler
from tuning.space_file import create_space
from tuning.trial import Assignment, AttemptResult, Done, OracleState, Score, StudyConfig, Trial, TrialStatus

BASE = preset("base")
SPACE = create_space(BASE)
TIMEOUT = 60.0


def study_config(tuner="random", max_trials=6, **others) -> StudyConfig:
    return StudyConfig(tuner, max_trials, 1000, **{"worker_timeout": TIMEOUT, "stop_weak": False, **others})


def objective(values, share=1.0) -> float:
    """Nats/note of a config, trained for a share of the full length."""
    return 8 + abs(math.log2(values["units"] / 192)) + abs(math.log(values["step_weight"])) + 2 * (1 - share)


def complete(study, assignment, score=None) -> bool:
    score = objective(assignment.values, assignment.stop_at_share) if score is None else score
    result = AttemptResult(TrialStatus.COMPLETED, score, "steps", train_step=1000, seconds=10.0)
    return study.end_trial(assignment.trial, assignment.attempt, result)


def fail(study, assignment, reason="out of memory") -> bool:
    result = AttemptResult(TrialStatus.FAILED, None, reason, train_step=0, seconds=10.0)
    return study.end_trial(assignment.trial, assignment.attempt, result)


def interrupt(study, assignment, *, train_step=100, seconds=1.0) -> bool:
    result = AttemptResult(TrialStatus.QUEUED, 9.5, "SIGTERM", train_step=train_step, seconds=seconds)
    return study.end_trial(assignment.trial, assignment.attempt, result)


def run(study, worker="tuner0", finish=complete) -> str:
    """Runs the rest of a study with one worker; returns why it is done."""
    while not isinstance(answer := study.next_trial(worker), Done):
        assert isinstance(answer, Assignment), answer
        finish(study, answer)
    return answer.reason


def report(study, assignment, share, score):
    return study.report_score(
        assignment.trial, assignment.attempt, train_step=round(1000 * share), share=share, score=score
    )


class CountingOracle:
    """Proposes configs of 64, 65, ... units, as random search does but without a library."""

    def __init__(self, max_trials: int) -> None:
        self._max_trials = max_trials

    def propose(self, trial_id: str, trials: list[Trial]) -> Trial | None:
        values = {"units": 64 + len(trials), "step_weight": 1.0}
        trial = Trial(trial_id, TrialStatus.QUEUED, values, 1.0, f"trials/{trial_id}")
        return trial if len(trials) < self._max_trials else None

    def can_propose(self, trial_id: str, trials: list[Trial]) -> bool:
        return self.propose(trial_id, trials) is not None

    def state(self) -> OracleState:
        return OracleState()


class ScheduledStudy:
    """A scheduler with a clock, and with the methods of a study.

    Args:
        config: of the study.
        real: proposes with the config's tuner, which takes KerasTuner.
    """

    def __init__(self, config: StudyConfig, *, real: bool = False) -> None:
        self.now = 1000.0
        self._real = real
        self._load(config, {"trials": [], "queue": [], "oracle": {}})

    def _load(self, config: StudyConfig, state: dict[str, Any]) -> None:
        self.config = config
        if self._real:
            from tuning.oracles import Oracle

            self._oracle: Any = Oracle(SPACE, config, OracleState.from_json(state["oracle"], "oracle"))
        else:
            self._oracle = CountingOracle(config.max_trials)
        trials = [Trial.from_json(values, "trial") for values in state["trials"]]
        self._scheduler = Scheduler(trials, state["queue"], self._oracle, config, now=self.now)

    def restart(self, config: StudyConfig | None = None) -> None:
        """Continues from a copy in JSON, as a chief that was killed and started again."""
        state = {
            "trials": [trial.to_json() for trial in self._scheduler.trials],
            "queue": self._scheduler.queue,
            "oracle": self._oracle.state().to_json(),
        }
        self._load(config or self.config, json.loads(json.dumps(state, allow_nan=False)))

    def next_trial(self, worker, request=""):
        return self._scheduler.next_trial(worker, request, self.now)

    def heartbeat(self, trial, attempt):
        return self._scheduler.heartbeat(trial, attempt, self.now)

    def report_score(self, trial, attempt, *, train_step, share, score):
        return self._scheduler.report_score(trial, attempt, Score(train_step, share, score), self.now)

    def end_trial(self, trial, attempt, result):
        return self._scheduler.end_trial(trial, attempt, result)

    @property
    def trials(self) -> list[Trial]:
        return self._scheduler.trials

    @property
    def is_done(self) -> bool:
        return self._scheduler.is_done
