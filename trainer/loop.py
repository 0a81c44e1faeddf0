"""The training loop: one for a CPU and for many GPUs.

K train_steps run inside one `tf.function`. Each replica makes its own part of the batch from the train_step alone,
gradients of summed losses are all-reduced, then divided by the global count of targets, checked for finiteness and
clipped; only then does the optimizer see them. So the number of replicas, the cut into calls, and any kill and resume
leave the result as it is.
"""

import dataclasses
import fcntl
import json
import math
import os
import signal
import sys
import time
from typing import Any, BinaryIO

import keras
import numpy as np
import tensorflow as tf

from notes import storage
from notes.errors import UserError
from notes.manifest import Manifest
from trainer import checkpoints
from trainer.config import CHANGEABLE_ON_RESUME, CONFIG_NAME, Config
from trainer.dataset import NoteTable, Windows, load_table
from trainer.model import NextNoteModel, build_model, model_variables
from trainer.reports import Reports
from trainer.scoring import Scorer, summarize
from trainer.stateless import Dropout
from trainer.strategy import configure_devices, create_strategy
from trainer.workdir import BEST_NAME, CHECKPOINTS_NAME, RUN_NAME, load_run

RESULT_NAME = "result.json"

_CALL_SECONDS = 0.5  # a call into TensorFlow lasts about so long, so that a signal is answered soon
_MEASURE_SECONDS = 4.0  # how long the speed is measured before the run's length is fixed
_LOCK_NAME = ".lock"
_NEVER = 2**31  # a train_step that no run reaches
_FLOOR = 0.01  # the cosine schedule ends at this share of the peak learning rate
_LOSS_SCALE_START = 2.0**15
_LOSS_SCALE_PATIENCE = 2000  # train_steps without overflow after which the loss scale doubles


