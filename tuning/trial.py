"""Study settings, trials, and the messages between a study and its workers."""

import dataclasses
import enum
import signal
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sostenuto.data.json_record import JsonRecord
from sostenuto.errors import UserError
from trainer.config_fields import MAX_STEPS, Bounds

TRIALS_NAME = "trials"  # directory of the trials' workdirs
TUNERS = ("random", "bayesian", "hyperband")
MAX_BRACKET = 2  # of hyperband, whose rungs are at 1/9, 1/3 and the whole of a trial's length

MAX_TRIALS = 100_000
SECONDS = Bounds(above=0, maximum=31_536_000)  # a year

# Trials are scored at whole train_steps, so that equal shares of their lengths differ slightly between trials.
SHARE_TOLERANCE = 0.02


def _number(bounds: Bounds, *, default: Any = dataclasses.MISSING) -> Any:
    """Declares a field with bounds."""
    return dataclasses.field(default=default, metadata={"bounds": bounds})


def check_bounds(name: str, value: float, bounds: Bounds) -> None:
    """Raises UserError if a number is out of its bounds."""
    if value not in bounds:
        raise UserError(f"{name}={value}: expected {bounds}")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Settings of a search; raises a UserError if a value is out of range."""

    tuner: str  # random, bayesian or hyperband
    # configs to try, including failed ones; hyperband's continuations do not count
    max_trials: int = _number(Bounds(minimum=1, maximum=MAX_TRIALS))
    # full length of a trial with the base config's windows
    train_steps: int = _number(Bounds(minimum=1, maximum=MAX_STEPS))
    # fraction of the training performances that trials use
    train_fraction: float = _number(Bounds(above=0, maximum=1), default=1.0)
    seed: int = 0
    # seconds without a heartbeat until another worker may get the trial
    worker_timeout: float = _number(SECONDS, default=60.0)
    # seconds without a new score until the trial is reassigned, despite heartbeats
    score_timeout: float = _number(SECONDS, default=3600.0)
    # lost workers in a row, without a new score, after which a trial has failed
    max_attempts: int = _number(Bounds(minimum=1, maximum=1000), default=5)
    stop_weak: bool = True  # whether the median rule stops trials early; hyperband ignores it
    data: str = ""  # sha256 of the dataset's manifest, which a resumed study must have too

    def __post_init__(self) -> None:
        if self.tuner not in TUNERS:
            raise UserError(f"tuner={self.tuner!r}: expected one of {', '.join(TUNERS)}")
        for field in dataclasses.fields(self):
            if "bounds" in field.metadata:
                check_bounds(field.name, getattr(self, field.name), field.metadata["bounds"])


class TrialStatus(enum.StrEnum):
    """State of a trial. A queued trial waits for a worker after an interruption."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    RUNNING = "running"
    QUEUED = "queued"


