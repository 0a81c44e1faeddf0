"""Studies on disk: the scheduler behind a lock, with each change on disk before a worker learns of it."""

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sostenuto import storage
from sostenuto.data.json_record import JsonRecord
from sostenuto.errors import FileError, HeldError, UserError, mismatches
from sostenuto.storage.lease import Lease, Lock, hold
from trainer.config import FIELDS
from trainer.config_fields import check_field
from tuning.scheduler import Scheduler
from tuning.space import Parameter, Space
from tuning.trial import (
    TRIALS_NAME,
    Assignment,
    AttemptResult,
    Done,
    OracleState,
    Score,
    StudyConfig,
    Trial,
    TrialStatus,
    Verdict,
    Wait,
)

STUDY_NAME = "study.json"

# Settings that may change when a study is resumed.
_CHANGEABLE = ("max_trials", "worker_timeout", "score_timeout", "max_attempts")

_WRITE_INTERVAL = 1.0  # seconds; a bucket accepts one write of an object per second


def fingerprint(space: Space, config: StudyConfig) -> str:
    """Returns a hash of everything that identifies a study, equal for a chief and its workers."""
    return hashlib.sha256(json.dumps(_identity(space, config), sort_keys=True).encode()).hexdigest()


class Study(contextlib.AbstractContextManager["Study"]):
    """A search in one directory, safe for several threads; resumes an existing one unless `overwrite` deletes it.

    Raises a UserError if the existing study has another space, base config or settings, or another process has it.

    Attributes:
        lock: of the directory; everything in it but the trials' workdirs is written through it.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        space: Space,
        config: StudyConfig,
        *,
        overwrite: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        directory = os.fspath(directory)
        storage.make_directories(directory)
        try:
            self.lock = hold(directory)
        except HeldError as error:
            raise UserError(
                f"{directory}: {error} leads this study. Wait until it ends, or pass another --workdir"
            ) from error
        try:
            state = _load(directory, space, config, self.lock, overwrite=overwrite)
            # KerasTuner takes seconds to import, and workers do not need it.
            from tuning.oracles import Oracle

            self.fingerprint = fingerprint(space, config)
            self.write_timeout: float | None = None  # seconds that a call waits for another call's write
            self._path = os.path.join(directory, STUDY_NAME)
            whole = {"start": dataclasses.asdict(space.start), "settings": dataclasses.asdict(config)}
            self._header = _identity(space, config) | whole
            self._clock = clock
            self._oracle = Oracle(space, config, state.oracle)
            self._scheduler = Scheduler(state.trials, state.queue, self._oracle, config, now=clock())
            self._lock = threading.Lock()
            self._write_ended = threading.Condition(self._lock)
            self._is_writing, self._written_version = False, -1
            self._write_interval = _WRITE_INTERVAL if storage.is_remote(directory) else 0.0
            self._next_write_time = time.monotonic()
            with self._transaction():
                pass  # writes the file
        except BaseException:
            self.lock.close()
            raise

    def close(self) -> None:
        """Waits for a current write and unlocks the directory."""
        with self._lock:
            self._write_ended.wait_for(lambda: not self._is_writing)
        self.lock.close()

    def __exit__(self, *_: object) -> None:
        """Closes the study."""
        self.close()

    def next_trial(self, worker: str, request: str = "") -> Assignment | Wait | Done:
        """Returns the next task of a worker, as `Scheduler.next_trial`."""
        with self._transaction() as scheduler:
            return scheduler.next_trial(worker, request, self._clock())

    def heartbeat(self, trial: str, attempt: int) -> bool:
        """Records a heartbeat, as `Scheduler.heartbeat`; waits for no write unless the trial was reassigned."""
        with self._lock:
            if self._scheduler.heartbeat(trial, attempt, self._clock()):
                return True
        with self._transaction():
            return False

    def report_score(self, trial: str, attempt: int, *, train_step: int, share: float, score: float) -> Verdict:
        """Records a score in nats/note at a train_step and share of the full length, as `Scheduler.report_score`."""
        with self._transaction() as scheduler:
            return scheduler.report_score(trial, attempt, Score(train_step, share, score), self._clock())

    def end_trial(self, trial: str, attempt: int, result: AttemptResult) -> bool:
        """Records the end of an attempt, as `Scheduler.end_trial`."""
        with self._transaction() as scheduler:
            return scheduler.end_trial(trial, attempt, result)

    def trials(self) -> list[Trial]:
        """Returns all trials, in the order of their starts."""
        with self._lock:
            return self._scheduler.trials

    @property
    def is_done(self) -> bool:
        """Whether all trials have ended and no other would start."""
        with self._lock:
            return self._scheduler.is_done

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Scheduler]:
        """Gives exclusive use of the scheduler, then waits until its state is on disk.

        One of the waiting calls writes for all of them. After a failed write, the next call writes.
        """
        with self._lock:
            yield self._scheduler
            version = self._scheduler.version
            while self._written_version < version:
                if self._is_writing:
                    if not self._write_ended.wait(self.write_timeout):
                        raise FileError(
                            f"{self._path}: a write takes longer than {self.write_timeout:.0f} s. Check the file system"
                        )
                    continue
                self._is_writing = True
                try:
                    self._write()
                finally:
                    self._is_writing = False
                    self._write_ended.notify_all()

    def _write(self) -> None:
        """Writes the current state; other calls may use the scheduler during the write."""
        with self._unlocked():
            time.sleep(max(self._next_write_time - time.monotonic(), 0))
        version = self._scheduler.version
        trials = [trial.to_json() for trial in self._scheduler.trials]
        state = self._header | {
            "trials": trials,
            "queue": self._scheduler.queue,
            "oracle": self._oracle.state().to_json(),
        }
        content = (json.dumps(state, indent=1, allow_nan=False) + "\n").encode()
        with self._unlocked():
            self._next_write_time = time.monotonic() + self._write_interval
            self.lock.write_bytes(self._path, content)
        self._written_version = version

    @contextlib.contextmanager
    def _unlocked(self) -> Iterator[None]:
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()


def _identity(space: Space, config: StudyConfig) -> dict[str, Any]:
    """Returns what identifies a study, as a JSON object."""
    return {
        "space": space.to_json(),
        "start": space.start.fixed(),
        "settings": {name: value for name, value in dataclasses.asdict(config).items() if name not in _CHANGEABLE},
    }


@dataclasses.dataclass(frozen=True)
class _Space:
    """A recorded search space, as `Space.to_json` wrote it."""

    parameters: Sequence[Parameter] = ()
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _State(JsonRecord):
    """Content of study.json."""

    REMEDY = "Restore the file, pass another --workdir, or --overwrite to delete the study"

    space: _Space
    start: Mapping[str, Any]
    settings: StudyConfig
    trials: Sequence[Trial]
    queue: Sequence[str]  # ids of queued trials
    oracle: OracleState

    def __post_init__(self) -> None:
        ids = [trial.id for trial in self.trials]
        if ids != [f"{number:04d}" for number in range(len(ids))]:
            raise UserError(f"trials: got the ids {', '.join(ids)}, expected 0000 and those that follow")
        queued = [trial.id for trial in self.trials if trial.status == TrialStatus.QUEUED]
        if sorted(self.queue) != queued:
            raise UserError(f"queue: got {', '.join(self.queue)}, expected the queued trials, {', '.join(queued)}")
        directories: dict[str | None, str] = {}
        for trial in self.trials:
            if trial.has_score and trial.score is None:
                raise UserError(f"trials: {trial.id} is {trial.status} without a score")
            directories[trial.id] = directories.get(trial.parent, f"{TRIALS_NAME}/{trial.id}")
            if trial.directory != directories[trial.id]:
                raise UserError(
                    f"trials: {trial.id} has the directory {trial.directory!r}, expected {directories[trial.id]!r}"
                )

    def check_values(self, parameters: Sequence[Parameter]) -> None:
        """Raises UserError if a trial's values are not those of the hyperparameters."""
        names = {parameter.field for parameter in parameters}
        for trial in self.trials:
            if trial.values.keys() != names:
                got, expected = ", ".join(trial.values), ", ".join(sorted(names))
                raise UserError(f"trials: {trial.id} has values of {got}, expected {expected}")
            for name, value in trial.values.items():
                check_field(FIELDS[name], value)