class WarmupThen(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then constant or cosine down to a hundredth of the peak at the horizon.

    Args:
        config: gives peak, warm-up and form.
        horizon: scalar variable, the train_step at which the cosine ends.
    """

    def __init__(self, config: Config, horizon: tf.Variable) -> None:
        super().__init__()
        self._config = config
        self._horizon = horizon

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of the update after `step` updates, float32."""
        config = self._config
        step = tf.cast(step, tf.float32)
        warmup = tf.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
        if config.schedule == "constant":
            return config.learning_rate * warmup
        after = tf.maximum(step - config.warmup_steps, 0)
        span = tf.maximum(tf.cast(self._horizon, tf.float32) - config.warmup_steps, 1)
        cosine = 0.5 * (1 + tf.cos(math.pi * tf.minimum(after / span, 1)))
        return config.learning_rate * warmup * (_FLOOR + (1 - _FLOOR) * cosine)


class _TakesReducedGradients:
    """Keras' optimizers sum the gradients over replicas themselves; ours come summed, checked and clipped."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


class _Adam(_TakesReducedGradients, keras.optimizers.Adam):
    pass


class _AdamW(_TakesReducedGradients, keras.optimizers.AdamW):
    pass


def _build_optimizer(config: Config, model: NextNoteModel, horizon: tf.Variable) -> keras.optimizers.Optimizer:
    schedule = WarmupThen(config, horizon)
    if config.optimizer == "adamw":
        optimizer = _AdamW(schedule, weight_decay=config.weight_decay)
        # Decay shrinks directions that the data does not hold up; biases, norms and embeddings have no such direction.
        optimizer.exclude_from_weight_decay(
            [variable for variable in model.trainable_variables if "kernel" not in variable.name]
        )
    else:
        optimizer = _Adam(schedule)
    # Loading a checkpoint into an optimizer without variables would drop its state in silence.
    optimizer.build(model.trainable_variables)
    return optimizer


class TrainState:
    """Everything that a train_step reads and writes, and the train_step itself.

    To be built under the strategy's scope.

    Attributes:
        model: the model.
        train_step: int64, train_steps done.
        horizon: float32, the train_step at which the learning rate's cosine ends.
        sums: float64 `[losses + 2]`, since the last report: each field's loss summed, the weighted sum, the targets.
        not_finite: int64, the first train_step whose loss or gradient was not finite, or `_NEVER`.
        run: does so many train_steps, given as an int32 scalar tensor.
    """

    def __init__(self, config: Config, windows: Windows, strategy: tf.distribute.Strategy) -> None:
        self._config, self._windows, self._strategy = config, windows, strategy
        keras.utils.set_random_seed(config.seed)
        self.model = build_model(config)
        self.fields = tuple(self.model.heads.losses_of)
        self.train_step = tf.Variable(0, dtype=tf.int64, trainable=False, name="train_step")
        self.horizon = tf.Variable(float(_NEVER), trainable=False, name="horizon")
        self.sums = tf.Variable(tf.zeros([len(self.fields) + 2], tf.float64), trainable=False, name="sums")
        self.not_finite = tf.Variable(_NEVER, dtype=tf.int64, trainable=False, name="not_finite")
        scales = config.precision == "mixed_float16"
        self._loss_scale = tf.Variable(_LOSS_SCALE_START if scales else 1.0, trainable=False, name="loss_scale")
        self._good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="good_steps")
        self._scales = scales
        self._weights = {field: getattr(config, f"{field}_weight") for field in self.fields}
        self.optimizer = _build_optimizer(config, self.model, self.horizon)
        self.run = tf.function(self._run, autograph=False, input_signature=(tf.TensorSpec([], tf.int32),))

    def variables(self) -> checkpoints.Variables:
        """All that a resumed run needs."""
        return {
            **model_variables(self.model),
            "optimizer": [variable.value for variable in self.optimizer.variables],
            "run": [self.train_step, self.horizon, self.sums, self._loss_scale, self._good_steps],
        }

    def _run(self, train_steps: tf.Tensor) -> None:
        def one(train_step: tf.Tensor) -> tuple[tf.Tensor]:
            # As a loop variable, not read from the state, the train_step lets the next batch be made meanwhile.
            gradients, totals, norm = self._strategy.run(self._replica_step, args=(train_step,))
            # Every replica returns the same; a decision for all of them is taken outside of them.
            totals, norm = (self._strategy.experimental_local_results(value)[0] for value in (totals, norm))
            totals_finite = tf.reduce_all(tf.math.is_finite(totals))
            tf.cond(
                totals_finite & tf.math.is_finite(norm),
                lambda: self._apply(gradients),
                lambda: self._skip(totals_finite),
            )
            self.sums.assign_add(tf.where(totals_finite, totals, 0))
            self.train_step.assign_add(1)
            return (train_step + 1,)

        begin = self.train_step.read_value()
        end = begin + tf.cast(train_steps, tf.int64)
        tf.while_loop(lambda train_step: train_step < end, one, (begin,))

    def _replica_step(self, train_step: tf.Tensor):
        """One replica's part of a train_step; what it returns is the same on every replica.

        Returns:
            The gradients of the mean loss over all targets of the global batch, clipped; each field's loss summed
            over the global batch, the weighted sum and the targets; the gradients' norm before they were clipped.
        """
        config = self._config
        context = tf.distribute.get_replica_context()
        windows = config.batch_size // context.num_replicas_in_sync
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
        first_slot = train_step * config.batch_size + replica * windows
        batch = self._windows.batch(first_slot, windows)
        dropout = Dropout(config.seed, config.dropout, first_slot)
        # Sums are divided by this before the backward pass, to stay within the range of float16.
        nominal = config.batch_size * (config.seq_length if config.positions == "every" else 1)
        variables = [variable.value for variable in self.model.trainable_variables]
        with tf.GradientTape() as tape:
            hidden, _ = self.model.read(batch.inputs, dropout=dropout)
            losses = self.model.heads.losses(hidden[:, -batch.mask.shape[1] :], batch.targets)
            sums = {field: tf.reduce_sum(tf.where(batch.mask, loss, 0)) for field, loss in losses.items()}
            objective = tf.add_n([self._weights[field] * total for field, total in sums.items()])
            scaled = objective / nominal * tf.cast(self._loss_scale, objective.dtype)
        # Embeddings' gradients are sparse; summed as they are, they would be gathered instead of added up.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(scaled, variables)]
        targets = tf.reduce_sum(tf.cast(batch.mask, tf.float64))
        totals = tf.stack([*(tf.cast(total, tf.float64) for total in (*sums.values(), objective)), targets])
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        totals = context.all_reduce(tf.distribute.ReduceOp.SUM, totals)
        factor = nominal / totals[-1] / tf.cast(self._loss_scale, tf.float64)
        gradients = [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        if config.clip_norm:
            shrink = tf.minimum(config.clip_norm / tf.maximum(norm, tf.constant(1e-12, norm.dtype)), 1)
            gradients = [gradient * shrink for gradient in gradients]
        return gradients, totals, norm

    def _apply(self, gradients) -> None:
        self._strategy.run(self.optimizer.apply, args=(gradients,))
        if self._scales:
            self._good_steps.assign_add(1)
            doubles = self._good_steps >= _LOSS_SCALE_PATIENCE
            self._loss_scale.assign(tf.where(doubles, 2 * self._loss_scale, self._loss_scale))
            self._good_steps.assign(tf.where(doubles, tf.zeros_like(self._good_steps), self._good_steps))

    def _skip(self, totals_finite: tf.Tensor) -> None:
        """Leaves the weights as they are; unless a lower loss scale may help, the run cannot go on."""
        hopeless = ~totals_finite | (self._loss_scale <= 1)
        self.not_finite.assign(tf.where(hopeless, tf.minimum(self.not_finite, self.train_step), self.not_finite))
        if self._scales:
            self._loss_scale.assign(tf.maximum(self._loss_scale / 2, 1.0))
            self._good_steps.assign(0)


@dataclasses.dataclass
class Monitor:
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


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended: the content of result.json.

    Attributes:
        train_step: train_steps done.
        best: the best monitored score, or None where none was measured.
        best_train_step: when it was measured.
        monitor: what the score is.
        reason: why the run ended: steps, patience, SIGTERM or SIGINT.
    """

    train_step: int
    best: float | None
    best_train_step: int
    monitor: str
    reason: str


class _Signals:
    """Takes SIGTERM and SIGINT as wishes: the train_step is finished and saved, then the run ends."""

    def __init__(self) -> None:
        self.received: str | None = None

    def __enter__(self) -> "_Signals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # A second Ctrl-C does not wait.
        self.received = signal.Signals(number).name


def train(
    config: Config, manifest: Manifest, workdir: str, *, quiet: bool = False, started: float | None = None
) -> Result:
    """Trains, or goes on training, in a workdir.

    Args:
        config: the run.
        manifest: the dataset.
        workdir: where everything is written; a workdir of the same config is resumed.
        quiet: shows no progress.
        started: `time.monotonic()` when the command began, for `max_minutes`; now by default.

    Raises:
        UserError: the workdir belongs to another config or dataset, the config does not fit the devices or the data,
            or the loss became infinite or not a number.
    """
    started = time.monotonic() if started is None else started
    finished = _finished(config, manifest, workdir)
    if finished is not None:
        if not quiet:
            print(f"{workdir} is finished: {finished.reason} at train_step {finished.train_step:,}", file=sys.stderr)
        return finished
    return _Run(config, manifest, workdir, quiet, started).train()


def _finished(config: Config, manifest: Manifest, workdir: str) -> Result | None:
    """Checks that a workdir is new or this run's; returns the result if there is nothing left to do."""
    config_path, result_path = os.path.join(workdir, CONFIG_NAME), os.path.join(workdir, RESULT_NAME)
    if not storage.exists(config_path):
        # A run that was killed as it began leaves its lock, or a file that was not whole yet.
        names = os.listdir(workdir) if storage.is_directory(workdir) else []
        if any(name != _LOCK_NAME and not storage.TEMPORARY.search(name) for name in names):
            raise UserError(f"{workdir}: is not empty and no workdir of the trainer (it has no {CONFIG_NAME})")
        return None
    before = Config.load(config_path)
    differences = before.differences(config, CHANGEABLE_ON_RESUME)
    if differences:
        raise UserError(
            f"{workdir}: was begun with another config ({'; '.join(differences)} are there and asked for): "
            "use the same, or another workdir"
        )
    if load_run(workdir).get("dataset", manifest.sha256) != manifest.sha256:
        raise UserError(f"{workdir}: was begun on another dataset than {manifest.directory}: use another workdir")
    if before == config and storage.exists(result_path):
        return Result(**json.loads(storage.read_bytes(result_path)))
    return None


def _begin(config: Config, manifest: Manifest, workdir: str) -> BinaryIO:
    """Makes a workdir this run's; returns the open file that keeps other processes out of it."""
    storage.make_directories(workdir)
    lock = open(os.path.join(workdir, _LOCK_NAME), "wb")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(f"{workdir}: another process is training in it: wait for it, or use another workdir") from error
    storage.remove(os.path.join(workdir, RESULT_NAME))
    storage.write_bytes_atomic(os.path.join(workdir, CONFIG_NAME), config.to_json().encode())
    run = {
        **load_run(workdir),
        "dataset": manifest.sha256,
        "data": os.path.abspath(manifest.directory),
        "sustain": manifest.document["options"].get("sustain", "ignore"),
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__},
    }
    storage.write_bytes_atomic(os.path.join(workdir, RUN_NAME), _json(run))
    return lock


