"""A study: which trials there are, who runs them, what came of them; on disk before anyone is told.

A trial belongs to an attempt: one worker's try at it, kept by heartbeats. Whatever an attempt says after its trial was
given to another, or ended, is refused.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from sostenuto import storage
from sostenuto.errors import FileError, HeldError, UserError, mismatches
from sostenuto.storage.lease import Lease, Lock, hold
from trainer import startup
from trainer.config import Config
from tuning.space import Space

STUDY_NAME = "study.json"
TRIALS_NAME = "trials"
TUNERS = ("random", "bayesian", "hyperband")

# These may be others when a study is resumed: how long it goes on, and how long workers are waited for.
_CHANGEABLE = ("max_trials", "worker_timeout", "score_timeout", "max_attempts")

# A bucket takes one write of an object a second.
_PAUSE_SECONDS = 1.0
_LONGEST_WAIT, _SHORTEST_WAIT = 5.0, 0.2  # seconds
_BEATS_PER_TIMEOUT = 5  # so that a few lost ones do no harm
_WEAK_FROM_SHARE, _WEAK_AMONG = 1 / 3, 4
# Trials score at whole train_steps, so that the same share is not the same number in all of them.
SAME_SHARE = 0.02

Outcome = Literal["completed", "stopped", "failed", "interrupted"]


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """How a study searches.

    Attributes:
        tuner: `random`, `bayesian` or `hyperband`.
        max_trials: how many configs are tried, failed ones included. Hyperband goes on with the best of them in
            trials that are not counted again.
        train_steps: the full length of a trial, in train_steps of the start config.
        train_fraction: share of the training performances that trials use; the best config is retrained on all.
        seed: of the search.
        worker_timeout: seconds without a sign of life after which a trial may be given to another worker.
        score_timeout: seconds without a new score after which a trial is taken from its worker, which hangs, however
            alive it seems.
        max_attempts: a trial whose workers vanish so often, without a new score in between, has failed.
        stop_weak: whether the median rule ends trials early; not with hyperband, which halves instead.
        data: the sha256 of the dataset's manifest; a study never goes on with other data.

    Raises:
        UserError: on construction, when one is out of its range.
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
            raise UserError(f"train_fraction={self.train_fraction}: expected a share above 0 and at most 1")
        for name in ("worker_timeout", "score_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name}={getattr(self, name)}: expected a number of seconds above 0")


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What a worker is to do: train a trial until `stop_at_share` of its full length.

    Attributes:
        trial: its id.
        attempt: goes with everything that the worker says about it.
        directory: the trial's workdir within the study's; one that is there already is gone on with.
        values: of the hyperparameters, by field of the config.
        stop_at_share: 1 for the whole length.
        beat_seconds: between two signs of life.
    """

    trial: str
    attempt: int
    directory: str
    values: dict[str, Any]
    stop_at_share: float
    beat_seconds: float


@dataclasses.dataclass(frozen=True)
class Wait:
    """There is nothing to do now; ask again in so many seconds."""

    seconds: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Done:
    """The study has ended."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Score:
    """An intermediate score, in nats/note on validation; None where it was infinite or not a number."""

    train_step: int
    share: float
    score: float | None


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    Attributes:
        id: `0000` for the first one.
        state: a queued one waits for a worker, since its last one was interrupted.
        values: of the hyperparameters, by field of the config.
        share: of the full length, at which it ends.
        directory: its workdir within the study's; a trial that goes on with another has that one's.
        parent: the trial that it goes on with (hyperband).
        attempt: the newest one, from 1.
        vanished: workers that were lost since it last made progress.
        worker: who has it, or had it last.
        request: by which the newest attempt was asked for.
        scores: in the order of train_steps.
        score: nats/note on validation, once it has completed or was stopped.
        reason: why it ended.
        seconds: spent on it by attempts that ended.
        train_step: how far it got.
    """

    id: str
    state: Literal["queued", "running", "completed", "stopped", "failed"]
    values: dict[str, Any]
    share: float
    directory: str
    parent: str | None = None
    attempt: int = 0
    vanished: int = 0
    worker: str = ""
    request: str = ""
    scores: tuple[Score, ...] = ()
    score: float | None = None
    reason: str = ""
    seconds: float = 0.0
    train_step: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in ("queued", "running")

    @property
    def has_score(self) -> bool:
        """Whether it ended with a score."""
        return self.state in ("completed", "stopped")

    def best_until(self, share: float) -> float | None:
        """The best score up to a share of the full length; None where there is none."""
        return min(
            (each.score for each in self.scores if each.score is not None and each.share <= share + SAME_SHARE),
            default=None,
        )

    def has_score_from(self, share: float) -> bool:
        """Whether it was scored at a share of the full length, or after it."""
        return any(each.score is not None and each.share >= share - SAME_SHARE for each in self.scores)


def best_of(records: Iterable[Trial]) -> Trial | None:
    """The completed trial of the lowest score, with hyperband among those trained longest; None before there is."""
    return min(
        (record for record in records if record.state == "completed"),
        key=lambda record: (-record.share, record.score, record.id),
        default=None,
    )


def fingerprint(space: Space, start: Config, settings: StudyConfig) -> str:
    """By which a worker and a chief know that they mean the same study."""
    return hashlib.sha256(json.dumps(_identity(space, start, settings), sort_keys=True).encode()).hexdigest()


def _identity(space: Space, start: Config, settings: StudyConfig) -> dict[str, Any]:
    """What makes a study this one and no other, as a JSON object."""
    return {
        "space": space.to_json(),
        "start": start.fixed(),
        "settings": {name: value for name, value in dataclasses.asdict(settings).items() if name not in _CHANGEABLE},
    }


class Study:
    """A search in one directory; several threads may use it. `open` makes one.

    Attributes:
        fingerprint: see there.
        settings: how it searches.
        patience: seconds for which a call waits while another one writes; None: for as long as it takes.
    """

    def __init__(
        self,
        directory: str,
        space: Space,
        start: Config,
        settings: StudyConfig,
        *,
        state: Mapping[str, Any],
        lock: Lock | Lease,
        clock: Callable[[], float],
    ) -> None:
        # KerasTuner takes seconds to import, and workers need none of it; it loads TensorFlow, which would chatter.
        startup.import_tensorflow()
        from tuning.oracles import Oracle

        self.fingerprint = fingerprint(space, start, settings)
        self.settings = settings
        self._path = os.path.join(directory, STUDY_NAME)
        self._space, self._start, self._clock = space, start, clock
        self._records = {values["id"]: _record(values) for values in state.get("trials", ())}
        self._queue: list[str] = list(state.get("queue", ()))
        self._make_oracle = lambda state: Oracle(space, start, settings, state)
        self._oracle = self._make_oracle(state.get("oracle"))
        # Workers may have lived on while the study was closed, so all of them have their time from now.
        running = (name for name, record in self._records.items() if record.state == "running")
        self._seen = dict.fromkeys(running, clock())
        self._scored = dict(self._seen)
        self.patience: float | None = None
        self._lock = threading.Lock()
        self._directory_lock = lock
        self._saved, self._version, self._is_done_at = -1, 0, (-1, False)
        self._is_writing, self._written = False, threading.Condition(self._lock)
        self._pause = _PAUSE_SECONDS if storage.is_remote(directory) else 0.0
        self._write_from = time.monotonic()
        with self._lock:
            self._save()

    @staticmethod
    def open(
        directory: str | os.PathLike[str],
        space: Space,
        start: Config,
        settings: StudyConfig,
        *,
        overwrite: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> "Study":
        """Begins a study, or goes on with the one in the directory.

        Args:
            directory: the study's workdir.
            space: what is searched.
            start: the config that all trials vary, and the first trial.
            settings: how it searches; `max_trials` may have grown, and how long workers are waited for may differ.
            overwrite: removes the study in the directory, with its trials, and begins anew.
            clock: seconds, only compared with each other.

        Raises:
            UserError: the study there has another space, start or settings, or another process has it, or the files
                cannot be read or written.
        """
        directory = os.fspath(directory)
        storage.make_directories(directory)
        lock = _lock(directory)
        try:
            path = os.path.join(directory, STUDY_NAME)
            if overwrite and storage.exists(path):
                storage.remove_directory(os.path.join(directory, TRIALS_NAME))
                storage.remove(path)
            state = {}
            if storage.exists(path):
                state = _read(path)
                _require_same(directory, state, space, start, settings)
            elif storage.exists(os.path.join(directory, TRIALS_NAME)):
                raise UserError(
                    f"{directory}: the directory is no study: got {TRIALS_NAME}/ without {STUDY_NAME}. "
                    "Pass another --workdir"
                )
            return Study(directory, space, start, settings, state=state, lock=lock, clock=clock)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Lets go of the directory, once nothing is being written there."""
        with self._lock:
            self._written.wait_for(lambda: not self._is_writing)
        self._directory_lock.close()

    def __enter__(self) -> "Study":
        """Returns the study."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    # What workers call.

    def next_trial(self, worker: str, request: str = "") -> Assignment | Wait | Done:
        """What a worker is to do next.

        One that asks again while it has a trial was started again: it gets that trial as a new attempt. Otherwise it
        gets one that was interrupted, or whose worker was not heard of for `worker_timeout` seconds, or a new one.

        Args:
            worker: its id, the same when it is started again.
            request: the same where a call is repeated since its answer was lost: that is no new attempt.
        """
        with self._lock:
            answer = self._next(worker, request)
            self._save()
            return answer

    def beat(self, trial: str, attempt: int) -> bool:
        """Says that an attempt lives; False: the trial is no longer its own, and it is to stop."""
        with self._lock:
            record = self._running(trial, attempt)
            if record is None:
                return False
            now = self._clock()
            if now - self._scored[trial] > self.settings.score_timeout:
                self._requeue(record)
                self._save()
                return False
            self._seen[trial] = now
            return True

    def report(
        self, trial: str, attempt: int, train_step: int, share: float, score: float
    ) -> Literal["go", "stop", "lost"]:
        """Takes an intermediate score, which is a sign of life too.

        Weak trials are stopped by the median rule (Golovin et al. 2017, Google Vizier: A Service for Black-Box
        Optimization, section 3.2.1, with best scores in place of running averages): from a third of the length on, one
        whose best score so far is worse than the median of what the others, at least four, had by then. Never the
        first trial, to which the others are to be compared.

        Args:
            trial: its id.
            attempt: of the assignment.
            train_step: at which it was scored.
            share: train_step as a share of the full length.
            score: nats/note on validation.

        Returns:
            `go` on, `stop`: end the trial as stopped, or `lost`: it is no longer this attempt's.
        """
        with self._lock:
            record = self._running(trial, attempt)
            if record is None:
                return "lost"
            self._seen[trial] = self._scored[trial] = self._clock()
            finite = math.isfinite(score)
            scores = {each.train_step: each for each in record.scores}
            progress = all(train_step > each for each in scores)
            scores[train_step] = Score(train_step, share, score if finite else None)
            record = self._put(
                record,
                scores=tuple(scores[each] for each in sorted(scores)),
                train_step=max(record.train_step, train_step),
                vanished=0 if progress else record.vanished,
            )
            self._save()
            return "go" if finite and not self._is_weak(record, share) else "stop"

    def end(
        self,
        trial: str,
        attempt: int,
        outcome: Outcome,
        score: float | None,
        reason: str,
        seconds: float,
        train_step: int,
    ) -> bool:
        """Takes what came of an attempt; False: it is not the trial's any more.

        Args:
            trial: its id.
            attempt: of the assignment.
            outcome: `completed`, `stopped` since a report said so, `failed`, or `interrupted`: the worker was told to
                end, and the trial goes to the next one that asks.
            score: nats/note on validation; without a finite one, no trial completes.
            reason: why it ended, in a line.
            seconds: that the attempt took.
            train_step: how far it got.
        """
        with self._lock:
            record = self._records.get(trial)
            if record is None or record.attempt != attempt:
                return False
            if record.state == "running":
                changes: dict[str, Any] = {
                    "seconds": record.seconds + seconds,
                    "train_step": max(record.train_step, train_step),
                }
                if outcome == "interrupted":
                    changes["state"] = "queued"
                    self._queue.insert(0, trial)
                elif outcome == "failed":
                    changes |= {"state": "failed", "reason": reason}
                else:
                    changes |= _judged(record, outcome, score, reason)
                self._put(record, **changes)
                del self._seen[trial]
            self._save()
            return True

    # What the user is shown.

    def trials(self) -> list[Trial]:
        """All trials, in the order in which they were begun."""
        with self._lock:
            return list(self._records.values())

    def best(self) -> Trial | None:
        """The completed trial of the lowest score, with hyperband among those trained longest; None before there is."""
        return best_of(self.trials())

    @property
    def workers(self) -> set[str]:
        """The ids of all that ever had a trial."""
        return {record.worker for record in self.trials() if record.worker}

    @property
    def is_done(self) -> bool:
        """Whether all trials have ended, and no other would begin."""
        with self._lock:
            if any(record.is_open for record in self._records.values()):
                return False
            if self._is_done_at[0] != self._version:
                oracle = self._make_oracle(json.loads(json.dumps(self._oracle.state())))
                more = oracle.propose(self._next_id, list(self._records.values()))
                self._is_done_at = (self._version, more is None)
            return self._is_done_at[1]

    # The rest is called with the lock held.

    @property
    def _next_id(self) -> str:
        return f"{len(self._records):04d}"

    def _next(self, worker: str, request: str) -> Assignment | Wait | Done:
        now = self._clock()
        for record in [record for record in self._records.values() if record.state == "running"]:
            if record.worker == worker:
                if request and record.request == request:
                    self._seen[record.id] = now
                    return self._assignment(record)
                if assigned := self._assign_again(record, worker, request):
                    return assigned
        if self._queue:
            return self._assign(self._records[self._queue.pop(0)], worker, request)
        for record in [record for record in self._records.values() if record.state == "running"]:
            # A clock that was set back must not give a silent worker more than its time.
            self._seen[record.id] = min(self._seen[record.id], now)
            if now - self._seen[record.id] > self.settings.worker_timeout and (
                assigned := self._assign_again(record, worker, request)
            ):
                return assigned
        proposal = self._oracle.propose(self._next_id, list(self._records.values()))
        if proposal is not None:
            of = self._records.get(proposal.parent or "")
            record = Trial(
                self._next_id,
                "queued",
                proposal.values,
                proposal.share,
                of.directory if of else f"{TRIALS_NAME}/{self._next_id}",
                parent=proposal.parent,
            )
            return self._assign(record, worker, request)
        if self._seen:
            left = min(self._seen.values()) + self.settings.worker_timeout - now
            names = ", ".join(f"{name} of {self._records[name].worker}" for name in self._seen)
            return Wait(max(min(left, _LONGEST_WAIT), _SHORTEST_WAIT), f"waiting for trial {names}")
        return Done(self._summary())

    def _assign(self, record: Trial, worker: str, request: str) -> Assignment:
        self._seen[record.id] = self._scored[record.id] = self._clock()
        record = self._put(record, state="running", attempt=record.attempt + 1, worker=worker, request=request)
        return self._assignment(record)

    def _assignment(self, record: Trial) -> Assignment:
        return Assignment(
            record.id,
            record.attempt,
            record.directory,
            dict(record.values),
            record.share,
            self.settings.worker_timeout / _BEATS_PER_TIMEOUT,
        )

    def _assign_again(self, record: Trial, worker: str, request: str) -> Assignment | None:
        """Gives a trial whose worker vanished to one that asks; None where too many did, and it has failed."""
        record = self._requeue(record)
        if not record.is_open:
            return None
        self._queue.remove(record.id)
        return self._assign(record, worker, request)

    def _requeue(self, record: Trial) -> Trial:
        """Puts a trial whose worker vanished first in the queue; where too many did, it has failed."""
        vanished = record.vanished + 1
        changes: dict[str, Any] = {"state": "queued"}
        if vanished >= self.settings.max_attempts:
            reason = f"{vanished} workers vanished with it and none got further, the last one was {record.worker}"
            # The last attempt is not the trial's any more either.
            changes = {"state": "failed", "attempt": record.attempt + 1, "reason": reason}
        else:
            self._queue.insert(0, record.id)
        del self._seen[record.id]
        return self._put(record, vanished=vanished, **changes)

    def _running(self, trial: str, attempt: int) -> Trial | None:
        """The record of a trial that this attempt has; None where it is not, or no longer, its own."""
        record = self._records.get(trial)
        return record if record and record.state == "running" and record.attempt == attempt else None

    def _put(self, record: Trial, **changes: Any) -> Trial:
        changed = self._records[record.id] = dataclasses.replace(record, **changes)
        self._version += 1
        return changed

    def _is_weak(self, record: Trial, share: float) -> bool:
        if not self.settings.stop_weak or self.settings.tuner == "hyperband" or record.id == next(iter(self._records)):
            return False
        # At its end it is better scored than stopped.
        if not _WEAK_FROM_SHARE - SAME_SHARE <= share < record.share:
            return False
        others = [
            each.best_until(share)
            for each in self._records.values()
            if each.id != record.id and each.has_score_from(share)
        ]
        known = [score for score in others if score is not None]
        mine = record.best_until(share)
        return len(known) >= _WEAK_AMONG and mine is not None and mine > statistics.median(known)

    def _summary(self) -> str:
        records = list(self._records.values())
        states = [record.state for record in records]
        counts = [f"{states.count(state)} {state}" for state in ("completed", "stopped", "failed") if state in states]
        if not any(record.has_score for record in records):
            return f"all {len(records)} trials failed, the last one with: {records[-1].reason}"
        configs = sum(record.parent is None for record in records)
        ended = f"{len(records)} trials: {', '.join(counts)}"
        return ended if configs >= self.settings.max_trials else f"space exhausted after {ended}"

    def _save(self) -> None:
        """Waits until what has changed is written; of all that wait, one writes for all.

        What could not be written is written with the next call.

        Raises:
            UserError: it cannot be written, or another call that writes takes too long.
        """
        wanted = self._version
        while self._saved < wanted:
            if self._is_writing:
                if not self._written.wait(self.patience):
                    raise FileError(f"{self._path}: is still being written, and could not be for a while")
                continue
            self._is_writing = True
            try:
                self._write()
            finally:
                self._is_writing = False
                self._written.notify_all()

    def _write(self) -> None:
        with self._unlocked():
            time.sleep(max(self._write_from - time.monotonic(), 0))
        version, state = self._version, self._state()
        content = (json.dumps(state, indent=1, allow_nan=False) + "\n").encode()
        with self._unlocked():
            self._directory_lock.check_held()
            self._write_from = time.monotonic() + self._pause
            storage.write_bytes_atomic(self._path, content)
        self._saved = version

    @contextlib.contextmanager
    def _unlocked(self) -> Iterator[None]:
        """Lets other calls in meanwhile."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

    def _state(self) -> dict[str, Any]:
        return {
            **_identity(self._space, self._start, self.settings),
            "start": dataclasses.asdict(self._start),
            "settings": dataclasses.asdict(self.settings),
            "trials": [dataclasses.asdict(record) for record in self._records.values()],
            "queue": self._queue,
            "oracle": self._oracle.state(),
        }


