"""All that a train_step reads and writes, and the train_step itself: one for a CPU, many GPUs and many hosts.

K train_steps run inside one `tf.function`. Each replica makes its own part of the batch from the train_step alone,
gradients of summed losses are all-reduced, then divided by the global count of targets, checked for finiteness and
clipped; only then does the optimizer see them. So the number of replicas, the cut into calls, and any kill and resume
leave the result as it is.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.checkpoints.manager import Variables, model_variables
from trainer.config import Config
from trainer.data.windows import WindowSampler
from trainer.engine.optimizer import build_optimizer
from trainer.engine.run_length import OPEN
from trainer.model.dropout import Dropout
from trainer.model.next_note import build_model

_LOSS_SCALE_START = 2.0**15
_LOSS_SCALE_PATIENCE = 2000  # train_steps without overflow after which the loss scale doubles
_EMA_WARMUP = 10.0  # the average begins as that of about the last tenth of all train_steps


class NotFinite(NamedTuple):
    """Where a loss became infinite or not a number.

    Attributes:
        train_step: train_steps done before the one that failed.
        field: whose loss, or whose loss' gradient, it was.
        what: `loss` or `gradient`.
        performance: index of the performance of the worst window.
        first_note, last_note: which of its notes the window has as targets.
    """

    train_step: int
    field: str
    what: str
    performance: int
    first_note: int
    last_note: int


class TrainState:
    """Everything that a train_step reads and writes, and the train_step itself.

    To be built under the strategy's scope.

    Attributes:
        model: the model.
        fields: those that have a loss.
        train_step: int64, train_steps done.
        fall_begin: float32, the train_step at which the learning rate's cosine begins: the warm-up's end, as a rule.
        horizon: float32, the train_step at which it ends.
        sums: float64 `[losses + 2]`, since the last report: each field's loss summed, the weighted sum, the targets.
        run: does so many train_steps, given as an int32 scalar tensor, or stops before the first that is not finite.
    """

    def __init__(self, config: Config, windows: WindowSampler, strategy: tf.distribute.Strategy) -> None:
        self._config, self._windows, self._strategy = config, windows, strategy
        keras.utils.set_random_seed(config.seed)
        self.model = build_model(config, windows.pitch_range)
        self.fields = tuple(self.model.heads.loss_names)
        self.train_step = tf.Variable(0, dtype=tf.int64, trainable=False, name="train_step")
        self.fall_begin = tf.Variable(float(config.warmup_steps), trainable=False, name="fall_begin")
        self.horizon = tf.Variable(float(OPEN), trainable=False, name="horizon")
        self.sums = tf.Variable(tf.zeros([len(self.fields) + 2], tf.float64), trainable=False, name="sums")
        self._not_finite = tf.Variable(False, trainable=False, name="not_finite")
        self._scales = config.precision == "mixed_float16"
        self._loss_scale = tf.Variable(_LOSS_SCALE_START if self._scales else 1.0, trainable=False, name="loss_scale")
        self._good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="good_steps")
        self._weights = {field: getattr(config, f"{field}_weight") for field in self.fields}
        self._trained = [variable.value for variable in self.model.trainable_variables]
        self._averages = (
            [tf.Variable(variable, trainable=False, name="ema") for variable in self._trained] if config.ema else []
        )
        self.optimizer = build_optimizer(config, self.model, self.fall_begin, self.horizon)
        self.run = tf.function(self._run, autograph=False, input_signature=(tf.TensorSpec([], tf.int32),))
        self._swap_averages = tf.function(self._swap, autograph=False)

    def variables(self) -> Variables:
        """All that a resumed run needs."""
        return {
            **model_variables(self.model),
            "optimizer": [variable.value for variable in self.optimizer.variables],
            "ema": self._averages,
            "run": [self.train_step, self.horizon, self.sums, self._loss_scale, self._good_steps],
        }

    @contextlib.contextmanager
    def scored_weights(self) -> Iterator[None]:
        """Has the model hold the weights that are scored, kept as best and exported: their average, where there is one.

        The weights that are trained are back on leaving.
        """
        if not self._averages:
            yield
            return
        self._swap_averages()
        try:
            yield
        finally:
            self._swap_averages()

    def _swap(self) -> None:
        for weight, average in zip(self._trained, self._averages, strict=True):
            held = tf.identity(weight)
            weight.assign(average)
            average.assign(held)

    def _run(self, train_steps: tf.Tensor) -> None:
        def one(train_step: tf.Tensor) -> tuple[tf.Tensor]:
            # As a loop variable, not read from the state, the train_step lets the next batch be made meanwhile.
            gradients, totals, norm = self._strategy.run(self._replica_step, args=(train_step,))
            # Every replica returns the same; a decision for all of them is taken outside of them.
            totals, norm = (self._strategy.experimental_local_results(value)[0] for value in (totals, norm))
            totals_finite = tf.reduce_all(tf.math.is_finite(totals))
            # A run that cannot go on keeps its state as it was before the train_step that failed.
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
        tf.while_loop(lambda train_step: train_step < end, one, (begin,))

    def _replica_step(self, train_step: tf.Tensor):
        """One replica's part of a train_step; what it returns is the same on every replica.

        Returns:
            The gradients of the mean loss over all targets of the train_step, clipped; each field's loss summed
            over these targets, the weighted sum and the targets; the gradients' norm before they were clipped.
        """
        config = self._config
        context = tf.distribute.get_replica_context()
        gradients, totals = self._accumulated(train_step, context)
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        totals = context.all_reduce(tf.distribute.ReduceOp.SUM, totals)
        factor = self._nominal_targets / totals[-1] / tf.cast(self._loss_scale, tf.float64)
        gradients = [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        if config.clip_norm:
            shrink = tf.minimum(config.clip_norm / tf.maximum(norm, tf.constant(1e-12, norm.dtype)), 1)
            gradients = [gradient * shrink for gradient in gradients]
        return gradients, totals, norm

    @property
    def _nominal_targets(self) -> int:
        """What sums of losses are divided by before the backward pass, to stay within the range of float16."""
        config = self._config
        return config.windows_per_train_step * (config.seq_length if config.positions == "every" else 1)

    def _accumulated(self, train_step: tf.Tensor, context: tf.distribute.ReplicaContext):
        """One replica's gradients and totals, summed over the batches of a train_step."""
        config = self._config
        windows = config.batch_size // context.num_replicas_in_sync
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)

        def of_batch(batch: tf.Tensor):
            first_slot = (train_step * config.accumulation_steps + batch) * config.batch_size + replica * windows
            return self._gradients(first_slot, windows)

        first = of_batch(tf.constant(0, tf.int64))
        if config.accumulation_steps == 1:
            return first

        def add(batch: tf.Tensor, summed):
            return batch + 1, tf.nest.map_structure(tf.add, summed, of_batch(batch))

        return tf.while_loop(
            lambda batch, _: batch < config.accumulation_steps,
            add,
            (tf.constant(1, tf.int64), first),
            parallel_iterations=1,
        )[1]

    def _gradients(self, first_slot: tf.Tensor, windows: int) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Gradients of the scaled objective of so many windows, and their totals: see `_replica_step`."""
        with tf.GradientTape() as tape:
            losses, mask = self._losses(first_slot, windows)
            sums = {field: tf.reduce_sum(loss) for field, loss in losses.items()}
            objective = tf.add_n([self._weights[field] * total for field, total in sums.items()])
            scaled = objective / self._nominal_targets * tf.cast(self._loss_scale, objective.dtype)
        # Embeddings' gradients are sparse; summed as they are, they would be gathered instead of added up.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(scaled, self._trained)]
        targets = tf.reduce_sum(tf.cast(mask, tf.float64))
        return gradients, tf.stack([*(tf.cast(total, tf.float64) for total in (*sums.values(), objective)), targets])

    def _losses(self, first_slot: tf.Tensor, windows: int) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Each field's loss, 0 where masked, and the mask: `[windows, positions]`."""
        batch = self._windows.batch(first_slot, windows)
        dropout = Dropout(self._config.seed, self._config.dropout, first_slot)
        hidden, _ = self.model.forward(batch.inputs, dropout=dropout)
        losses = self.model.heads.losses(hidden[:, -batch.mask.shape[1] :], batch.targets)
        return {field: tf.where(batch.mask, loss, 0) for field, loss in losses.items()}, batch.mask

    def _apply(self, gradients) -> None:
        self._strategy.run(self.optimizer.apply, args=(gradients,))
        if self._averages:
            done = tf.cast(self.train_step, tf.float32)
            decay = tf.minimum(self._config.ema, (1 + done) / (_EMA_WARMUP + done))
            for weight, average in zip(self._trained, self._averages, strict=True):
                self._strategy.extended.update(
                    average,
                    lambda average, weight: average.assign_add((weight - average) * tf.cast(1 - decay, average.dtype)),
                    args=(weight,),
                )
        if self._scales:
            self._good_steps.assign_add(1)
            doubles = self._good_steps >= _LOSS_SCALE_PATIENCE
            self._loss_scale.assign(tf.where(doubles, 2 * self._loss_scale, self._loss_scale))
            self._good_steps.assign(tf.where(doubles, tf.zeros_like(self._good_steps), self._good_steps))

    def _skip(self, totals_finite: tf.Tensor) -> None:
        """Leaves the weights as they are; unless a lower loss scale may help, the run cannot go on."""
        self._not_finite.assign(self._not_finite | ~totals_finite | (self._loss_scale <= 1))
        if self._scales:
            self._loss_scale.assign(tf.maximum(self._loss_scale / 2, 1.0))
            self._good_steps.assign(0)

    def not_finite(self) -> NotFinite | None:
        """What made the run stop before its next train_step, found by doing that train_step again; None if nothing."""
        if not self._not_finite.numpy():
            return None
        return self._find_not_finite(int(self.train_step.numpy()))

    def _find_not_finite(self, train_step: int) -> NotFinite:
        """Reads the train_step's windows once more, one after the other on one device."""
        windows = self._config.windows_per_train_step
        slots = range(train_step * windows, (train_step + 1) * windows)
        for what, read in (("loss", self._window_losses), ("gradient", self._window_gradients)):  # noqa: B007
            traced = tf.function(read, autograph=False, input_signature=(tf.TensorSpec([], tf.int64),))
            found = [traced(tf.constant(slot, tf.int64)) for slot in slots]
            # One that is not a number counts as infinite.
            sizes = {
                field: [np.nan_to_num(of_window[field], nan=np.inf, posinf=np.inf) for of_window in found]
                for field in self.fields
            }
            field = max(self.fields, key=lambda field: max(sizes[field]))
            if np.isinf(max(sizes[field])):
                break
        # Where each is finite, only their sum is not, and the largest gradient is named.
        worst = slots[int(np.argmax(sizes[field]))]
        return NotFinite(train_step, field, what, *self._windows.place(worst))

    def _window_losses(self, slot: tf.Tensor) -> dict[str, tf.Tensor]:
        """Each field's loss of a slot's window, summed."""
        losses, _ = self._losses(slot, 1)
        return {field: tf.reduce_sum(loss) for field, loss in losses.items()}

    def _window_gradients(self, slot: tf.Tensor) -> dict[str, tf.Tensor]:
        """The norm of the gradients of each field's loss of a slot's window."""
        with tf.GradientTape(persistent=True) as tape:
            losses = self._window_losses(slot)
        norms = {}
        for field, loss in losses.items():
            gradients = tape.gradient(loss, self._trained)
            norms[field] = tf.linalg.global_norm([part for part in gradients if part is not None])
        return norms
