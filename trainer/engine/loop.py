"""The training loop, on one host or many: calls of many train_steps, between which it scores, reports and saves.

On several hosts every worker runs it in lockstep: the chief decides, writes and sends its decisions to the others.
"""

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from sostenuto import progress
from sostenuto.data.manifest import Manifest
from sostenuto.progress import phase
from sostenuto.text import duration
from trainer.callbacks.base import Callback, RunContext
from trainer.config import Config
from trainer.distribution.cluster import Cluster
from trainer.distribution.faults import explain_failure
from trainer.engine.early_stopping import BestMetric
from trainer.engine.measurements import Measurements
from trainer.engine.nonfinite import nonfinite_error
from trainer.engine.planner import Planner
from trainer.engine.run_checkpoints import RunCheckpoints
from trainer.engine.run_length import Plan
from trainer.engine.schedule import Event, Schedule
from trainer.engine.setup import RunSetup, build_setup, claim_workdir
from trainer.engine.shutdown import GracefulShutdown, ShutdownRequested
from trainer.engine.timing import RunTimer
from trainer.workdir import layout, remote
from trainer.workdir.formats import RunResult, StopReason

logger = logging.getLogger(__name__)


def train(
    config: Config,
    manifest: Manifest,
    workdir: str,
    *,
    cluster: Cluster | None = None,
    callbacks: Sequence[Callback] = (),
    stop: threading.Event | None = None,
    stop_at: int | None = None,
    started: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RunResult:
    """Trains in a workdir, or resumes a run of the same config there.

    Args:
        config: the run.
        manifest: the dataset.
        workdir: a local or remote directory for all that is written.
        cluster: the hosts that train together, or None for this host alone.
        callbacks: actions besides training, which the chief runs in this order.
        stop: ends the run with a checkpoint once it is set.
        stop_at: a train_step at which the run ends before its planned length; a later call resumes it.
        started: the clock's time when the command began, for `max_minutes`; now by default.
        clock: returns the time in seconds, from any origin.

    Raises:
        UserError: the config does not fit the workdir, the devices or the data, the loss is infinite or not a number,
            or a file cannot be written; TemporaryError if workers do not come.
        WorkerLostError: another host ended; started again together, the hosts resume from the newest checkpoint.
        GpuError: a GPU failed, or its memory is full (GpuMemoryError).
    """
    begin = clock() if started is None else started
    try:
        layout.check_workdir(config, manifest, workdir)  # Before the work; `claim` repeats it under the lock.
        with remote.open_workdir(workdir, max_to_keep=config.max_to_keep) as opened:
            setup = build_setup(config, manifest, cluster)
            setup.initial_weights.prepare(workdir)
            play_seconds = sum(callback.play_seconds for callback in callbacks)
            timer = RunTimer(clock, begin, config, play_seconds=play_seconds, score_steps=setup.score_steps)
            return TrainingLoop(setup, opened, callbacks, timer, stop=stop, stop_at=stop_at).run()
    except layout.FinishedError as finished:
        result = finished.result
        why, figures = layout.why_finished(result, config), {"train_step": result.train_step, "reason": result.reason}
        logger.info(f"{workdir} is finished: {why} at train_step {result.train_step:,}", extra={"figures": figures})
        return result
    except tf.errors.OpError as error:
        if explained := explain_failure(error, cluster):
            raise explained from error
        raise


class TrainingLoop:
    """The loop of one run, with the arguments of `train`; its creation claims and resumes the workdir."""

    def __init__(
        self,
        setup: RunSetup,
        workdir: remote.LocalWorkdir,
        callbacks: Sequence[Callback],
        timer: RunTimer,
        *,
        stop: threading.Event | None,
        stop_at: int | None,
    ) -> None:
        self._setup, self._config, self._state, self._workers = setup, setup.config, setup.state, setup.workers
        self._workdir, self._timer, self._stop, self._stop_at = workdir, timer, stop, stop_at
        is_chief = setup.workers.is_chief
        self._callbacks = callbacks if is_chief else ()
        self._schedule = Schedule(setup.config, setup.windows.per_epoch, stop_at)
        self._planner = Planner(setup.config, self._schedule, timer, workdir.directory) if is_chief else None
        self._shutdown, self._best = GracefulShutdown(), BestMetric()
        self._measurements = Measurements(setup, timer, self._shutdown)
        self._checkpoints = RunCheckpoints(setup, workdir, self._callbacks)
        if is_chief:
            claim_workdir(setup, workdir)
        # `_due` is True from a call until its scores and reports are done; a checkpoint records it.
        self._train_step, self._due = 0, False
        checkpoint = self._checkpoints.resume()
        if checkpoint is not None:
            self._train_step, self._due = checkpoint.train_step, checkpoint.extra["due"]
            self._best = BestMetric(**checkpoint.extra["monitor"])
            timer.resume(checkpoint.extra["seconds"])
        else:
            setup.initial_weights.load()  # All checkpoints are corrupt, or they are loaded already.
        self._best = self._checkpoints.resume_best(self._best, self._train_step)
        if self._planner:
            self._planner.load(self._train_step)

    def run(self) -> RunResult:
        """Trains to the end, or until a signal."""
        with self._shutdown, self._started_callbacks(), self._checkpoints:
            reason, others_wait = self._train()
            self._save()
            self._checkpoints.wait()
            if reason.is_final:
                reason = self._finish(reason)
            if self._workers.is_chief:
                self._checkpoints.flush_reports()
                self._workdir.flush()
        # All workers stay until everything is written: if the chief fails before, all are started again.
        is_final = float(reason.is_final)
        if not others_wait:
            (is_final,) = self._workers.broadcast_from_chief([is_final])
        if not is_final and reason != StopReason.CALLER:
            reason = StopReason(self._shutdown.received or StopReason.WORKER)
            _log_stop(reason, self._train_step)
        return self._result(reason)

    def _train(self) -> tuple[StopReason, bool]:
        """Trains; returns why it ended, and whether other workers may be blocked until this process exits."""
        self._sync_workers()
        try:
            if self._due:
                self._run_periodic_actions()
            while (reason := self._stop_reason()) is None:
                self._call(self._until)
                self._run_periodic_actions()
                self._revise_plan()
        except ShutdownRequested:
            # Other workers block in a collective until this process exits.
            return StopReason(str(self._shutdown.received)), self._workers.size > 1
        return reason, False

    def _sync_workers(self) -> bool:
        """Agrees on the next call with all workers; returns True if one of them received a signal."""
        received = float(bool(self._shutdown.received))
        boundaries = [callback.next_boundary(self._train_step) for callback in self._callbacks]
        boundaries += [self._schedule.next_boundary(self._train_step), self._train_step + self._timer.call_steps]
        self._until = min(boundary for boundary in boundaries if boundary is not None)
        if self._workers.size > 1:
            decisions = [float(self._until), *self._schedule.plan.to_numbers()]
            values = [received, *(decisions if self._workers.is_chief else [0.0] * len(decisions))]
            received, until, *plan = self._workers.all_reduce_sum(values)
            self._until, self._schedule.plan = int(until), Plan.from_numbers(plan)
        return received > 0

    def _stop_reason(self) -> StopReason | None:
        """Returns why the run ends now, or None if it continues."""
        received = self._sync_workers()
        steps = self._schedule.plan.steps
        if steps is not None and self._train_step >= steps:
            return StopReason.STEPS
        if self._best.is_exhausted(self._config.patience):
            return StopReason.PATIENCE
        if self._stop_at is not None and self._train_step >= self._stop_at:
            return StopReason.CALLER
        if self._stop is not None and self._stop.is_set():
            return StopReason.CALLER
        return StopReason(self._shutdown.received or StopReason.WORKER) if received else None

    def _call(self, until: int) -> None:
        """Trains until a train_step."""
        count = until - self._train_step
        self._set_lr_decay()
        begin = self._timer.clock()
        if self._timer.compiled:
            self._state.run(count)
        else:
            # Compilation takes long, and there is nothing to save yet.
            activity = phase("compiling the first train_steps")
            with progress.silenced(not self._workers.is_chief), activity, self._shutdown.cancellable():
                self._state.run(count)
        self._train_step = int(self._state.train_step.numpy())
        origin = self._state.not_finite()
        if origin is not None:
            raise nonfinite_error(origin, self._setup.manifest, self._setup.performances)
        self._measurements.count_call(self._timer.count_call(count, begin))
        for callback in self._callbacks:
            callback.on_call(self._train_step, count)
        self._due = True

    def _run_periodic_actions(self) -> None:
        """Runs the actions that are due at this train_step."""
        events = self._schedule.events(self._train_step)
        self._set_lr_decay()
        metrics = self._measurements.measure(self._train_step, events)
        value = None if metrics is None else getattr(metrics, self._config.monitor)
        is_best = value is not None and self._best.update(value, self._train_step)
        begin = self._timer.clock()
        for callback in self._callbacks:
            callback.on_step(self._train_step, events, metrics)
        if Event.PLAY in events and not self._shutdown.received:
            self._timer.count_play(begin)
        if is_best:
            self._checkpoints.save_best(self._train_step, value)
        self._due = False
        if Event.CHECKPOINT in events:
            self._save()

    def _revise_plan(self) -> None:
        """Changes the length of a run that lasts `max_minutes` to fit its speed."""
        is_open = self._schedule.plan.steps is None
        if self._planner and (plan := self._planner.revise(self._train_step)):
            # Saved before run.json has the new plan: a resumed run then repeats no train_step at another rate.
            self._save()
            self._checkpoints.wait()
            self._workdir.wait()
            self._planner.adopt(plan)
            if is_open:
                self._planner.log_lr_decay()

    def _finish(self, reason: StopReason) -> StopReason:
        """Finishes a complete run; returns another reason if a signal interrupts that."""
        if not self._workers.is_chief:
            return reason
        self._best = self._checkpoints.restore_best(self._best, self._train_step)
        if self._best.best is None:  # Without a score, the last weights count as the best.
            self._checkpoints.save_best(self._train_step, None)
        self._checkpoints.wait()
        _log_times(self._timer)
        result = self._result(reason)
        try:
            for callback in self._callbacks:
                callback.on_finish(result)
        except ShutdownRequested:
            return StopReason(self._shutdown.received or reason)
        result.save(os.path.join(self._workdir.directory, layout.RESULT_NAME))
        return reason

    @contextlib.contextmanager
    def _started_callbacks(self) -> Iterator[None]:
        """Starts the callbacks, and closes them on exit."""
        if self._planner:
            self._setup.log_summary(self._train_step)
            self._planner.log_lr_decay()
        context = RunContext(
            setup=self._setup, workdir=self._workdir, train_step=self._train_step,
            reported_step=self._train_step - 1 if self._due else self._train_step, schedule=self._schedule,
            best=self._best, shutdown=self._shutdown, seconds_left=self._seconds_left,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            for callback in self._callbacks:
                callback.on_start(context)
                stack.callback(callback.close)
            yield

    def _save(self) -> None:
        """Saves a checkpoint in the background."""
        best, seconds = dataclasses.asdict(self._best), self._timer.used_seconds
        self._checkpoints.save_progress(self._train_step, {"monitor": best, "due": self._due, "seconds": seconds})

    def _set_lr_decay(self) -> None:
        self._state.set_lr_decay(*self._schedule.plan.cosine(self._train_step, self._config.warmup_steps))

    def _seconds_left(self) -> float | None:
        schedule = self._schedule
        return self._timer.seconds_left(schedule.plan.steps, self._train_step, schedule.evaluate_every)

    def _result(self, reason: StopReason) -> RunResult:
        return RunResult(self._train_step, self._best.best, self._best.best_train_step, self._config.monitor, reason)


def _log_times(timer: RunTimer) -> None:
    """Logs how long a run took, and its activities."""
    shares = timer.shares()
    parts = ", ".join(f"{duration(seconds)} {activity}" for activity, seconds in shares.items() if seconds)
    parts = parts.replace("train_steps", "train_steps with their compilation")
    logger.info(f"trained for {duration(sum(shares.values()))}: {parts}", extra={"figures": {"seconds": shares}})


def _log_stop(reason: StopReason, train_step: int) -> None:
    """Logs a notice that the run is not complete."""
    cause = "another worker received a signal" if reason == StopReason.WORKER else reason
    saved = f"saved at train_step {train_step:,}" if train_step else "nothing was trained yet"
    figures = {"train_step": train_step, "reason": reason}
    logger.log(progress.NOTICE, f"{cause}: {saved}; the same command resumes the run", extra={"figures": figures})