class Verdict(enum.StrEnum):
    """Reply to a score: continue, end the trial as stopped, or leave it to another worker."""

    CONTINUE = "go"
    STOP = "stop"
    LOST = "lost"


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A trial for a worker to train."""

    trial: str
    attempt: int  # each message about the trial carries it
    directory: str  # workdir relative to the study's; an existing one is resumed
    values: dict[str, Any]  # hyperparameters, by field of the config
    stop_at_share: float  # share of the full length at which the trial ends
    beat_seconds: float  # interval of heartbeats


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
    """End of an attempt at a trial."""

    outcome: TrialStatus  # of the trial; queued after an interruption, so that the next worker that asks gets it
    score: float | None  # nats/note on validation; a trial completes only with a finite score
    reason: str  # one line
    train_step: int  # the last one
    seconds: float = 0.0  # duration of the attempt

    @property
    def signal_number(self) -> int:
        """The number of the signal that ended the attempt, or 0."""
        is_signal = self.outcome == TrialStatus.QUEUED and self.reason in signal.Signals.__members__
        return signal.Signals[self.reason] if is_signal else 0


@dataclasses.dataclass(frozen=True)
class Score(JsonRecord):
    """Intermediate score in nats/note on validation; None if it was infinite or not a number."""

    train_step: int
    share: float
    score: float | None

    def _null_keys(self) -> Collection[str]:
        return ("score",)


@dataclasses.dataclass(frozen=True)
class Trial(JsonRecord):
    """Recorded state of a trial."""

    id: str  # 0000 for the first one
    status: TrialStatus = dataclasses.field(metadata={"json": "state"})
    values: dict[str, Any]  # hyperparameters, by field of the config
    share: float  # share of the full length at which it ends
    directory: str  # workdir relative to the study's; a trial that continues another shares that one's
    parent: str | None = None  # id of the trial that it continues (hyperband)
    attempt: int = 0  # number of the current attempt, from 1
    lost_workers: int = dataclasses.field(default=0, metadata={"json": "vanished"})  # since the last new score
    worker: str = ""  # id of the current or last worker
    request: str = ""  # id of the call that started the current attempt
    scores: tuple[Score, ...] = ()  # in the order of train_steps
    score: float | None = None  # nats/note on validation, of a completed or stopped trial
    reason: str = ""  # why it ended
    seconds: float = 0.0  # total duration of the ended attempts
    train_step: int = 0  # the last one

    def _null_keys(self) -> Collection[str]:
        return ("parent", "score")

    @property
    def is_open(self) -> bool:
        """Whether the trial has not ended yet."""
        return self.status in (TrialStatus.QUEUED, TrialStatus.RUNNING)

    @property
    def has_score(self) -> bool:
        """Whether the trial ended with a score."""
        return self.status in (TrialStatus.COMPLETED, TrialStatus.STOPPED)

    @property
    def trained_share(self) -> float:
        """Share of the full length up to the last score."""
        if self.status == TrialStatus.COMPLETED:
            return self.share
        return max((score.share for score in self.scores), default=0.0)

    def best_score_until(self, share: float) -> float | None:
        """Returns the best score up to a share of the full length; None without scores."""
        scores = [score.score for score in self.scores if score.share <= share + SHARE_TOLERANCE]
        return min((score for score in scores if score is not None), default=None)

    def has_score_from(self, share: float) -> bool:
        """Returns whether a finite score exists at or after a share of the full length."""
        return any(score.score is not None and score.share >= share - SHARE_TOLERANCE for score in self.scores)


@dataclasses.dataclass(frozen=True)
class Place(JsonRecord):
    """A trial in a round of hyperband, and the one that it continues."""

    past_id: str | None
    id: str

    def _null_keys(self) -> Collection[str]:
        return ("past_id",)


@dataclasses.dataclass(frozen=True)
class Bracket(JsonRecord):
    """A bracket of hyperband: its number, and the places of its rounds."""

    bracket_num: int
    rounds: Sequence[Sequence[Place]]

    def __post_init__(self) -> None:
        if self.bracket_num > MAX_BRACKET or len(self.rounds) != self.bracket_num + 1:
            raise UserError(f"oracle.brackets: got {len(self.rounds)} rounds in bracket {self.bracket_num}")


@dataclasses.dataclass(frozen=True)
class OracleState(JsonRecord):
    """State of a search besides its trials: hyperband's brackets, nothing for the other searches."""

    brackets: Sequence[Bracket] | None = None
    current_bracket: int | None = None
    current_iteration: int | None = None

    def __post_init__(self) -> None:
        if (self.current_bracket or 0) > MAX_BRACKET:
            raise UserError(f"oracle.current_bracket: got {self.current_bracket}, expected at most {MAX_BRACKET}")


def count_states(trials: Iterable[Trial]) -> str:
    """Returns the numbers of trials in each state: "3 completed, 1 failed"."""
    states = [trial.status for trial in trials]
    return ", ".join(f"{states.count(status)} {status}" for status in TrialStatus if status in states)


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Returns the completed trial of the lowest score among those trained longest; None if no trial completed.

    It is also None if a search has ended and all trials of the longest length failed: no promoted config proved itself.
    """
    completed = [trial for trial in trials if trial.status == TrialStatus.COMPLETED]
    best = min(completed, key=lambda trial: (-trial.share, trial.score, trial.id), default=None)
    if best is None or any(trial.is_open for trial in trials):
        return best
    return None if any(trial.share > best.share for trial in trials if trial.status == TrialStatus.FAILED) else best
