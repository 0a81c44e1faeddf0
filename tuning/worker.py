"""Workers: they take trials from a study and train each with the trainer's loop."""

import contextlib
import dataclasses
import errno
import gc
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from sostenuto.data.manifest import Manifest
from sostenuto.errors import FileError, GpuError, GpuMemoryError, LostError, TemporaryError, UserError
from sostenuto.progress import silenced
from trainer.config import Config
from trainer.workdir.formats import RunResult, StopReason
from trainer.workdir.layout import WorkdirLockedError
from tuning.space import Space
from tuning.trial import Assignment, AttemptResult, Done, StudyConfig, TrialStatus, Verdict, Wait

if TYPE_CHECKING:
    from tuning.rpc import StudyClient
    from tuning.study import Study

    TrialSource: TypeAlias = Study | StudyClient

logger = logging.getLogger(__name__)

_MAX_REASON_LENGTH = 300  # characters
_FILE_FAILURES = [
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EROFS)
]


@dataclasses.dataclass
class Worker:
    """Trains trials in this process."""

    source: "TrialSource"
    worker_id: str  # which a restart does not change
    space: Space
    config: StudyConfig
    manifest: Manifest
    workdir: str
    quiet: bool  # hides the progress of trials
    lock_timeout: float = 60.0  # seconds to wait until a trial's previous worker unlocks its workdir

    def run(self) -> int:
        """Trains trials until the study is done or a signal arrives; returns the exit status.

        Raises a UserError if the study did not answer, a file is inaccessible or a GPU failed; the next worker gets the
        trial.
        """
        while True:
            task = self.source.next_trial(self.worker_id)
            if isinstance(task, Done):
                logger.info(f"the search is done: {task.reason}")
                return 0
            if isinstance(task, Wait):
                time.sleep(task.seconds)
                continue
            result = self._run_trial(task)
            if result.signal_number:
                return 128 + result.signal_number

    def _run_trial(self, assignment: Assignment) -> AttemptResult:
        """Trains a trial and reports its end."""
        with silenced(self.quiet):
            figures: dict[str, Any] = {"trial": assignment.trial, "attempt": assignment.attempt}
            logger.info(f"trial {assignment.trial}, attempt {assignment.attempt}", extra={"figures": figures})
        start = time.monotonic()
        file_error: FileError | None = None
        with _heartbeats(self.source, assignment) as stop:
            try:
                result = self._train(assignment, stop)
            except FileError as error:
                file_error = error
                result = AttemptResult(TrialStatus.QUEUED, None, _one_line(error), 0)
        result = dataclasses.replace(result, seconds=time.monotonic() - start)
        with silenced(self.quiet):
            score = "" if result.score is None else f", {result.score:.3f} nats/note"
            figures = {"trial": assignment.trial, "outcome": result.outcome, "score": result.score}
            logger.info(
                f"trial {assignment.trial}: {result.outcome} ({result.reason}){score}", extra={"figures": figures}
            )
        try:
            self.source.end_trial(assignment.trial, assignment.attempt, result)
        except TemporaryError:
            if not result.signal_number:
                raise
            # The trial is saved. Its worker gets it back when it asks again, another one after the timeout.
        if file_error is not None:
            raise file_error
        return result

    def _train(self, assignment: Assignment, stop: threading.Event) -> AttemptResult:
        """Trains a trial; an error of the trial itself becomes its result, others are raised."""
        import keras
        import tensorflow as tf

        directory = os.path.join(self.workdir, assignment.directory)
        try:
            config = self.space.trial_config(assignment.values, self.config.train_steps)
            config = config.replace(train_fraction=self.config.train_fraction)
            stop_at = math.ceil(config.steps * assignment.stop_at_share)
            reporter = _ScoreReporter(self.source, assignment, stop, config.steps)
            result = self._train_when_unlocked(config, directory, stop_at, reporter)
        except GpuMemoryError as error:
            return _failure(error)
        except (FileError, GpuError):
            raise  # After a GPU's failure no operation of this process succeeds: the study counts a lost worker.
        except LostError as error:
            return AttemptResult(TrialStatus.QUEUED, None, _one_line(error), 0)
        except OSError as error:
            raise FileError(f"{directory}: {_one_line(error)}") from error
        except UserError as error:
            return _failure(error)
        except tf.errors.OpError as error:
            # TensorFlow raises the same error for a full disk as for full memory.
            if reason := next((reason for reason in _FILE_FAILURES if reason in error.message), None):
                raise FileError(
                    f"{directory}: cannot be written ({reason}). Correct the cause, then repeat the command"
                ) from error
            is_memory = isinstance(error, tf.errors.ResourceExhaustedError)
            return _failure(f"{'out of memory' if is_memory else type(error).__name__}: {error.message}")
        except Exception as error:  # A bad combination of values must not end the search.
            return _failure(f"{type(error).__name__}: {error}")
        finally:
            # Keras and TensorFlow would keep the graphs and variables of this trial during the next.
            keras.backend.clear_session()
            gc.collect()
        if reporter.error is not None:
            raise reporter.error
        outcome, reason = TrialStatus.QUEUED if result.reason.is_signal else TrialStatus.COMPLETED, str(result.reason)
        if result.reason == StopReason.CALLER and stop.is_set():
            outcome, reason = TrialStatus.QUEUED, "given to another worker"
            if reporter.verdict == Verdict.STOP:
                outcome, reason = TrialStatus.STOPPED, "worse than the median of the others"
        return AttemptResult(outcome, result.best, reason, result.train_step)

    def _train_when_unlocked(
        self, config: Config, directory: str, stop_at: int, reporter: "_ScoreReporter"
    ) -> RunResult:
        """Trains after the trial's previous worker has unlocked the workdir."""
        from trainer.callbacks.base import ScoreCallback
        from trainer.callbacks.standard import report_writers
        from trainer.engine import loop

        deadline = time.monotonic() + self.lock_timeout
        while True:
            try:
                with silenced(self.quiet):
                    return loop.train(
                        config,
                        self.manifest,
                        directory,
                        callbacks=[*report_writers(), ScoreCallback(reporter.report)],
                        stop=reporter.stop,
                        stop_at=stop_at,
                    )
            except WorkdirLockedError:
                if time.monotonic() > deadline or reporter.stop.wait(1.0):
                    raise


