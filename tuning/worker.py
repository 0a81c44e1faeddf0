"""A worker: takes trials from a study and trains each with the trainer's own loop."""

import contextlib
import dataclasses
import gc
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from sostenuto.data.manifest import Manifest
from sostenuto.errors import FileError, LostError, UserError
from sostenuto.progress import silenced
from trainer.config import Config
from trainer.workdir.formats import RunResult, StopReason
from trainer.workdir.layout import WorkdirLockedError
from tuning.space import Space
from tuning.study import Assignment, Done, Outcome, StudyConfig, Wait

logger = logging.getLogger(__name__)

_REASON_LENGTH = 300
_HELD_SECONDS = 60.0  # for which a trial's directory may still be held by the worker that had it before
_WEAK = "worse than the median of the others"


class TrialSource(Protocol):
    """What a worker asks of a study, here or behind a connection."""

    def next_trial(self, worker: str) -> Assignment | Wait | Done:
        """What to do next."""

    def beat(self, trial: str, attempt: int) -> bool:
        """Says that the attempt lives; whether it is still the trial's."""

    def report(self, trial: str, attempt: int, train_step: int, share: float, score: float) -> str:
        """Takes an intermediate score; `go`, `stop` or `lost`."""

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
        """Takes the outcome; whether it counts."""


@dataclasses.dataclass(frozen=True)
class _Ended:
    outcome: Outcome
    score: float | None
    reason: str
    train_step: int


def work(
    source: TrialSource,
    worker: str,
    *,
    space: Space,
    start: Config,
    settings: StudyConfig,
    manifest: Manifest,
    workdir: str,
    quiet: bool,
) -> int:
    """Trains trial after trial until the study is done, or the worker is told to end.

    Args:
        source: the study.
        worker: this worker's id, the same when it is started again.
        space: gives a trial's config.
        start: the config that all trials vary.
        settings: how long a trial is, and on how much of the corpus.
        manifest: the dataset.
        workdir: the study's.
        quiet: shows no progress of a trial's training.

    Returns:
        The exit status: 0, or 128 + the signal that ended it.

    Raises:
        UserError: the study did not answer, or a file of the dataset or the workdir cannot be read or written. That is
            no fault of the trial's, which goes to the next worker that asks.
    """
    while True:
        answer = source.next_trial(worker)
        if isinstance(answer, Done):
            logger.info(f"the search is done: {answer.reason}")
            return 0
        if isinstance(answer, Wait):
            time.sleep(answer.seconds)
            continue
        with silenced(quiet):
            logger.info(
                f"trial {answer.trial}, attempt {answer.attempt}",
                extra={"figures": {"trial": answer.trial, "attempt": answer.attempt}},
            )
        begun = time.monotonic()
        fault: FileError | None = None
        with _beating(source, answer) as stop:
            try:
                config = space.config(answer.values, start, settings.train_steps)
            except UserError as error:
                ended = _Ended("failed", None, _one_line(error), 0)
            else:
                config = config.replace(train_fraction=settings.train_fraction)
                try:
                    ended = _train(source, answer, config, manifest, workdir, stop, quiet=quiet)
                except FileError as error:
                    fault, ended = error, _Ended("interrupted", None, _one_line(error), 0)
        seconds = time.monotonic() - begun
        with silenced(quiet):
            score = "" if ended.score is None else f", {ended.score:.3f} nats/note"
            logger.info(
                f"trial {answer.trial}: {ended.outcome} ({ended.reason}){score}",
                extra={"figures": {"trial": answer.trial, "outcome": ended.outcome, "score": ended.score}},
            )
        source.end(answer.trial, answer.attempt, ended.outcome, ended.score, ended.reason, seconds, ended.train_step)
        if fault:
            raise fault
        if ended.outcome == "interrupted" and ended.reason in signal.Signals.__members__:
            return 128 + signal.Signals[ended.reason]


@contextlib.contextmanager
def _beating(source: TrialSource, assignment: Assignment) -> Iterator[threading.Event]:
    """Tells the study that the attempt lives, all the while; the event is set once it is no longer the trial's."""
    stop, over = threading.Event(), threading.Event()

    def beat() -> None:
        while not over.wait(assignment.beat_seconds):
            try:
                if not source.beat(assignment.trial, assignment.attempt):
                    stop.set()
                    return
            except UserError:
                pass  # The chief is away; whoever needs its answer waits for it, and says so.

    thread = threading.Thread(target=beat, name=f"beat-{assignment.trial}", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        over.set()
        thread.join()


def _train(
    source: TrialSource,
    assignment: Assignment,
    config: Config,
    manifest: Manifest,
    workdir: str,
    stop: threading.Event,
    *,
    quiet: bool = True,
) -> _Ended:
    """One attempt at a trial; whatever goes wrong with it is its outcome.

    Raises:
        FileError: a file cannot be read or written.
        UserError: the study did not answer.
    """
    import keras
    import tensorflow as tf

    from trainer.callbacks.base import Callback
    from trainer.callbacks.standard import report_writers
    from trainer.engine import loop
    from trainer.engine.schedule import Event

    verdict = "go"
    no_answer: UserError | None = None

    class ScoreReporter(Callback):
        """Reports each score to the study, which may stop the trial."""

        def on_step(self, train_step: int, events: Event, metrics: dict[str, float]) -> None:
            nonlocal verdict, no_answer
            score = self.run.best.best
            if Event.EVALUATE not in events or score is None:
                return
            share = train_step / config.steps
            try:
                verdict = source.report(assignment.trial, assignment.attempt, train_step, share, score)
            except UserError as error:
                no_answer = error
            if no_answer or verdict != "go":
                stop.set()

    stop_at = math.ceil(config.steps * assignment.stop_at_share)
    directory = os.path.join(workdir, assignment.directory)

    def train() -> RunResult:
        callbacks = [*report_writers(), ScoreReporter()]
        with silenced(quiet):
            return loop.train(config, manifest, directory, callbacks=callbacks, stop=stop, stop_at=stop_at)

    try:
        result = _once_free(train, stop)
    except FileError:
        raise
    except LostError as error:
        return _Ended("interrupted", None, _one_line(error), 0)
    except OSError as error:
        raise FileError(f"{directory}: {_one_line(error)}") from error
    except UserError as error:
        return _Ended("failed", None, _one_line(error), 0)
    except tf.errors.ResourceExhaustedError as error:
        return _Ended("failed", None, _one_line(f"out of memory: {error.message}"), 0)
    except Exception as error:  # A bad combination must not end the search, whatever it raises.
        return _Ended("failed", None, _one_line(f"{type(error).__name__}: {error}"), 0)
    finally:
        # Graphs and variables of one trial would stay in Keras' and TensorFlow's hands into the next.
        keras.backend.clear_session()
        gc.collect()
    if no_answer:
        raise no_answer
    if result.reason.is_signal:
        return _Ended("interrupted", result.best, result.reason, result.train_step)
    if result.reason == StopReason.CALLER and stop.is_set():
        if verdict == "stop":
            return _Ended("stopped", result.best, _WEAK, result.train_step)
        return _Ended("interrupted", result.best, "given to another worker", result.train_step)
    return _Ended("completed", result.best, result.reason, result.train_step)


def _once_free(train: Callable[[], RunResult], stop: threading.Event) -> RunResult:
    """Trains, once the worker that had the trial before has let go of its directory."""
    given_up = time.monotonic() + _HELD_SECONDS
    while True:
        try:
            return train()
        except WorkdirLockedError:
            if time.monotonic() > given_up or stop.wait(1.0):
                raise


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:_REASON_LENGTH]
