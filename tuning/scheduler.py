"""Scheduling policy of a study: which worker trains which trial, and how trials end.

The scheduler reads no clock and no files. Times are seconds on any one clock, passed in as `now`.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sostenuto.text import counted
from tuning.trial import (
    SHARE_TOLERANCE,
    Assignment,
    AttemptResult,
    Done,
    Score,
    StudyConfig,
    Trial,
    TrialStatus,
    Verdict,
    Wait,
    count_states,
)

if TYPE_CHECKING:
    from tuning.oracles import Oracle

_MAX_WAIT, _MIN_WAIT = 5.0, 0.2  # seconds
_HEARTBEATS_PER_TIMEOUT = 5  # so that losing a few does no harm
_MEDIAN_RULE_SHARE, _MEDIAN_RULE_TRIALS = 1 / 3, 4  # where the rule starts, and how many others must have got there


class Scheduler:
    """Assigns trials to workers and records their scores and ends.

    A trial belongs to its current attempt, which heartbeats keep. Messages of earlier attempts are rejected.
    """

    def __init__(
        self, trials: Iterable[Trial], queue: Iterable[str], oracle: "Oracle", config: StudyConfig, *, now: float = 0.0
    ) -> None:
        self.queue = list(queue)  # ids of interrupted trials, next first
        self.version = 0  # number of changes to trials so far
        self._oracle, self._config = oracle, config
        self._trials = {trial.id: trial for trial in trials}
        running = [trial.id for trial in self._trials.values() if trial.status == TrialStatus.RUNNING]
        # Workers of running trials get a full timeout, since they may still run.
        self._last_heartbeat = dict.fromkeys(running, now)
        self._last_score = dict.fromkeys(running, now)
        self._done_at_version = (-1, False)

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order of their starts."""
        return list(self._trials.values())

    @property
    def is_done(self) -> bool:
        """Whether all trials have ended and no other would start."""
        if any(trial.is_open for trial in self._trials.values()):
            return False
        if self._done_at_version[0] != self.version:
            self._done_at_version = (self.version, not self._oracle.can_propose(self._next_id, self.trials))
        return self._done_at_version[1]

    def next_trial(self, worker: str, request: str, now: float) -> Assignment | Wait | Done:
        """Returns the next task: an interrupted trial, one without heartbeats for `worker_timeout`, or a new one.

        A worker with a trial was restarted and gets it as a new attempt, unless the call with the id `request` repeats.
        """
        for trial in self._running():
            if trial.worker == worker:
                if request and trial.request == request:
                    self._last_heartbeat[trial.id] = now
                    return self._assignment(trial)
                self._requeue(trial)
        for trial in self._running():
            if self.queue:
                break
            # A clock that was set back must not extend a silent worker's timeout.
            self._last_heartbeat[trial.id] = min(self._last_heartbeat[trial.id], now)
            if now - self._last_heartbeat[trial.id] > self._config.worker_timeout:
                self._requeue(trial)
        if self.queue:
            return self._assign(self._trials[self.queue.pop(0)], worker, request, now)
        if (proposed := self._oracle.propose(self._next_id, self.trials)) is not None:
            return self._assign(proposed, worker, request, now)
        if not self._last_heartbeat:
            return Done(_summarize(self.trials, self._config.max_trials))
        seconds = min(self._last_heartbeat.values()) + self._config.worker_timeout - now
        names = ", ".join(f"{trial_id} of {self._trials[trial_id].worker}" for trial_id in self._last_heartbeat)
        return Wait(max(min(seconds, _MAX_WAIT), _MIN_WAIT), f"waiting for trial {names}")

    def heartbeat(self, trial_id: str, attempt: int, now: float) -> bool:
        """Records a heartbeat. Returns False if the trial was reassigned and the worker must stop."""
        trial = self._current(trial_id, attempt)
        if trial is None:
            return False
        if now - self._last_score[trial_id] > self._config.score_timeout:
            self._requeue(trial)
            return False
        self._last_heartbeat[trial_id] = now
        return True

    def report_score(self, trial_id: str, attempt: int, score: Score, now: float) -> Verdict:
        """Records an intermediate score, which may be infinite or not a number and counts as a heartbeat."""
        trial = self._current(trial_id, attempt)
        if trial is None:
            return Verdict.LOST
        self._last_heartbeat[trial_id] = self._last_score[trial_id] = now
        is_finite = score.score is not None and math.isfinite(score.score)
        scores = {known.train_step: known for known in trial.scores}
        is_new = all(score.train_step > train_step for train_step in scores)
        scores[score.train_step] = score if is_finite else dataclasses.replace(score, score=None)
        changes: dict[str, Any] = {"lost_workers": 0} if is_new else {}
        ordered = tuple(scores[train_step] for train_step in sorted(scores))
        trial = self._update(trial, scores=ordered, train_step=max(trial.train_step, score.train_step), **changes)
        return Verdict.STOP if not is_finite or self._is_weak(trial, score.share) else Verdict.CONTINUE

    def end_trial(self, trial_id: str, attempt: int, result: AttemptResult) -> bool:
        """Records the end of an attempt. Returns False if the trial was reassigned; a repeated call changes nothing."""
        trial = self._trials.get(trial_id)
        if trial is None or trial.attempt != attempt:
            return False
        if trial.status != TrialStatus.RUNNING:
            return True
        if result.outcome == TrialStatus.QUEUED:
            changes: dict[str, Any] = {"status": TrialStatus.QUEUED}
            self.queue.insert(0, trial_id)
        else:
            changes = _final_state(trial, result)
        train_step = max(trial.train_step, result.train_step)
        self._update(trial, seconds=trial.seconds + result.seconds, train_step=train_step, **changes)
        del self._last_heartbeat[trial_id]
        return True

    @property
    def _next_id(self) -> str:
        return f"{len(self._trials):04d}"

    def _running(self) -> list[Trial]:
        return [trial for trial in self._trials.values() if trial.status == TrialStatus.RUNNING]

    def _current(self, trial_id: str, attempt: int) -> Trial | None:
        """Returns a trial that this attempt runs, else None."""
        trial = self._trials.get(trial_id)
        return trial if trial and trial.status == TrialStatus.RUNNING and trial.attempt == attempt else None

    def _update(self, trial: Trial, **changes: Any) -> Trial:
        changed = self._trials[trial.id] = dataclasses.replace(trial, **changes)
        self.version += 1
        return changed

    def _assign(self, trial: Trial, worker: str, request: str, now: float) -> Assignment:
        self._last_heartbeat[trial.id] = self._last_score[trial.id] = now
        changes = {"attempt": trial.attempt + 1, "worker": worker, "request": request}
        return self._assignment(self._update(trial, status=TrialStatus.RUNNING, **changes))

    def _assignment(self, trial: Trial) -> Assignment:
        beat_seconds = self._config.worker_timeout / _HEARTBEATS_PER_TIMEOUT
        return Assignment(trial.id, trial.attempt, trial.directory, dict(trial.values), trial.share, beat_seconds)

    def _requeue(self, trial: Trial) -> None:
        """Puts a trial whose worker was lost first in the queue; fails it after `max_attempts` lost workers."""
        lost_workers = trial.lost_workers + 1
        if lost_workers < self._config.max_attempts:
            changes: dict[str, Any] = {"status": TrialStatus.QUEUED}
            self.queue.insert(0, trial.id)
        else:
            reason = f"lost {counted(lost_workers, 'worker')} in a row without a new score, the last was {trial.worker}"
            # A new attempt number, so that messages of the last worker are rejected too.
            changes = {"status": TrialStatus.FAILED, "attempt": trial.attempt + 1, "reason": reason}
        del self._last_heartbeat[trial.id]
        self._update(trial, lost_workers=lost_workers, **changes)

    def _is_weak(self, trial: Trial, share: float) -> bool:
        """Returns whether the median rule (Golovin et al. 2017, Google Vizier, section 3.2.1) stops a trial.

        Its best score is then worse than the median of the others' best scores until the same share.
        """
        config = self._config
        is_reference = trial.id == next(iter(self._trials))
        if not config.stop_weak or config.tuner == "hyperband" or is_reference:
            return False
        if not _MEDIAN_RULE_SHARE - SHARE_TOLERANCE <= share < trial.share:
            return False
        others = [other for other in self.trials if other.id != trial.id and other.has_score_from(share)]
        scores = [score for other in others if (score := other.best_score_until(share)) is not None]
        best = trial.best_score_until(share)
        return len(scores) >= _MEDIAN_RULE_TRIALS and best is not None and best > statistics.median(scores)


def _summarize(trials: list[Trial], max_trials: int) -> str:
    """Returns why a study is done."""
    if not any(trial.has_score for trial in trials):
        return f"no score from {counted(len(trials), 'trial')}, the last one failed with: {trials[-1].reason}"
    is_exhausted = sum(trial.parent is None for trial in trials) < max_trials
    return f"{'space exhausted after ' * is_exhausted}{counted(len(trials), 'trial')}: {count_states(trials)}"


def _final_state(trial: Trial, result: AttemptResult) -> dict[str, Any]:
    """Returns the fields that end a trial; without finite scores it has failed."""
    train_step = next((score.train_step for score in trial.scores if score.score is None), None)
    if result.outcome == TrialStatus.FAILED:
        reason = result.reason
    elif train_step is not None:
        reason = f"the score at train_step {train_step:,} is infinite or not a number"
    elif result.score is None or not math.isfinite(result.score):
        reason = f"the score is {result.score}, expected a finite number ({result.reason})"
    else:
        return {"status": result.outcome, "score": result.score, "reason": result.reason}
    return {"status": TrialStatus.FAILED, "reason": reason}
