"""A training run: from the first train_step, or the newest checkpoint, to the last; on one host or many.

Between calls of many train_steps each, the loop reports, scores, saves and listens. On several hosts every worker runs
this same loop in step: the chief decides and writes, and tells the others what it decided.
"""

import collections
import contextlib
import dataclasses
import functools
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import sostenuto
from sostenuto import progress
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from trainer.callbacks.metrics import NoReports, Reports
from trainer.checkpoints import manager
from trainer.config import Config
from trainer.data.note_table import NoteTable, load_table, select_fraction
from trainer.data.windows import WindowSampler
from trainer.distribution.cluster import Cluster
from trainer.distribution.strategy import Workers, configure_devices, create_strategy, device_name
from trainer.engine.run_length import OPEN, Plan, affordable_interval, next_multiple, seconds_left, steps_that_fit
from trainer.engine.shutdown import GracefulShutdown, ShutdownRequested
from trainer.engine.train_state import TrainState
from trainer.evaluation.scorer import Scorer
from trainer.evaluation.statistics import compute_metrics, sum_scores
from trainer.export import export_model
from trainer.generation.samples import NUM_SAMPLES
from trainer.reporting import page
from trainer.workdir import layout, remote
from trainer.workdir.formats import RunResult

logger = logging.getLogger(__name__)

_CALL_SECONDS = 0.5  # a call into TensorFlow lasts about so long, so that a signal is answered soon
_MEASURE_SECONDS = 4.0  # how long the speed is measured before the run's length is fixed
_MEASURE_SHARE = 0.1  # of the time left: the measurement of a short run takes no longer
_PLANNED_SHARE = 0.97  # of the time left that a plan fills
_SHORTEN_AFTER = 0.8  # of the time: the share after which a run that does not fit is shortened
_RECENT_SECONDS = 10.0  # the recent speed is that of the calls of so long a time
_PLAY_SECONDS = 3.0  # of playing for TensorBoard, until it was measured

# A run that lasts `max_minutes` has so many scores, if they take no larger share of the time.
_SCORES, _SCORING_SHARE = 16, 0.1
_PROFILED = (10, 20)  # a profile begins after the first of these train_steps of the process, and ends after the last

# What a worker is told by TensorFlow when another one is gone, and what follows from that.
_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


class WorkerLostError(Exception):
    """Another worker is gone, and this one cannot go on alone."""


@dataclasses.dataclass
class BestMetric:
    """What decides when a run ends and which weights are its best; stored with each checkpoint."""

    best: float | None = None
    best_train_step: int = 0
    measured: int = 0
    since_best: int = 0

    def note(self, value: float, train_step: int) -> bool:
        """Takes in a measurement of the monitored score; returns whether it is the best so far."""
        self.measured += 1
        better = math.isfinite(value) and (self.best is None or value < self.best)
        if better:
            self.best, self.best_train_step, self.since_best = value, train_step, 0
        else:
            self.since_best += 1
        return better


class StepTimer:
    """How long train_steps take.

    Attributes:
        measured_seconds: what calls have taken, the first one, which compiles, left out.
        compiled: whether there was a first one.
    """

    def __init__(self) -> None:
        self.measured_seconds = 0.0
        self._train_steps = 0
        self.compiled = False
        self._recent: collections.deque[tuple[int, float]] = collections.deque()
        self._recent_seconds = 0.0

    def count(self, train_steps: int, seconds: float) -> None:
        """Takes in a call."""
        if self.compiled:
            self.measured_seconds += seconds
            self._train_steps += train_steps
            self._recent.append((train_steps, seconds))
            self._recent_seconds += seconds
            while self._recent_seconds - self._recent[0][1] >= _RECENT_SECONDS:
                self._recent_seconds -= self._recent.popleft()[1]
        self.compiled = True

    @property
    def seconds_per_step(self) -> float | None:
        """Seconds a train_step takes, or None before that is known."""
        return self.measured_seconds / self._train_steps if self._train_steps else None

    @property
    def recent_seconds_per_step(self) -> float | None:
        """Seconds a train_step has taken in the last ten seconds of training, or None before that is known."""
        if not self._recent:
            return None
        return sum(seconds for _, seconds in self._recent) / sum(train_steps for train_steps, _ in self._recent)


