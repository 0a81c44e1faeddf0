"""Losses and gradients of a train_step on one replica."""

import tensorflow as tf

from trainer.config import Config
from trainer.data.windows import WindowSampler
from trainer.model.layers import Dropout
from trainer.model.next_note import NextNoteModel

Gradients = list[tf.Tensor]


class ReplicaStep:
    """Forward and backward pass of a train_step on one replica.

    Each replica makes its own part of the batch from the train_step alone. So the number of replicas does not change
    the result. `loss_scale` is a float32 scalar variable, the factor of the loss in the backward pass.
    """

    def __init__(self, config: Config, windows: WindowSampler, model: NextNoteModel, loss_scale: tf.Variable) -> None:
        self.windows, self.fields = windows, tuple(model.heads.loss_names)  # the fields that have a loss
        self.weights = [variable.value for variable in model.trainable_variables]
        self._config, self._model, self._loss_scale = config, model, loss_scale
        self._loss_weights = {field: getattr(config, f"{field}_weight") for field in self.fields}
        # Sums of losses are divided by this before the backward pass, to stay within the range of float16.
        self._nominal_targets = config.windows_per_train_step * (
            config.seq_length if config.positions == "every" else 1
        )

    def __call__(self, train_step: tf.Tensor) -> tuple[Gradients, tf.Tensor, tf.Tensor]:
        """Returns clipped gradients of the mean loss, sums, and the gradients' norm before clipping.

        The sums, over all targets of the train_step, are of each field's loss, the weighted loss and the targets,
        float64 `[fields + 2]`. All replicas return the same values.
        """
        config = self._config
        context = tf.distribute.get_replica_context()
        gradients, totals = self._accumulate(train_step, context)
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        totals = context.all_reduce(tf.distribute.ReduceOp.SUM, totals)
        factor = self._nominal_targets / totals[-1] / tf.cast(self._loss_scale, tf.float64)
        gradients = [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        if config.clip_norm:
            shrink = tf.minimum(config.clip_norm / tf.maximum(norm, tf.constant(1e-12, norm.dtype)), 1)
            gradients = [gradient * shrink for gradient in gradients]
        return gradients, totals, norm

    def losses(self, first_example: tf.Tensor, count: int) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns the loss of each field of `count` windows, 0 where masked, and the mask: `[count, positions]`.

        The first window has the example index `first_example` (`trainer.data.random`), an int64 scalar.
        """
        batch = self.windows.batch(first_example, count)
        dropout = Dropout(self._config.seed, self._config.dropout, first_example)
        hidden, _ = self._model.forward(batch.inputs, dropout=dropout)
        losses = self._model.heads.losses(hidden[:, -batch.mask.shape[1] :], batch.targets)
        return {field: tf.where(batch.mask, loss, 0) for field, loss in losses.items()}, batch.mask

    def _accumulate(self, train_step: tf.Tensor, context: tf.distribute.ReplicaContext) -> tuple[Gradients, tf.Tensor]:
        """Returns gradients and totals, summed over the batches of a train_step."""
        config = self._config
        count = config.batch_size // context.num_replicas_in_sync
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)

        def batch_gradients(batch: tf.Tensor) -> tuple[Gradients, tf.Tensor]:
            first_example = (train_step * config.accumulation_steps + batch) * config.batch_size + replica * count
            return self._gradients(first_example, count)

        first = batch_gradients(tf.constant(0, tf.int64))
        if config.accumulation_steps == 1:
            return first

        def add(batch: tf.Tensor, sums: tuple[Gradients, tf.Tensor]) -> tuple[tf.Tensor, tuple[Gradients, tf.Tensor]]:
            return batch + 1, tf.nest.map_structure(tf.add, sums, batch_gradients(batch))

        return tf.while_loop(
            lambda batch, _: batch < config.accumulation_steps,
            add,
            (tf.constant(1, tf.int64), first),
            parallel_iterations=1,
        )[1]

    def _gradients(self, first_example: tf.Tensor, count: int) -> tuple[Gradients, tf.Tensor]:
        """Returns the gradients of the scaled loss of some windows, and their totals as in `__call__`."""
        with tf.GradientTape() as tape:
            losses, mask = self.losses(first_example, count)
            sums = {field: tf.reduce_sum(loss) for field, loss in losses.items()}
            objective = tf.add_n([self._loss_weights[field] * total for field, total in sums.items()])
            scaled = objective / self._nominal_targets * tf.cast(self._loss_scale, objective.dtype)
        # An all-reduce would gather the sparse gradients of embeddings instead of adding them.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(scaled, self.weights)]
        targets = tf.reduce_sum(tf.cast(mask, tf.float64))
        return gradients, tf.stack([*(tf.cast(total, tf.float64) for total in (*sums.values(), objective)), targets])