def _load(directory: str, space: Space, config: StudyConfig, lock: Lock | Lease, *, overwrite: bool) -> _State:
    """Returns the recorded state of a study, if it is the requested one; one without trials if there is none."""
    path, trials_path = os.path.join(directory, STUDY_NAME), os.path.join(directory, TRIALS_NAME)
    if overwrite and storage.exists(path):
        lock.remove(trials_path)
        lock.remove(path)
    content = lock.read_bytes(path)
    if content is None:
        if storage.exists(trials_path):
            raise UserError(
                f"{directory}: the directory is no study: got {TRIALS_NAME}/ without {STUDY_NAME}. "
                "Pass another --workdir"
            )
        return _State(_Space(), {}, config, (), (), OracleState())
    state = _State.parse(content, path)
    _check_same(directory, state, space, config)
    try:
        state.check_values(space.parameters)
    except UserError as error:
        raise UserError(f"{path}: {error}. {_State.REMEDY}") from error
    return state


def _check_same(directory: str, state: _State, space: Space, config: StudyConfig) -> None:
    """Raises a UserError that names each difference between a recorded study and the requested one."""
    differences = {"another search space": space.differences(state.space.parameters, state.space.fixed)}
    settings = dataclasses.asdict(state.settings)
    for values, part, title in (
        (state.start, "start", "another base config"),
        (settings, "settings", "other settings"),
    ):
        requested = _identity(space, config)[part]
        recorded = {name: value for name, value in values.items() if name in requested}
        differences[title] = mismatches(requested, recorded)
    for title, lines in differences.items():
        if lines:
            raise UserError(
                f"{directory}: the study has {title}: {'; '.join(lines)}. "
                "Pass the recorded values, another --workdir, or --overwrite to delete the study"
            )
    recorded_max_trials = state.settings.max_trials
    if config.max_trials < recorded_max_trials:
        raise UserError(
            f"{directory}: a study cannot shrink: got max_trials={config.max_trials}, expected {recorded_max_trials} "
            "or more. Pass a larger --max_trials, another --workdir, or --overwrite to delete the study"
        )
