"""Study settings, trials, and the messages between a study and its workers."""

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping
from typing import Any

from sostenuto.errors import UserError

TUNERS = ("random", "bayesian", "hyperband")

# Trials are scored at whole train_steps, so that equal shares of their lengths differ slightly between trials.
SHARE_TOLERANCE = 0.02

# Names of fields in study.json where they differ.
_JSON_NAMES = {"status": "state", "lost_workers": "vanished"}
_FIELD_NAMES = {name: field for field, name in _JSON_NAMES.items()}


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Settings of a search.

    Attributes:
        tuner: `random`, `bayesian` or `hyperband`.
        max_trials: configs to try, including failed ones. Hyperband continues the best of them in further trials, which
            do not count.
        train_steps: full length of a trial, in train_steps of the base config.
        train_fraction: fraction of the training performances that trials use; the best config is retrained on all.
        seed: seed of the search.
        worker_timeout: seconds without a heartbeat until another worker may get the trial.
        score_timeout: seconds without a new score until the trial is reassigned, despite heartbeats.
        max_attempts: lost workers in a row, without a new score, after which a trial has failed.
        stop_weak: whether the median rule stops trials early; hyperband ignores it.
        data: sha256 of the dataset's manifest; a study cannot continue with other data.

    Raises:
        UserError: on construction, if a value is out of range.
    """

    tuner: str
    max_trials: int
    train_steps: int
    train_fraction: float = 1.0
    seed: int = 0
    worker_timeout: float = 60.0
    score_timeout: float = 3600.0
    max_attempts: int = 5
    stop_weak: bool = True
    data: str = ""

    def __post_init__(self) -> None:
        if self.tuner not in TUNERS:
            raise UserError(f"tuner={self.tuner!r}: expected one of {', '.join(TUNERS)}")
        for name in ("max_trials", "train_steps", "max_attempts"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected at least 1")
        if not 0 < self.train_fraction <= 1:
            raise UserError(f"train_fraction={self.train_fraction}: expected above 0 and at most 1")
        for name in ("worker_timeout", "score_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name}={getattr(self, name)}: expected a number of seconds above 0")


class TrialStatus(enum.StrEnum):
    """State of a trial. A queued trial waits for a worker after an interruption."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


class Outcome(enum.StrEnum):
    """Result of an attempt. An interrupted trial goes to the next worker that asks."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Verdict(enum.StrEnum):
    """Reply to a score: continue, end the trial as stopped, or leave it to another worker."""

    CONTINUE = "go"
    STOP = "stop"
    LOST = "lost"


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A trial for a worker to train until `stop_at_share` of its full length.

    Attributes:
        trial: id of the trial.
        attempt: number that each message about the trial must carry.
        directory: the trial's workdir, relative to the study's; an existing one is resumed.
        values: hyperparameters, by field of the config.
        stop_at_share: 1 for the full length.
        beat_seconds: interval of heartbeats.
    """

    trial: str
    attempt: int
    directory: str
    values: dict[str, Any]
    stop_at_share: float
    beat_seconds: float


@dataclasses.dataclass(frozen=True)
class Wait:
    """Reply to a worker without work: ask again after `seconds`."""

    seconds: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Done:
    """Reply to a worker after the study has ended."""

    reason: str


@dataclasses.dataclass(frozen=True)
class AttemptResult:
    """End of an attempt at a trial.

    Attributes:
        outcome: `stopped` only after a verdict to stop.
        score: nats/note on validation; a trial completes only with a finite score.
        reason: why the attempt ended, in one line.
        train_step: last train_step.
        seconds: duration of the attempt.
    """

    outcome: Outcome
    score: float | None
    reason: str
    train_step: int
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Score:
    """Intermediate score in nats/note on validation; None if it was infinite or not a number."""

    train_step: int
    share: float
    score: float | None


@dataclasses.dataclass(frozen=True)
class Proposal:
    """Next trial that an oracle suggests.

    Attributes:
        values: hyperparameters, by field of the config.
        share: share of the full length at which the trial ends.
        parent: id of the trial that it continues, or None.
    """

    values: dict[str, Any]
    share: float
    parent: str | None


@dataclasses.dataclass(frozen=True)
class Trial:
    """Recorded state of a trial.

    Attributes:
        id: `0000` for the first trial.
        status: current state.
        values: hyperparameters, by field of the config.
        share: share of the full length at which it ends.
        directory: its workdir, relative to the study's; a trial that continues another shares that one's.
        parent: id of the trial that it continues (hyperband), or None.
        attempt: number of the current attempt, from 1.
        lost_workers: workers lost since the last new score.
        worker: id of the current or last worker.
        request: id of the call that started the current attempt.
        scores: intermediate scores, in the order of train_steps.
        score: nats/note on validation of a completed or stopped trial.
        reason: why it ended.
        seconds: total duration of the ended attempts.
        train_step: last train_step.
    """

    id: str
    status: TrialStatus
    values: dict[str, Any]
    share: float
    directory: str
    parent: str | None = None
    attempt: int = 0
    lost_workers: int = 0
    worker: str = ""
    request: str = ""
    scores: tuple[Score, ...] = ()
    score: float | None = None
    reason: str = ""
    seconds: float = 0.0
    train_step: int = 0

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Trial":
        """Returns the trial that `to_json` wrote."""
        fields = {_FIELD_NAMES.get(name, name): value for name, value in values.items()}
        scores = tuple(Score(**score) for score in values["scores"])
        return Trial(**{**fields, "status": TrialStatus(values["state"]), "scores": scores})

    def to_json(self) -> dict[str, Any]:
        """Returns the trial as a JSON object."""
        return {_JSON_NAMES.get(name, name): value for name, value in dataclasses.asdict(self).items()}

    @property
    def is_open(self) -> bool:
        """Whether the trial has not ended yet."""
        return self.status in (TrialStatus.QUEUED, TrialStatus.RUNNING)

    @property
    def has_score(self) -> bool:
        """Whether the trial ended with a score."""
        return self.status in (TrialStatus.COMPLETED, TrialStatus.STOPPED)

    def best_score_until(self, share: float) -> float | None:
        """Returns the best score up to a share of the full length; None without scores."""
        return min(
            (
                score.score
                for score in self.scores
                if score.score is not None and score.share <= share + SHARE_TOLERANCE
            ),
            default=None,
        )

    def has_score_from(self, share: float) -> bool:
        """Returns whether a finite score exists at or after a share of the full length."""
        return any(score.score is not None and score.share >= share - SHARE_TOLERANCE for score in self.scores)


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """Returns the completed trial of the lowest score among those trained longest; None if no trial completed."""
    return min(
        (trial for trial in trials if trial.status == TrialStatus.COMPLETED),
        key=lambda trial: (-trial.share, trial.score, trial.id),
        default=None,
    )