def _judged(record: Trial, outcome: Outcome, score: float | None, reason: str) -> dict[str, Any]:
    """What an attempt that came to an end makes of its trial: without finite scores, a failure."""
    broken = next((each.train_step for each in record.scores if each.score is None), None)
    if broken is not None:
        return {"state": "failed", "reason": f"the score at train_step {broken:,} is infinite or not a number"}
    if score is None or not math.isfinite(score):
        return {"state": "failed", "reason": f"the score is {score}, expected a finite number ({reason})"}
    return {"state": outcome, "score": score, "reason": reason}


def _record(values: Mapping[str, Any]) -> Trial:
    return Trial(**{**values, "scores": tuple(Score(**score) for score in values["scores"])})


def _read(path: str) -> dict[str, Any]:
    try:
        state = json.loads(storage.read_bytes(path))
        if state.keys() >= {"space", "start", "settings", "trials", "queue", "oracle"}:
            return state
    except (ValueError, AttributeError):
        pass
    raise UserError(
        f"{path}: the file is damaged: got no JSON state of a study. "
        "Pass another --workdir, or --overwrite to delete the study"
    )


def _require_same(directory: str, state: Mapping[str, Any], space: Space, start: Config, settings: StudyConfig) -> None:
    """Checks that a recorded study is the requested one.

    Raises:
        UserError: it is not; the message names each difference.
    """
    requested = _identity(space, start, settings)
    differences = {"search space": space.differences(state["space"])}
    for part, title in (("start", "start config"), ("settings", "settings")):
        recorded = {name: value for name, value in state[part].items() if name in requested[part]}
        differences[title] = mismatches(requested[part], recorded)
    for title, found in differences.items():
        if found:
            raise UserError(
                f"{directory}: the study has another {title}: {'; '.join(found)}. "
                "Pass the recorded values, another --workdir, or --overwrite to delete the study"
            )
    recorded_max_trials = state["settings"]["max_trials"]
    if settings.max_trials < recorded_max_trials:
        raise UserError(
            f"{directory}: a study cannot shrink: got max_trials={settings.max_trials}, expected {recorded_max_trials} "
            "or more. Pass a larger --max_trials, another --workdir, or --overwrite to delete the study"
        )


def _lock(directory: str) -> Lock | Lease:
    """What keeps other processes out of a study until it is closed."""
    try:
        return hold(directory)
    except HeldError as error:
        raise UserError(f"{directory}: {error} leads this study: wait for it, or use another workdir") from error