class _Run:
    """One run of the loop over a workdir."""

    def __init__(self, config: Config, manifest: Manifest, workdir: str, quiet: bool, started: float) -> None:
        self._config, self._manifest, self._workdir, self._quiet, self._started = (
            config, manifest, workdir, quiet, started
        )  # fmt: skip
        self._monitor = Monitor()
        self._checkpoints = checkpoints.Checkpoints(os.path.join(workdir, CHECKPOINTS_NAME), keep=config.keep)
        self._best = checkpoints.Checkpoints(os.path.join(workdir, BEST_NAME), keep=1)
        if config.evaluate_every and not manifest.notes("validation"):
            raise UserError(
                f"{manifest.directory}: the validation split is empty: give --evaluate_every=0 to train without scores"
            )
        devices = configure_devices(config)
        self._windows = Windows(load_table(manifest, "train"), config)
        self._validation = load_table(manifest, "validation") if config.evaluate_every else None
        self._strategy = create_strategy(devices)
        with self._strategy.scope():
            self._state = TrainState(config, self._windows, self._strategy)
        self._scorer = Scorer(self._state.model)
        self._call_train_steps = 1
        # Only now, that the config was found to fit data and devices.
        self._lock = _begin(config, manifest, workdir)
        self._train_step = self._saved = self._resume()
        self._plan = self._load_plan()
        self._reports = Reports(workdir, self._train_step, quiet=quiet)
        self._announce(devices)

    def _announce(self, devices: list[str]) -> None:
        config = self._config
        weights = sum(int(np.prod(variable.shape)) for variable in self._state.model.trainable_variables)
        self._reports.say(
            f"{config.preset}: {weights:,} parameters, {config.precision}, {len(devices)} x {devices[0][:3]}, "
            f"global batch {config.batch_size} = {config.batch_size // len(devices)} x {len(devices)}, "
            f"{self._windows.per_epoch:,} windows and {self._windows.targets_per_epoch:,} targets an epoch"
        )
        if self._train_step:
            self._reports.say(f"resumed at train_step {self._train_step:,}")
        horizon = int(self._state.horizon.numpy())
        if config.schedule == "cosine" and self._plan is not None and horizon != self._plan:
            self._reports.say(f"the learning rate falls until train_step {horizon:,}, as it was first planned")

    def _resume(self) -> int:
        saved = self._checkpoints.latest()
        if saved is None:
            return 0
        checkpoints.restore(saved, self._state.variables())
        self._monitor = Monitor(**saved.extra["monitor"])
        return saved.train_step

    # The plan: how many train_steps in all.

    def _load_plan(self) -> int | None:
        """The train_steps to do, or None where they follow from `max_minutes` and a speed not yet measured."""
        config, run = self._config, load_run(self._workdir)
        if run.get("horizon"):
            self._state.horizon.assign(run["horizon"])
        if config.max_minutes:
            return run.get("steps") if run.get("max_minutes") == config.max_minutes else None
        steps = config.steps or self._epoch_end(config.epochs)
        self._set_horizon(steps)
        self._record_plan(steps)
        return steps

    def _set_horizon(self, steps: int) -> None:
        """Lets the learning rate fall until the run's end; once it has begun to fall, the end first planned stays."""
        fixed = load_run(self._workdir).get("horizon") if self._train_step > self._config.warmup_steps else None
        self._state.horizon.assign(fixed or steps)

    def _record_plan(self, steps: int) -> None:
        plan = {
            "steps": steps,
            "horizon": int(self._state.horizon.numpy()),
            "max_minutes": self._config.max_minutes,
        }
        storage.write_bytes_atomic(os.path.join(self._workdir, RUN_NAME), _json({**load_run(self._workdir), **plan}))

    def _measured_plan(self, seconds_per_step: float) -> int:
        """As many train_steps as fit into what is left of `max_minutes`, scoring included."""
        left = self._config.max_minutes * 60 - (time.monotonic() - self._started)
        per_step = seconds_per_step
        if self._validation is not None:
            # Reading forward only costs about a third of training on as many notes, so this leaves a margin.
            notes_per_step = self._windows.targets_per_epoch / self._windows.per_epoch * self._config.batch_size
            scoring = len(self._validation.notes) / notes_per_step * seconds_per_step / 2
            left -= scoring
            per_step += scoring / self._config.evaluate_every
        return self._train_step + max(int(left * 0.97 / per_step), 1)

    # Boundaries: train_steps at which something happens between calls.

    def _epoch_end(self, epoch: int) -> int:
        """The train_step at which so many epochs are done; a batch may straddle two."""
        return -(-epoch * self._windows.per_epoch // self._config.batch_size)

    def _next(self, train_step: int, every: int) -> int:
        """The next train_step after this one that is a multiple of `every`, or an epoch's end where that is 0."""
        if every:
            return (train_step // every + 1) * every
        return self._epoch_end(train_step * self._config.batch_size // self._windows.per_epoch + 1)

    def _is_due(self, every: int) -> bool:
        """Whether what is done every so many train_steps (0: every epoch) is to be done now."""
        return self._next(self._train_step - 1, every) == self._train_step

    # The loop.

    def train(self) -> Result:
        """Trains to the end, or to a signal."""
        reason = None
        with _Signals() as signals, self._reports:
            self._reports.start(self._plan, self._train_step)
            while reason is None:
                if self._plan is not None and self._train_step >= self._plan:
                    reason = "steps"
                elif self._config.patience and self._monitor.since_best >= self._config.patience:
                    reason = "patience"
                elif signals.received:
                    reason = signals.received
                else:
                    self._advance()
            self._finish(reason)
        result = Result(
            self._train_step, self._monitor.best, self._monitor.best_train_step, self._config.monitor, reason
        )
        if reason in ("steps", "patience"):
            storage.write_bytes_atomic(os.path.join(self._workdir, RESULT_NAME), _json(dataclasses.asdict(result)))
            self._reports.draw()
        else:
            self._reports.say(
                f"{reason}: saved at train_step {self._train_step:,}; the same command goes on from there"
            )
        return result

    def _advance(self) -> None:
        """Runs one call of train_steps, then what is due."""
        config = self._config
        due_every = [config.log_every, config.checkpoint_every]
        if config.evaluate_every:
            due_every.append(config.evaluate_every)
        boundaries = [self._next(self._train_step, every) for every in due_every]
        if self._plan is not None:
            boundaries.append(self._plan)
        train_steps = min(min(boundaries) - self._train_step, self._call_train_steps)
        begun = time.monotonic()
        self._state.run(tf.constant(train_steps))
        self._train_step = int(self._state.train_step.numpy())
        self._check_finite()
        seconds = time.monotonic() - begun
        first = self._reports.count(train_steps, seconds)
        if not first:
            self._call_train_steps = max(int(_CALL_SECONDS * train_steps / seconds), 1)
        self._do_what_is_due()
        if self._plan is None and self._reports.measured_seconds >= _MEASURE_SECONDS:
            self._plan = self._measured_plan(self._reports.seconds_per_step)
            self._set_horizon(self._plan)
            # What came before was trained under an open horizon, and must not be trained again under this one: so
            # the checkpoint comes before the plan is on record.
            self._save()
            self._record_plan(self._plan)
            self._reports.start(self._plan, self._train_step)

    def _do_what_is_due(self) -> None:
        config = self._config
        ends = self._train_step == self._plan
        scores = {}
        if self._validation is not None and (ends or self._is_due(config.evaluate_every)):
            scores = self._score(self._validation)
        if scores or ends or self._is_due(config.log_every):
            losses = self._report(scores)
            measured = scores.get("val_nats") if config.monitor == "val_nats" else losses["loss"]
            if measured is not None and self._monitor.note(measured, self._train_step):
                self._best.save(self._train_step, model_variables(self._state.model), {"score": measured})
        if self._is_due(config.checkpoint_every):
            self._save()

    def _check_finite(self) -> None:
        step = int(self._state.not_finite.numpy())
        if step != _NEVER:
            raise UserError(
                f"the loss or its gradient is infinite or not a number at train_step {step + 1}: begin anew in another "
                "workdir with a lower --learning_rate, or with --clip_norm"
            )

    def _save(self) -> None:
        """Saves a checkpoint, unless this train_step's is there."""
        if self._train_step != self._saved:
            self._checkpoints.save(
                self._train_step, self._state.variables(), {"monitor": dataclasses.asdict(self._monitor)}
            )
            self._saved = self._train_step

    def _score(self, validation: NoteTable) -> dict[str, float]:
        figures = summarize(self._scorer.score(validation))
        nats = figures["nats_per_note"]
        return {
            "val_nats": nats["total"],
            **{f"val_{field}_nll": nats[field] for field in ("pitch", "step", "duration")},
            "val_pitch_top1": figures["pitch_top1"],
        }

    def _report(self, scores: dict[str, float]) -> dict[str, Any]:
        """Writes a report of the train_steps since the last one, and clears its sums."""
        *losses, objective, targets = self._state.sums.numpy().tolist()
        self._state.sums.assign(tf.zeros_like(self._state.sums))
        names = self._state.model.heads.losses_of
        report = {
            "train_step": self._train_step,
            "epoch": round(self._train_step * self._config.batch_size / self._windows.per_epoch, 4),
            "loss": objective / targets,
            **{names[field]: total / targets for field, total in zip(self._state.fields, losses, strict=True)},
            "learning_rate": float(self._state.optimizer.learning_rate),
            **scores,
        }
        self._reports.write(report, targets)
        return report

    def _finish(self, reason: str) -> None:
        """Leaves a checkpoint of the last train_step, and where nothing else chose, the last weights as the best."""
        self._save()
        if self._monitor.best is None and reason == "steps":
            self._best.save(self._train_step, model_variables(self._state.model), {"score": None})


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
