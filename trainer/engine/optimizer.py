"""The optimizer and its learning rate: Keras' own, taking gradients that the loop has summed, checked and clipped."""

import math

import keras
import tensorflow as tf

from trainer.config import Config
from trainer.model.next_note import NextNoteModel

_FLOOR = 0.01  # the cosine schedule ends at this share of the peak learning rate


class WarmupThen(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then constant or cosine down to a hundredth of the peak at the horizon.

    Args:
        config: gives peak, warm-up and form.
        begin: float32 scalar variable, the train_step at which the cosine begins.
        horizon: float32 scalar variable, the train_step at which it ends.
    """

    def __init__(self, config: Config, begin: tf.Variable, horizon: tf.Variable) -> None:
        super().__init__()
        self._config = config
        self._begin, self._horizon = begin, horizon

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of the update after `step` updates, float32."""
        config = self._config
        step = tf.cast(step, tf.float32)
        warmup = tf.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
        if config.schedule == "constant":
            return config.learning_rate * warmup
        begin = tf.cast(self._begin, tf.float32)
        after = tf.maximum(step - begin, 0)
        span = tf.maximum(tf.cast(self._horizon, tf.float32) - begin, 1)
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


def build_optimizer(
    config: Config, model: NextNoteModel, begin: tf.Variable, horizon: tf.Variable
) -> keras.optimizers.Optimizer:
    """The config's optimizer with all its variables; to be called under the strategy's scope.

    Args:
        config: which optimizer, its learning rate and decay.
        model: whose variables it updates.
        begin: float32 scalar variable, the train_step at which the learning rate's cosine begins.
        horizon: float32 scalar variable, the train_step at which it ends.
    """
    schedule = WarmupThen(config, begin, horizon)
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
