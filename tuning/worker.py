"""Workers: they take trials from a study and train each with the trainer's loop."""

import contextlib
import dataclasses
import gc
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from sostenuto.data.manifest import Manifest
from sostenuto.errors import FileError, LostError, UserError
from sostenuto.progress import silenced
from trainer.config import Config
from trainer.workdir.formats import RunResult, StopReason
from trainer.workdir.layout import WorkdirLockedError
from tuning.space import Space
from tuning.trial import Assignment, AttemptResult, Done, Outcome, StudyConfig, Verdict, Wait

if TYPE_CHECKING:
    from tuning.rpc import StudyClient
    from tuning.study import Study

    TrialSource: TypeAlias = Study | StudyClient

logger = logging.getLogger(__name__)

_MAX_REASON_LENGTH = 300  # characters
_WEAK = "worse than the median of the others"


class Worker:
    """Trains trials in this process.

    Args:
        source: the study.
        worker_id: id that a restart does not change.
        space: the searched hyperparameters.
        config: settings of the search.
        manifest: the dataset.
        workdir: the study's.
        quiet: hides the progress of trials.
        lock_timeout: seconds to wait for the previous worker to unlock a trial's workdir.
    """

    def __init__(
        self,
        source: "TrialSource",
        worker_id: str,
        *,
        space: Space,
        config: StudyConfig,
        manifest: Manifest,
        workdir: str,
        quiet: bool,
        lock_timeout: float = 60.0,
    ) -> None:
        self._source, self._id = source, worker_id
        self._space, self._config = space, config
        self._manifest, self._workdir = manifest, workdir
        self._quiet, self._lock_timeout = quiet, lock_timeout

    def run(self) -> int:
        """Trains trials until the study is done or a signal arrives.

        Returns:
            The exit status: 0, or 128 + the number of the signal.

        Raises:
            UserError: the study did not answer, or a file of the dataset or workdir cannot be read or written. The next
                worker gets the trial, since it did not cause this.
        """
        while True:
            task = self._source.next_trial(self._id)
            if isinstance(task, Done):
                logger.info(f"the search is done: {task.reason}")
                return 0
            if isinstance(task, Wait):
                time.sleep(task.seconds)
                continue
            result = self._run_trial(task)
            if result.outcome == Outcome.INTERRUPTED and result.reason in signal.Signals.__members__:
                return 128 + signal.Signals[result.reason]

    def _run_trial(self, assignment: Assignment) -> AttemptResult:
        """Trains a trial and reports its end."""
        with silenced(self._quiet):
            logger.info(
                f"trial {assignment.trial}, attempt {assignment.attempt}",
                extra={"figures": {"trial": assignment.trial, "attempt": assignment.attempt}},
            )
        start = time.monotonic()
        file_error: FileError | None = None
        with _heartbeats(self._source, assignment) as stop:
            try:
                result = self._train(assignment, stop)
            except FileError as error:
                file_error = error
                result = AttemptResult(Outcome.INTERRUPTED, None, _one_line(error), 0)
        result = dataclasses.replace(result, seconds=time.monotonic() - start)
        with silenced(self._quiet):
            score = "" if result.score is None else f", {result.score:.3f} nats/note"
            logger.info(
                f"trial {assignment.trial}: {result.outcome} ({result.reason}){score}",
                extra={"figures": {"trial": assignment.trial, "outcome": result.outcome, "score": result.score}},
            )
        self._source.end_trial(assignment.trial, assignment.attempt, result)
        if file_error is not None:
            raise file_error
        return result

    def _train(self, assignment: Assignment, stop: threading.Event) -> AttemptResult:
        """Trains a trial; an error of the trial itself becomes its result.

        Raises:
            FileError: a file cannot be read or written.
            UserError: the study did not answer.
        """
        import keras
        import tensorflow as tf

        directory = os.path.join(self._workdir, assignment.directory)
        reporter = _ScoreReporter(self._source, assignment, stop)
        try:
            config = self._space.trial_config(assignment.values, self._config.train_steps)
            config = config.replace(train_fraction=self._config.train_fraction)
            stop_at = math.ceil(config.steps * assignment.stop_at_share)
            result = self._train_when_unlocked(config, directory, stop_at, reporter, stop)
        except FileError:
            raise
        except LostError as error:
            return AttemptResult(Outcome.INTERRUPTED, None, _one_line(error), 0)
        except OSError as error:
            raise FileError(f"{directory}: {_one_line(error)}") from error
        except UserError as error:
            return _failure(error)
        except tf.errors.ResourceExhaustedError as error:
            return _failure(f"out of memory: {error.message}")
        except Exception as error:  # A bad combination of values must not end the search.
            return _failure(f"{type(error).__name__}: {error}")
        finally:
            # Keras and TensorFlow would keep the graphs and variables of this trial during the next.
            keras.backend.clear_session()
            gc.collect()
        if reporter.error is not None:
            raise reporter.error
        if result.reason.is_signal:
            return AttemptResult(Outcome.INTERRUPTED, result.best, result.reason, result.train_step)
        if result.reason == StopReason.CALLER and stop.is_set():
            if reporter.verdict == Verdict.STOP:
                return AttemptResult(Outcome.STOPPED, result.best, _WEAK, result.train_step)
            return AttemptResult(Outcome.INTERRUPTED, result.best, "given to another worker", result.train_step)
        return AttemptResult(Outcome.COMPLETED, result.best, result.reason, result.train_step)

    def _train_when_unlocked(
        self, config: Config, directory: str, stop_at: int, reporter: "_ScoreReporter", stop: threading.Event
    ) -> RunResult:
        """Trains after the trial's previous worker has unlocked the workdir."""
        from trainer.callbacks.base import ScoreCallback
        from trainer.callbacks.standard import report_writers
        from trainer.engine import loop

        def report(train_step: int, score: float) -> None:
            reporter.report(train_step, config.steps, score)

        deadline = time.monotonic() + self._lock_timeout
        while True:
            try:
                with silenced(self._quiet):
                    return loop.train(
                        config,
                        self._manifest,
                        directory,
                        callbacks=[*report_writers(), ScoreCallback(report)],
                        stop=stop,
                        stop_at=stop_at,
                    )
            except WorkdirLockedError:
                if time.monotonic() > deadline or stop.wait(1.0):
                    raise


