"""State that a train_step reads and writes, and the train_steps themselves, for one CPU, many GPUs and many hosts.

K train_steps run inside one `tf.function`. The gradients of summed losses are all-reduced, divided by the global number
of targets, checked for finiteness and clipped; only then does the optimizer apply them. So the number of replicas, the
number of calls, and any kill and resume leave the result unchanged.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from trainer.checkpoints.manager import Variables, model_variables
from trainer.config import Config
from trainer.data.windows import WindowSampler
from trainer.engine.nonfinite import NonFinite, find_nonfinite
from trainer.engine.optimizer import build_optimizer
from trainer.engine.run_length import OPEN
from trainer.engine.train_step import Gradients, ReplicaStep
from trainer.model.next_note import build_model

_EMA_WARMUP = 10.0  # the average starts as that of about the last tenth of all train_steps


class LossSums(NamedTuple):
    """Sums over the targets since the last report."""

    by_field: dict[str, float]  # the loss of each field
    objective: float  # the weighted loss
    targets: float  # the number of targets


class TrainState:
    """State of training; create it under the strategy's scope. `run` runs up to the given number of train_steps.

    With mixed_float16, the loss scale doubles after `loss_scale_patience` train_steps without overflow.
    """

    def __init__(
        self,
        config: Config,
        windows: WindowSampler,
        strategy: tf.distribute.Strategy,
        *,
        loss_scale: float = 2.0**15,
        loss_scale_patience: int = 2000,
    ) -> None:
        self._config, self._strategy, self._loss_scale_patience = config, strategy, loss_scale_patience
        self.model = build_model(config, windows.pitch_range)
        self.train_step = tf.Variable(0, dtype=tf.int64, trainable=False, name="train_step")
        self.lr_decay_from = tf.Variable(float(config.warmup_steps), trainable=False, name="lr_decay_from")
        self.lr_decay_steps = tf.Variable(float(OPEN), trainable=False, name="lr_decay_steps")
        self._lr_decay: tuple[float, float] | None = None
        sums = tf.zeros([len(self.model.heads.loss_names) + 2], tf.float64)
        self.sums = tf.Variable(sums, trainable=False, name="sums")
        self._not_finite = tf.Variable(False, trainable=False, name="not_finite")
        self._scales = config.precision == "mixed_float16"
        self._loss_scale = tf.Variable(loss_scale if self._scales else 1.0, trainable=False, name="loss_scale")
        self._good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="good_steps")
        self._step = ReplicaStep(config, windows, self.model, self._loss_scale)
        self._averages = (
            [tf.Variable(weight, trainable=False, name="ema") for weight in self._step.weights] if config.ema else []
        )
        self.optimizer = build_optimizer(config, self.model, self.lr_decay_from, self.lr_decay_steps)
        self.run = tf.function(self._run, autograph=False, input_signature=(tf.TensorSpec([], tf.int32),))
        self._swap_averages = tf.function(self._swap, autograph=False)

    def variables(self) -> Variables:
        """Returns all variables that a resumed run needs."""
        return {
            **model_variables(self.model),
            "optimizer": [variable.value for variable in self.optimizer.variables],
            "ema": self._averages,
            "run": [self.train_step, self.lr_decay_steps, self.sums, self._loss_scale, self._good_steps],
        }

    def set_lr_decay(self, begin: float, end: float) -> None:
        """Sets the train_steps between which the learning rate of the next train_steps decays."""
        if self._lr_decay != (begin, end):
            self.lr_decay_from.assign(begin)
            self.lr_decay_steps.assign(end)
            self._lr_decay = (begin, end)

    def pop_sums(self) -> LossSums:
        """Returns the sums of losses since the last report, and clears them."""
        *losses, objective, targets = self.sums.numpy().tolist()
        self.sums.assign(tf.zeros_like(self.sums))
        return LossSums(dict(zip(self._step.fields, losses, strict=True)), objective, targets)

    @contextlib.contextmanager
    def scored_weights(self) -> Iterator[None]:
        """Puts the weights to score, keep and export into the model until exit: the average, if there is one."""
        swap = self._swap_averages if self._averages else lambda: None
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

    def _swap(self) -> None:
        for weight, average in zip(self._step.weights, self._averages, strict=True):
            value = tf.identity(weight)
            weight.assign(average)
            average.assign(value)

    def _run(self, train_steps: tf.Tensor) -> None:
        def run_step(train_step: tf.Tensor) -> tuple[tf.Tensor]:
            # As a loop variable, the train_step allows TensorFlow to prepare the next batch early.
            gradients, totals, norm = self._strategy.run(self._step, args=(train_step,))
            # Every replica returns the same values, so one decision holds for all.
            totals, norm = (self._strategy.experimental_local_results(value)[0] for value in (totals, norm))
            totals_finite = tf.reduce_all(tf.math.is_finite(totals))
            # A run that cannot continue keeps its state from before the failed train_step.
            going = ~self._not_finite
            tf.cond(
                going & totals_finite & tf.math.is_finite(norm),
                lambda: self._apply(gradients),
                lambda: self._skip(totals_finite),
            )
            going = ~self._not_finite
            self.sums.assign_add(tf.where(going & totals_finite, totals, 0))
            self.train_step.assign_add(tf.cast(going, tf.int64))
            return (train_step + 1,)

        begin = self.train_step.read_value()
        end = begin + tf.cast(train_steps, tf.int64)
        tf.while_loop(lambda train_step: train_step < end, run_step, (begin,))

    def _apply(self, gradients: Gradients) -> None:
        """Updates weights, averages and loss scale."""
        self._strategy.run(self.optimizer.apply, args=(gradients,))
        if self._averages:
            done = tf.cast(self.train_step, tf.float32)
            decay = tf.minimum(self._config.ema, (1 + done) / (_EMA_WARMUP + done))
            for weight, average in zip(self._step.weights, self._averages, strict=True):
                self._strategy.extended.update(
                    average,
                    lambda average, weight: average.assign_add((weight - average) * tf.cast(1 - decay, average.dtype)),
                    args=(weight,),
                )
        if self._scales:
            self._good_steps.assign_add(1)
            doubles = self._good_steps >= self._loss_scale_patience
            self._loss_scale.assign(tf.where(doubles, 2 * self._loss_scale, self._loss_scale))
            self._good_steps.assign(tf.where(doubles, tf.zeros_like(self._good_steps), self._good_steps))

    def _skip(self, totals_finite: tf.Tensor) -> None:
        """Leaves the weights unchanged; stops the run unless a lower loss scale may help."""
        self._not_finite.assign(self._not_finite | ~totals_finite | (self._loss_scale <= 1))
        if self._scales:
            self._loss_scale.assign(tf.maximum(self._loss_scale / 2, 1.0))
            self._good_steps.assign(0)