def train(
    config: Config,
    manifest: Manifest,
    directory: str,
    *,
    cluster: Cluster | None = None,
    quiet: bool = False,
    profile: bool = False,
    started: float | None = None,
    keepsakes: bool = True,
    num_samples: int = NUM_SAMPLES,
    stop_at: int | None = None,
    on_score: Callable[[int, float], None] | None = None,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RunResult:
    """Trains, or goes on training, in a workdir.

    Args:
        config: the run.
        manifest: the dataset.
        directory: the workdir, here or in a bucket, where everything is written; one of the same config is resumed.
        cluster: the hosts that train together, or None for this one alone.
        quiet: shows no progress.
        profile: writes a trace of the process's train_steps 11 to 20 for TensorBoard.
        started: the clock's time when the command began, for `max_minutes`; now by default.
        keepsakes: writes what the training itself does not need: music for TensorBoard, the export, the curves, the
            samples and the report's page.
        num_samples: how many samples to play at the end and for TensorBoard; 0 plays none.
        stop_at: a train_step to stop at although more are planned; the run can go on from there.
        on_score: is told the train_step and the best score so far at each evaluation.
        stop: ends the run, once it is set, as a signal would: what was trained is saved.
        clock: the time in seconds, from any origin.

    Raises:
        UserError: the workdir belongs to another config or dataset, the config does not fit the devices or the data,
            the loss became infinite or not a number, or a file cannot be written.
        PeerLost: another host is gone; with all of them started again, the run goes on from its newest checkpoint.
    """
    started = clock() if started is None else started
    result = layout.finished(config, manifest, directory)
    if result is not None:
        with progress.silenced(quiet):
            logger.info(
                f"{directory} is finished: {layout.why_finished(result, config)} at train_step {result.train_step:,}",
                extra={"figures": {"train_step": result.train_step, "reason": result.reason}},
            )
        return result
    with (
        progress.silenced(quiet),
        remote.mirrored(directory, max_to_keep=config.max_to_keep) as mirrored,
        contextlib.ExitStack() as held,
    ):
        run = functools.partial(
            _Run,
            config,
            manifest,
            mirrored,
            cluster,
            profile,
            started,
            keepsakes,
            num_samples,
            stop_at,
            on_score,
            stop,
            clock,
            held,
        )
        if cluster is None:
            return run().train()
        try:
            return run().train()
        except _PEER_ERRORS as error:
            raise WorkerLostError(
                f"worker {cluster.index} of {cluster.size} lost another one ({type(error).__name__}): start all of "
                "them again, and they go on from the newest checkpoint"
            ) from error


class _Run:
    """One run of the loop over a workdir."""

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        mirrored: remote.LocalWorkdir,
        cluster: Cluster | None,
        profile: bool,
        started: float,
        keepsakes: bool,
        num_samples: int,
        stop_at: int | None,
        on_score: Callable[[int, float], None] | None,
        stop: threading.Event | None,
        clock: Callable[[], float],
        held: contextlib.ExitStack,
    ) -> None:
        self._config, self._manifest = config, manifest
        self._mirror, self._directory = mirrored, mirrored.directory
        self._keepsakes, self._num_samples = keepsakes, num_samples
        self._clock = clock
        # Earlier processes' seconds of training, and when this one's began; None until it has resumed.
        self._earlier_seconds = 0.0
        self._started: float | None = started
        self._has_scored = False  # The first score compiles: it does not tell how long the others take.
        self._scoring_seconds: float | None = None
        self._playing_seconds = _PLAY_SECONDS
        self._stop_at, self._on_score, self._stop = stop_at, on_score, stop
        self._monitor = BestMetric()
        self._speed = StepTimer()
        self._signals = GracefulShutdown()
        self._checkpoints = manager.CheckpointManager(
            os.path.join(self._directory, layout.CHECKPOINTS_NAME), max_to_keep=config.max_to_keep
        )
        self._best = manager.CheckpointManager(os.path.join(self._directory, layout.BEST_NAME), max_to_keep=1)
        self._saver = manager.AsyncCheckpointer()
        if config.evaluate_every and manifest.notes("validation") <= manifest.performances("validation"):
            raise UserError(
                f"{manifest.directory}: the validation split has nothing to score: give --evaluate_every=0 to train "
                "without scores"
            )
        devices = configure_devices(config, cluster)
        train = load_table(manifest, "train")
        # Which performances of the split are used; all, where nothing is left out.
        self._performances = select_fraction(len(train.lengths), config.train_fraction)
        if len(self._performances) < len(train.lengths):
            train = train.subset(self._performances)
        validation = load_table(manifest, "validation") if config.evaluate_every else None
        if cluster:
            logger.info(
                f"worker {cluster.index} of {cluster.size}, waiting for all: {', '.join(cluster.workers)}",
                extra={"figures": {"worker": cluster.index, "workers": cluster.size}},
            )
        # Several hosts must have found each other before TensorFlow runs its first operation.
        self._strategy = create_strategy(devices, cluster)
        self._windows = WindowSampler(train, config)
        self._windows.require_fit()
        self._workers = Workers(self._strategy, cluster)
        self._require_same_run()
        if validation is not None and cluster:
            validation = validation.subset(range(cluster.index, len(validation.lengths), cluster.size))
        self._validation = validation
        with self._strategy.scope():
            self._state = TrainState(config, self._windows, self._strategy)
        self._scorer = Scorer(self._state.model)
        self._call_train_steps = 1
        self._is_chief = self._workers.is_chief
        if self._is_chief:
            # Only now, that the config was found to fit data and devices.
            versions = {
                "sostenuto": sostenuto.__version__,
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "numpy": np.__version__,
            }
            held.enter_context(self._mirror.begin(config, manifest, versions))
            layout.update_run(
                self._directory,
                {
                    "device": device_name(devices),
                    "hosts": self._workers.size,
                    "parameters": self._parameters,
                    "targets_per_epoch": self._windows.targets_per_epoch,
                    "pitch_range": self._windows.pitch_range,
                },
            )
        # Whether what is due at this train_step is still to be done: a signal may come before it is.
        self._due = False
        self._train_step = self._saved = self._resume()
        self._plan = self._load_plan()
        self._cosine: tuple[float, float] | None = None
        if self._is_chief:
            written = self._train_step - 1 if self._due else self._train_step
            self._reports: NoReports = Reports(self._directory, written, config, num_samples)
        else:
            self._reports = NoReports()
        self._profile = _Profile(self._train_step, self._reports) if profile else None
        self._announce(devices)

    @property
    def _parameters(self) -> int:
        return sum(int(np.prod(variable.shape)) for variable in self._state.model.trainable_variables)

    def _announce(self, devices: list[str]) -> None:
        config, replicas = self._config, self._strategy.num_replicas_in_sync
        hosts = f" on each of {self._workers.size} hosts" if self._workers.size > 1 else ""
        accumulated = f", {config.accumulation_steps} of them a train_step" if config.accumulation_steps > 1 else ""
        self._reports.say(
            f"{config.preset}: {self._parameters:,} parameters, {config.precision}, "
            f"{len(devices)} x {devices[0][:3]}{hosts}, "
            f"global batch {config.batch_size} = {config.batch_size // replicas} x {replicas} replicas{accumulated}, "
            f"{self._windows.per_epoch:,} windows and {self._windows.targets_per_epoch:,} notes an epoch",
            parameters=self._parameters,
            precision=config.precision,
            replicas=replicas,
            global_batch_size=config.batch_size,
        )
        if self._train_step:
            self._reports.say(f"resumed at train_step {self._train_step:,}", train_step=self._train_step)
        self._report_learning_rate()

    def _report_learning_rate(self) -> None:
        """Reports that the learning rate does not fall until the end of the run, if that is so."""
        horizon = self._plan.shortened_horizon or self._plan.horizon
        if self._config.schedule == "cosine" and horizon is not None and self._plan.steps not in (None, horizon):
            self._reports.say(
                f"the learning rate falls until train_step {horizon:,}, as it was first planned, and stays at its end. "
                "For better weights plan the whole length at the start, in another --workdir",
                level=progress.NOTICE,
            )

    def _require_same_run(self) -> None:
        """Checks that all workers were given the same config and dataset."""
        if self._workers.size == 1:
            return
        mine = layout.fingerprint(self._config, self._manifest)
        # Equal numbers have no variance; they are small enough for their squares' sum to be exact.
        total, squares = map(int, self._workers.sum([mine, mine * mine]))
        if total * total != squares * self._workers.size:
            raise UserError(
                f"worker {self._workers.index} of {self._workers.size}: the workers were given different configs or "
                "datasets: expected the same flags and data on every host"
            )

    def _resume(self) -> int:
        """Restores the newest checkpoint, the one that the chief found; returns its train_step."""
        saved = self._checkpoints.latest() if self._is_chief else None
        (train_step,) = map(int, self._workers.broadcast_from_chief([saved.train_step if saved else 0]))
        if not train_step:
            return 0
        if saved is None:
            self._mirror.fetch(train_step)
            saved = self._checkpoints.of_train_step(train_step)
        manager.check_config(saved, self._config)
        manager.restore(saved, self._state.variables())
        self._monitor = BestMetric(**saved.extra["monitor"])
        self._due = saved.extra["due"]
        # Start-up and compilation are the first process's part of the time: an interruption takes none of it.
        self._earlier_seconds, self._started = saved.extra["seconds"], None
        return train_step

    # The plan: how many train_steps in all.

    def _load_plan(self) -> Plan:
        """The plan on record; its length is open where it follows from `max_minutes` and a speed not yet measured."""
        if not self._is_chief:
            return Plan()  # The chief sends it before the first call.
        config, run = self._config, layout.load_run(self._directory)
        plan = Plan.from_record(run)
        if config.max_minutes:
            is_same = run.max_minutes == config.max_minutes
            return plan if is_same else dataclasses.replace(plan, steps=None, evaluate_every=None)
        steps = config.steps or self._epoch_end(config.epochs)
        plan = dataclasses.replace(plan, evaluate_every=None)
        plan = plan.with_steps(steps, self._train_step, warmup_steps=config.warmup_steps, horizon_from=0)
        self._record_plan(plan)
        return plan

    def _record_plan(self, plan: Plan) -> None:
        layout.update_run(self._directory, {**plan.to_record(), "max_minutes": self._config.max_minutes})

    @property
    def _used_seconds(self) -> float:
        """Seconds of training, over all processes of the run."""
        return self._earlier_seconds + (0.0 if self._started is None else self._clock() - self._started)

    def _keep_to_the_clock(self) -> None:
        """Fixes the length of a run that lasts `max_minutes`, or shortens it where it would last longer."""
        seconds, plan = self._config.max_minutes * 60, self._plan
        if not seconds or not self._is_chief or plan.steps == self._train_step:
            return
        left = seconds - self._used_seconds
        needed = min(_MEASURE_SECONDS, _MEASURE_SHARE * (left + self._speed.measured_seconds))
        is_measured = self._speed.measured_seconds >= max(needed, 1e-9)
        if self._speed.recent_seconds_per_step is None and left > 0:
            return
        fitting = self._steps_that_fit(left)
        is_last_call = fitting <= self._call_train_steps
        if plan.steps is None:
            if is_measured or is_last_call:
                self._fix_plan(left)
        elif self._train_step + fitting < plan.steps:
            if is_measured and plan.shortened_from is None and self._used_seconds >= _SHORTEN_AFTER * seconds:
                steps = self._train_step + max(self._steps_that_fit(left * _PLANNED_SHARE), 1)
                self._reports.say(
                    f"slower than planned: the run ends at train_step {steps:,} instead of {plan.steps:,}",
                    train_step=self._train_step,
                    planned=steps,
                )
                self._change_plan(plan.shortened(steps, self._train_step))
            elif is_last_call:
                self._change_plan(dataclasses.replace(plan, steps=self._train_step + max(fitting, 1)))

    def _fix_plan(self, left: float) -> None:
        """Fixes the length, and how often to score, from the measured speed and the time that is left."""
        plan, config = self._plan, self._config
        steps = self._train_step + max(self._steps_that_fit(left * _PLANNED_SHARE), 1)
        if self._validation is not None and not config.patience and self._speed.seconds_per_step is not None:
            every = affordable_interval(
                steps,
                config.evaluate_every,
                seconds_per_step=self._speed.seconds_per_step,
                scoring_seconds=self._seconds_of_scoring(),
                scores=_SCORES,
                share=_SCORING_SHARE,
            )
            plan = self._plan = dataclasses.replace(plan, evaluate_every=every)
            steps = self._train_step + max(self._steps_that_fit(left * _PLANNED_SHARE), 1)
        self._change_plan(
            plan.with_steps(steps, self._train_step, warmup_steps=config.warmup_steps, horizon_from=self._train_step)
        )
        self._report_learning_rate()

    def _change_plan(self, plan: Plan) -> None:
        """Follows another plan from this train_step on."""
        # What came before must not be trained again under this plan: so the checkpoint comes before the plan is on
        # record.
        self._save()
        self._saver.wait()
        self._mirror.wait()
        self._record_plan(plan)
        self._plan = plan
        self._reports.start(plan.steps, self._train_step)

    def _seconds_of_scoring(self) -> float:
        """How long a score of the validation split takes: as measured, or as the speed of training suggests."""
        if self._validation is None:
            return 0.0
        if self._scoring_seconds is not None:
            return self._scoring_seconds
        # Reading forward only costs about a third of training on as many notes, so this leaves a margin.
        notes_per_step = self._windows.targets_per_epoch / self._windows.per_epoch * self._config.windows_per_train_step
        notes = len(self._validation.notes) * self._workers.size
        return notes / notes_per_step * (self._speed.seconds_per_step or 0.0) / 2

    def _costs(self) -> dict[str, Any]:
        """What train_steps and the scores between them cost, for the functions of `trainer.engine.run_length`."""
        every = self._evaluate_every or OPEN
        scoring = self._seconds_of_scoring()
        if self._plays and self._validation is not None:
            scoring += self._playing_seconds * every / self._config.evaluate_every
        # A call that was not measured has compiled; one train_step at a time is then all that is known to fit.
        per_step = self._speed.recent_seconds_per_step or math.inf
        return {"seconds_per_step": per_step, "scoring_seconds": scoring, "evaluate_every": every}

    def _steps_that_fit(self, seconds: float) -> int:
        return steps_that_fit(seconds, self._train_step, **self._costs())

    def _seconds_left(self) -> float | None:
        """How long the rest of the run takes, scores included; None where that is not known."""
        if self._plan.steps is None or self._speed.seconds_per_step is None:
            return None
        return seconds_left(self._plan.steps, self._train_step, **self._costs())

    @property
    def _plays(self) -> bool:
        """True if the model plays for TensorBoard."""
        return self._keepsakes and self._num_samples > 0

    @property
    def _evaluate_every(self) -> int:
        """Train_steps between two scores; 0 scores nothing."""
        configured = self._config.evaluate_every
        return min(self._plan.evaluate_every or configured, configured)

    # Boundaries: train_steps at which something happens between calls.

    def _epoch_end(self, epoch: int) -> int:
        """The train_step at which so many epochs are done; a batch may straddle two."""
        return -(-epoch * self._windows.per_epoch // self._config.windows_per_train_step)

    def _next(self, train_step: int, every: int) -> int:
        """The next train_step after this one that is a multiple of `every`, or an epoch's end where that is 0."""
        if every:
            return next_multiple(train_step, every)
        return self._epoch_end(train_step * self._config.windows_per_train_step // self._windows.per_epoch + 1)

    def _is_due(self, every: int) -> bool:
        """Whether what is done every so many train_steps (0: every epoch) is to be done now."""
        return self._next(self._train_step - 1, every) == self._train_step

    # The loop.

    def train(self) -> RunResult:
        """Trains to the end, or to a signal."""
        with self._signals, self._reports, self._saver, self._profile or contextlib.nullcontext():
            leaves_others = False
            self._reports.start(self._plan.steps, self._train_step)
            self._sync_workers()
            try:
                if self._due:
                    self._do_what_is_due()
                while (ended := self._stop_reason()) is None:
                    self._advance()
                reason = ended
            except ShutdownRequested:
                # The others wait for a train_step that will not come, and learn of it as this one ends.
                reason, leaves_others = str(self._signals.received), self._workers.size > 1
            self._save()
            self._saver.wait()
            if reason in ("steps", "patience"):
                reason = self._finish(reason)
            if self._is_chief:
                self._reports.sync()
                self._mirror.settle()
        # No worker leaves before all is written: should the chief die until then, all are started again.
        is_final = float(reason in ("steps", "patience"))
        if not leaves_others:
            (is_final,) = self._workers.broadcast_from_chief([is_final])
        if not is_final and reason != "told":
            reason = self._signals.received or "peer"
            told = "another worker was told to end" if reason == "peer" else reason
            saved = f"saved at train_step {self._train_step:,}" if self._train_step else "nothing was trained yet"
            logger.log(
                progress.NOTICE,
                f"{told}: {saved}; the same command goes on from there",
                extra={"figures": {"train_step": self._train_step, "reason": reason}},
            )
        return self._result(reason)

    def _sync_workers(self) -> bool:
        """Lets the workers agree on all that they have to before a call; returns whether one was told to end."""
        told = float(bool(self._signals.received))
        if self._workers.size > 1:
            decided = [self._call_train_steps, *self._plan.to_numbers()]
            told, train_steps, *plan = self._workers.sum([told, *(decided if self._is_chief else [0] * len(decided))])
            self._call_train_steps, self._plan = int(train_steps), Plan.from_numbers(plan)
        return told > 0

    def _stop_reason(self) -> str | None:
        """Why the run ends now; None if it goes on."""
        told = self._sync_workers()
        if self._plan.steps is not None and self._train_step >= self._plan.steps:
            return "steps"
        if self._config.patience and self._monitor.since_best >= self._config.patience:
            return "patience"
        if self._stop_at is not None and self._train_step >= self._stop_at:
            return "told"
        if self._stop is not None and self._stop.is_set():
            return "told"
        if told:
            return self._signals.received or "peer"
        return None

    def _advance(self) -> None:
        """Runs one call of train_steps, then what is due."""
        config = self._config
        due_every = [config.log_every, config.checkpoint_every]
        if config.evaluate_every:
            due_every.append(self._evaluate_every)
        boundaries = [self._next(self._train_step, every) for every in due_every]
        ends = [*self._plan.boundaries(), *([] if self._stop_at is None else [self._stop_at])]
        boundaries.extend(end for end in ends if end > self._train_step)
        if self._profile is not None:
            boundaries.extend(self._profile.boundaries(self._train_step))
        train_steps = min(min(boundaries) - self._train_step, self._call_train_steps)
        self._call(train_steps)
        self._due = True
        self._do_what_is_due()
        self._keep_to_the_clock()

    def _call(self, train_steps: int) -> None:
        """Does so many train_steps."""
        self._set_cosine()
        begun = self._clock()
        if self._speed.compiled:
            self._state.run(tf.constant(train_steps))
        else:
            # Compiling takes a while, and there is nothing yet to be saved.
            with self._reports.phase("compiling the first train_steps"), self._signals.cancellable():
                self._state.run(tf.constant(train_steps))
        self._train_step = int(self._state.train_step.numpy())
        self._require_finite()
        now = self._clock()
        if self._started is None:
            self._started = now
        if self._speed.compiled:
            self._call_train_steps = max(int(_CALL_SECONDS * train_steps / max(now - begun, 1e-9)), 1)
        self._speed.count(train_steps, now - begun)
        self._reports.count(train_steps, now - begun, self._seconds_left())
        if self._profile is not None:
            self._profile.follow(self._train_step)

    def _set_cosine(self) -> None:
        """Lets the learning rate of the next train_steps fall as the plan says."""
        cosine = self._plan.cosine(self._train_step, self._config.warmup_steps)
        if cosine != self._cosine:
            self._state.fall_begin.assign(cosine[0])
            self._state.horizon.assign(cosine[1])
            self._cosine = cosine

    def _do_what_is_due(self) -> None:
        config = self._config
        ends = self._train_step in (self._plan.steps, self._stop_at)
        scores = {}
        if self._validation is not None and (ends or self._is_due(self._evaluate_every)):
            scores = self._score(self._validation)
            # The first score of each `evaluate_every` train_steps.
            if ends or self._train_step % config.evaluate_every < self._evaluate_every:
                self._play()
        if scores or ends or self._is_due(config.log_every):
            losses = self._report(scores)
            measured = scores.get("val_nats") if config.monitor == "val_nats" else losses["loss"]
            if measured is not None and self._monitor.note(measured, self._train_step):
                self._save_best(measured)
        if scores and self._on_score is not None and self._monitor.best is not None:
            self._on_score(self._train_step, self._monitor.best)
        self._due = False
        if self._is_due(config.checkpoint_every):
            self._save()

    def _require_finite(self) -> None:
        found = self._state.not_finite()
        if found is not None:
            performance = next(
                performance
                for index, performance in enumerate(self._manifest.read_performances("train"))
                if index == self._performances[found.performance]
            )
            raise UserError(
                f"train_step {found.train_step + 1}: the {found.what} of {found.field} is infinite or not a number, "
                f"worst in the window of notes {found.first_note} to {found.last_note} of {performance.path}: begin "
                "anew in another workdir with a lower --learning_rate, or with --clip_norm"
            )

    def _save(self) -> None:
        """Has a checkpoint saved, unless this train_step's is."""
        if self._train_step == self._saved or not self._is_chief:
            return
        self._reports.sync()
        extra = {
            "monitor": dataclasses.asdict(self._monitor),
            "due": self._due,
            "seconds": self._used_seconds,
            "config": dataclasses.asdict(self._config),
        }
        variables = self._state.variables()
        self._saver.save(self._checkpoints, self._train_step, variables, extra, then=self._mirror.publish)
        self._saved = self._train_step

    def _save_best(self, score: float | None) -> None:
        if self._is_chief:
            extra = {"score": score, "config": dataclasses.asdict(self._config)}
            with self._state.scored_weights():
                self._saver.save(self._best, self._train_step, manager.model_variables(self._state.model), extra)

    def _score(self, validation: NoteTable) -> dict[str, float]:
        """Scores the validation split, each worker its share of the performances."""
        begun = self._clock()
        self._reports.say_once("scoring the validation split")
        with self._state.scored_weights():
            if self._workers.size == 1:
                with self._signals.cancellable():
                    totals = sum_scores(self._scorer.score(validation, activity="scoring validation"))
            else:
                # A worker that left others waiting for its share would break them all.
                totals = self._workers.sum(sum_scores(self._scorer.score(validation)))
        if self._has_scored:
            self._scoring_seconds = min(self._clock() - begun, self._scoring_seconds or math.inf)
        self._has_scored = True
        scores = compute_metrics(totals)
        nats = scores.nats_per_note
        return {
            "val_nats": nats["total"],
            **{f"val_{field}_nll": nats[field] for field in ("pitch", "step", "duration")},
            "val_pitch_top1": scores.pitch_top1,
        }

    def _play(self) -> None:
        """Lets the model play for TensorBoard."""
        if not self._is_chief or not self._plays or self._signals.received:
            return
        begun = self._clock()
        with self._state.scored_weights(), self._reports.phase("playing for TensorBoard"):
            self._reports.play(self._state.model, self._train_step, self._manifest)
        self._playing_seconds = min(self._clock() - begun, self._playing_seconds)

    def _report(self, scores: dict[str, float]) -> dict[str, Any]:
        """Writes a report of the train_steps since the last one, and clears its sums."""
        self._set_cosine()
        *losses, objective, targets = self._state.sums.numpy().tolist()
        self._state.sums.assign(tf.zeros_like(self._state.sums))
        names = self._state.model.heads.loss_names
        report = {
            "train_step": self._train_step,
            "epoch": round(self._train_step * self._config.windows_per_train_step / self._windows.per_epoch, 4),
            "loss": objective / targets,
            **{names[field]: total / targets for field, total in zip(self._state.fields, losses, strict=True)},
            "learning_rate": float(self._state.optimizer.learning_rate),
            **scores,
        }
        self._reports.write(report, targets, self._seconds_left())
        return report

    def _finish(self, reason: str) -> str:
        """Ends a run that is done: the best weights, the export, the result; returns why it ended after all."""
        if not self._is_chief:
            return reason
        if self._monitor.best is None:
            # Nothing else chose: the last weights are the best.
            self._save_best(None)
        self._saver.wait()
        if self._keepsakes:
            try:
                with self._signals.cancellable():
                    self._reports.end_training()
                    with self._reports.phase("exporting the best weights"):
                        export_model(self._directory)
                    if self._num_samples:
                        self._leave_samples()
                    with self._reports.phase("writing the report's page"):
                        page.write(self._directory, named=self._mirror.named, result=self._result(reason))
            except ShutdownRequested:
                return self._signals.received or reason
        self._result(reason).save(os.path.join(self._directory, layout.RESULT_NAME))
        return reason

    def _leave_samples(self) -> None:
        """Lets the best weights play the samples."""
        best = self._best.latest()
        assert best is not None
        manager.restore(best, manager.model_variables(self._state.model))
        self._reports.leave_samples(self._state.model, best.train_step, self._manifest)

    def _result(self, reason: str) -> RunResult:
        monitor = self._monitor
        return RunResult(self._train_step, monitor.best, monitor.best_train_step, self._config.monitor, reason)


class _Profile:
    """A trace of a few train_steps, once compilation is over; the chief's, but all workers stop where it does."""

    def __init__(self, train_step: int, reports: NoReports) -> None:
        self._first, self._last = (train_step + offset for offset in _PROFILED)
        self._reports = reports
        self._traces = False

    def __enter__(self) -> "_Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def boundaries(self, train_step: int) -> list[int]:
        """The train_steps after this one at which the trace begins and ends."""
        return [boundary for boundary in (self._first, self._last) if boundary > train_step]

    def follow(self, train_step: int) -> None:
        """Begins or ends the trace where this is the train_step for it."""
        if train_step == self._first and self._reports.summaries:
            tf.profiler.experimental.start(self._reports.summaries)
            self._traces = True
        elif train_step >= self._last:
            self._stop()

    def _stop(self) -> None:
        if self._traces:
            tf.profiler.experimental.stop()
            self._traces = False
            self._reports.say(f"profiled from train_step {self._first + 1:,} on: {self._reports.summaries}")