@dataclasses.dataclass
class _ScoreReporter:
    """Reports a trial's scores to the study and stops the training at its verdict."""

    source: "TrialSource"
    assignment: Assignment
    stop: threading.Event
    steps: int  # of the whole trial
    verdict: Verdict = Verdict.CONTINUE  # the study's last reply
    error: UserError | None = None  # set if the study did not answer

    def report(self, train_step: int, score: float) -> None:
        """Reports the score at a train_step."""
        trial, attempt = self.assignment.trial, self.assignment.attempt
        try:
            self.verdict = self.source.report_score(
                trial, attempt, train_step=train_step, share=train_step / self.steps, score=score
            )
        except UserError as error:
            self.error = error
        if self.error is not None or self.verdict != Verdict.CONTINUE:
            self.stop.set()


@contextlib.contextmanager
def _heartbeats(source: "TrialSource", assignment: Assignment) -> Iterator[threading.Event]:
    """Sends heartbeats from a thread; the event is set after the trial was reassigned."""
    reassigned, ended = threading.Event(), threading.Event()

    def send() -> None:
        while not ended.wait(assignment.beat_seconds):
            with contextlib.suppress(UserError):  # The chief is absent; the next score waits for it and reports so.
                if not source.heartbeat(assignment.trial, assignment.attempt):
                    reassigned.set()
                    return

    thread = threading.Thread(target=send, name=f"heartbeat-{assignment.trial}", daemon=True)
    thread.start()
    try:
        yield reassigned
    finally:
        ended.set()
        thread.join()


def _failure(reason: object) -> AttemptResult:
    return AttemptResult(TrialStatus.FAILED, None, _one_line(reason), 0)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:_MAX_REASON_LENGTH]
