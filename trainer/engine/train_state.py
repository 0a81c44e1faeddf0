"""State that a train_step reads and writes, and the train_steps themselves, for one CPU, many GPUs and many hosts.

K train_steps run inside one `tf.function`. The gradients of summed losses are all-reduced, divided by the global number
of targets, checked for finiteness and clipped; only then does the optimizer apply them. So the number of replicas, the
number of calls, and any kill and resume leave the result unchanged.

Counter, learning rate and batches are computed on the CPU, and within a train_step nothing there waits for a result:
the CPU prepares the next batch and launches kernels ahead while a GPU computes.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from trainer.checkpoints.manager import Variables, model_variables
from trainer.config import Config
from trainer.data.windows import Batch, WindowSampler
from trainer.engine.nonfinite import NonFinite, find_nonfinite
from trainer.engine.optimizer import Adam, assign, learning_rate
from trainer.engine.run_length import OPEN
from trainer.engine.train_step import ReplicaStep
from trainer.model.heads import PitchRange
from trainer.model.next_note import NextNoteModel, build_model
from trainer.model.parts import copy_weights, freeze_parts


class LossSums(NamedTuple):
    """Sums over the targets since the last report."""

    by_field: dict[str, float]  # the loss of each field
    objective: float  # the weighted loss
    targets: float  # the number of targets


class TrainState:
    """State of training; create it under the strategy's scope.

    With mixed_float16, the loss scale doubles after `loss_scale_patience` train_steps without overflow. `build` makes
    the model that is trained.

    Attributes:
        graph: the `tf.function` of `run`, to examine.
    """

    def __init__(
        self,
        config: Config,
        windows: WindowSampler,
        strategy: tf.distribute.Strategy,
        *,
        loss_scale: float = 2.0**15,
        loss_scale_patience: int = 2000,
        build: Callable[[Config, PitchRange, Sequence[str]], NextNoteModel] = build_model,
    ) -> None:
        self._config, self._strategy, self._loss_scale_patience = config, strategy, loss_scale_patience
        self.model = build(config, windows.pitch_range, windows.composers)
        freeze_parts(self.model, config.freeze)
        self.train_step = tf.Variable(0, dtype=tf.int64, trainable=False, name="train_step")
        self._lr_decay = float(config.warmup_steps), float(OPEN)
        sums = tf.zeros([len(self.model.heads.loss_names) + 2], tf.float64)
        self.sums = tf.Variable(sums, trainable=False, name="sums")
        self._not_finite = tf.Variable(False, trainable=False, name="not_finite")
        self._scales = config.precision == "mixed_float16"
        self._loss_scale = tf.Variable(loss_scale if self._scales else 1.0, trainable=False, name="loss_scale")
        self._good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="good_steps")
        self._optimizer = Adam(config, self.model)
        self._step = ReplicaStep(config, windows, self.model, self._optimizer.weights)
        scalar = tf.TensorSpec([], tf.float32)
        self.graph = tf.function(
            self._run, autograph=False, input_signature=(tf.TensorSpec([], tf.int64), scalar, scalar)
        )
        self._swap_averages = tf.function(lambda: strategy.run(self._optimizer.swap_averages), autograph=False)
        self._reset_averages = tf.function(lambda: strategy.run(self._optimizer.reset_averages), autograph=False)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next train_step."""
        return float(learning_rate(self._config, self.train_step.read_value(), *self._lr_decay))

    def variables(self) -> Variables:
        """Returns all variables that a resumed run needs."""
        return {
            **model_variables(self.model),
            "optimizer": self._optimizer.variables(),
            "ema": self._optimizer.averages,
            "run": [self.train_step, self.sums, self._loss_scale, self._good_steps],
        }

    def start_from(self, source: NextNoteModel) -> None:
        """Sets the weights, and their averages, to those of another model."""
        copy_weights(source, self.model)
        if self._optimizer.averages:
            self._reset_averages()

    def set_lr_decay(self, begin: float, end: float) -> None:
        """Sets the train_steps between which the learning rate of the next train_steps decays."""
        self._lr_decay = float(begin), float(end)

    def run(self, train_steps: int) -> None:
        """Runs train_steps; after a loss or gradient that is not finite, the rest changes nothing."""
        with tf.device("CPU:0"):
            self.graph(tf.constant(train_steps, tf.int64), *map(tf.constant, self._lr_decay))

    def pop_sums(self) -> LossSums:
        """Returns the sums of losses since the last report, and clears them."""
        *losses, objective, targets = self.sums.numpy().tolist()
        self.sums.assign(tf.zeros_like(self.sums))
        return LossSums(dict(zip(self._step.fields, losses, strict=True)), objective, targets)

    @contextlib.contextmanager
    def scored_weights(self) -> Iterator[None]:
        """Puts the weights to score, keep and export into the model until exit: the average, if there is one."""
        swap = self._swap_averages if self._optimizer.averages else lambda: None
        swap()
        try:
            yield
        finally:
            swap()

    def not_finite(self) -> NonFinite | None:
        """Returns the reason why the run stopped before its next train_step, or None if it did not."""
        if not self._not_finite.numpy():
            return None
        return find_nonfinite(self._step, int(self.train_step.numpy()), self._config.windows_per_train_step)

    def _run(self, train_steps: tf.Tensor, decay_from: tf.Tensor, decay_steps: tf.Tensor) -> None:
        """Runs train_steps on all replicas."""

        def run_step(train_step: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, Batch]:
            # A loop waits for all of a train_step before the next. So the next batch is made within this one.
            with tf.device("CPU:0"):
                rate = learning_rate(self._config, train_step, decay_from, decay_steps)
            batch = self._strategy.run(self._run_replica, args=(train_step, batch, rate))
            with tf.device("CPU:0"):
                return train_step + 1, batch

        def is_left(train_step: tf.Tensor, batch: Batch) -> tf.Tensor:
            with tf.device("CPU:0"):
                return train_step < end

        self._strategy.run(self._optimizer.load)
        begin = self.train_step.read_value()
        with tf.device("CPU:0"):
            begin = tf.identity(begin)
            end = begin + train_steps
        batch = self._strategy.run(self._step.first_batch, args=(begin,))
        tf.while_loop(is_left, run_step, (begin, batch))

    def _run_replica(self, train_step: tf.Tensor, batch: Batch, rate: tf.Tensor) -> Batch:
        """Runs a train_step on a replica; returns the next batch.

        It has no branch, for which a GPU would wait. A run that cannot continue keeps its state from before the failed
        train_step: all later ones change nothing but the loss scale.
        """
        loss_scale = self._loss_scale.read_value()
        gradient, totals, following = self._step(train_step, batch, loss_scale)
        # A batch may hold nothing but the ends of performances.
        factor = self._step.nominal_targets / tf.maximum(totals[-1], 1) / tf.cast(loss_scale, tf.float64)
        factor = tf.cast(factor, gradient.dtype)
        norm = factor * tf.sqrt(2 * tf.nn.l2_loss(gradient))
        totals_finite = tf.reduce_all(tf.math.is_finite(totals))
        is_finite = totals_finite & tf.math.is_finite(norm)
        stopped = self._not_finite.read_value()
        # A lower loss scale may help a gradient, but not a loss.
        stops = stopped | ~totals_finite | (~is_finite & (loss_scale <= 1))
        is_applied = is_finite & ~stopped
        if self._config.clip_norm:
            factor *= tf.minimum(self._config.clip_norm / tf.maximum(norm, tf.constant(1e-12, norm.dtype)), 1)
        # 0 where nothing is applied, even for a gradient that is infinite or not a number.
        gradient = tf.math.multiply_no_nan(gradient, tf.where(is_applied, factor, 0))
        self._optimizer.update(gradient, rate, is_applied)
        if self._scales:
            self._update_loss_scale(loss_scale, is_applied)
        assign(self._not_finite, stops)
        assign(self.sums, self.sums.read_value() + tf.where(stops, tf.zeros_like(totals), totals))
        assign(self.train_step, self.train_step.read_value() + tf.cast(~stops, tf.int64))
        return following

    def _update_loss_scale(self, loss_scale: tf.Tensor, is_applied: tf.Tensor) -> None:
        """Doubles the loss scale after many train_steps without overflow, and halves it after one with."""
        good_steps = tf.where(is_applied, self._good_steps.read_value() + 1, 0)
        doubles = good_steps >= self._loss_scale_patience
        lower = tf.maximum(loss_scale / 2, 1)
        assign(self._loss_scale, tf.where(is_applied, tf.where(doubles, 2 * loss_scale, loss_scale), lower))
        assign(self._good_steps, tf.where(doubles, tf.zeros_like(good_steps), good_steps))
