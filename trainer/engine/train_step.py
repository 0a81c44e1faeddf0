"""Losses and gradients of a train_step on one replica."""

import functools

import tensorflow as tf

from trainer.config import Config
from trainer.data.windows import Batch, WindowSampler
from trainer.engine.optimizer import flatten
from trainer.model.layers import Dropout
from trainer.model.next_note import NextNoteModel

_Sums = tuple[tf.Tensor, tf.Tensor]


class ReplicaStep:
    """Forward and backward pass of a train_step on one replica, with respect to the given weights.

    Each replica makes its own part of the batch from the train_step alone. So the number of replicas does not change
    the result.
    """

    def __init__(
        self, config: Config, windows: WindowSampler, model: NextNoteModel, weights: list[tf.Variable]
    ) -> None:
        self.windows, self.fields = windows, tuple(model.heads.loss_names)  # the fields that have a loss
        self.weights, self._config, self._model = weights, config, model
        self._loss_weights = {field: getattr(config, f"{field}_weight") for field in self.fields}
        # Sums of losses are divided by this before the backward pass, to stay within the range of float16.
        self.nominal_targets = config.windows_per_train_step * (config.seq_length if config.positions == "every" else 1)

    def first_batch(self, train_step: tf.Tensor) -> Batch:
        """Returns this replica's part of the first batch of a train_step."""
        with tf.device("CPU:0"):
            return self._make_batch(train_step * self._config.accumulation_steps)

    def __call__(
        self, train_step: tf.Tensor, batch: Batch, loss_scale: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Batch]:
        """Returns the gradient, sums, and the first batch of the next train_step.

        The gradient is that of the summed loss divided by `nominal_targets`, times `loss_scale`, over all targets of
        the train_step, as one vector. The sums over the same targets are of each field's loss, the weighted loss and
        the targets, float64 `[fields + 2]`. All replicas return the same values.

        Args:
            train_step: int64 scalar on the CPU, the train_steps done.
            batch: the first batch of this train_step.
            loss_scale: float32 scalar, the factor of the loss in the backward pass.
        """
        context = tf.distribute.get_replica_context()
        (gradient, totals), following = self._accumulate(train_step, batch, loss_scale)
        # In two calls: in one, TensorFlow would join them for a GPU, and their types differ.
        gradient, totals = (context.all_reduce(tf.distribute.ReduceOp.SUM, part) for part in (gradient, totals))
        return gradient, totals, following

    def losses(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Returns the loss of each field of a batch's windows, 0 where masked: `[windows, positions]`."""
        dropout = Dropout(self._config.seed, self._config.dropout, batch.first_example)
        pitches, times = batch.recall
        state = self._model.window_state(batch.position, batch.composer)
        head_input, _ = self._model.forward(batch.inputs, state, pitches, dropout)
        positions = batch.mask.shape[1]
        head_input = head_input.map(lambda part: part[:, -positions:])
        losses = self._model.heads.losses(head_input, batch.targets, times, batch.is_end)
        masks = {"end": batch.mask | batch.is_end}
        return {field: tf.where(masks.get(field, batch.mask), loss, 0) for field, loss in losses.items()}

    def _make_batch(self, number: tf.Tensor) -> Batch:
        """Returns this replica's part of a batch, numbered through all train_steps."""
        context = tf.distribute.get_replica_context()
        count = self._config.batch_size // context.num_replicas_in_sync
        with tf.device("CPU:0"):
            replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
            return self.windows.batch(number * self._config.batch_size + replica * count, count)

    def _accumulate(self, train_step: tf.Tensor, batch: Batch, loss_scale: tf.Tensor) -> tuple[_Sums, Batch]:
        """Returns gradient and totals, summed over the batches of a train_step, and the batch after them.

        Each batch is made while the one before it trains: they do not depend on each other.
        """
        steps = self._config.accumulation_steps
        with tf.device("CPU:0"):
            following = train_step * steps + 1
        if steps == 1:
            return self._gradient(batch, loss_scale), self._make_batch(following)

        def add(number: tf.Tensor, batch: Batch, sums: _Sums) -> tuple[tf.Tensor, Batch, _Sums]:
            sums = tf.nest.map_structure(tf.add, sums, self._gradient(batch, loss_scale))
            with tf.device("CPU:0"):
                return number + 1, self._make_batch(number), sums

        parameters = sum(weight.shape.num_elements() for weight in self.weights)
        zeros = tf.zeros([parameters], self.weights[0].dtype), tf.zeros([len(self.fields) + 2], tf.float64)

        def is_left(number: tf.Tensor, *_: object) -> tf.Tensor:
            with tf.device("CPU:0"):
                return number < following + steps

        _, batch, sums = tf.while_loop(is_left, add, (following, batch, zeros), parallel_iterations=1)
        return sums, batch

    def _gradient(self, batch: Batch, loss_scale: tf.Tensor) -> _Sums:
        """Returns the gradient of the scaled loss of a batch as one vector, and its totals as in `__call__`."""
        with tf.GradientTape() as tape:
            losses = self.losses(batch)
            sums = {field: tf.reduce_sum(loss) for field, loss in losses.items()}
            # Not add_n, whose order of addition depends on timing where other ops read its terms.
            objective = functools.reduce(tf.add, [self._loss_weights[field] * total for field, total in sums.items()])
            scaled = objective / self.nominal_targets * tf.cast(loss_scale, objective.dtype)
        gradient = flatten([tf.convert_to_tensor(part) for part in tape.gradient(scaled, self.weights)])
        targets = tf.reduce_sum(tf.cast(batch.mask, tf.float64))
        return gradient, tf.stack([*(tf.cast(total, tf.float64) for total in (*sums.values(), objective)), targets])