class _ScoreReporter:
    """Reports a trial's scores to the study and stops the training at its verdict.

    Attributes:
        verdict: the study's last reply.
        error: set if the study did not answer.
    """

    def __init__(self, source: "TrialSource", assignment: Assignment, stop: threading.Event) -> None:
        self.verdict = Verdict.CONTINUE
        self.error: UserError | None = None
        self._source, self._assignment, self._stop = source, assignment, stop

    def report(self, train_step: int, steps: int, score: float) -> None:
        """Reports the score at a train_step of a trial with `steps` train_steps."""
        trial, attempt = self._assignment.trial, self._assignment.attempt
        try:
            self.verdict = self._source.report_score(
                trial, attempt, train_step=train_step, share=train_step / steps, score=score
            )
        except UserError as error:
            self.error = error
        if self.error is not None or self.verdict != Verdict.CONTINUE:
            self._stop.set()


@contextlib.contextmanager
def _heartbeats(source: "TrialSource", assignment: Assignment) -> Iterator[threading.Event]:
    """Sends heartbeats from a thread; the event is set after the trial was reassigned."""
    reassigned, ended = threading.Event(), threading.Event()

    def send() -> None:
        while not ended.wait(assignment.beat_seconds):
            try:
                if not source.heartbeat(assignment.trial, assignment.attempt):
                    reassigned.set()
                    return
            except UserError:
                pass  # The chief is absent; the next score waits for it and reports so.

    thread = threading.Thread(target=send, name=f"heartbeat-{assignment.trial}", daemon=True)
    thread.start()
    try:
        yield reassigned
    finally:
        ended.set()
        thread.join()


def _failure(reason: object) -> AttemptResult:
    return AttemptResult(Outcome.FAILED, None, _one_line(reason), 0)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:_MAX_REASON_LENGTH]
