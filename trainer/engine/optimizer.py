"""The optimizer and its learning-rate schedule; `trainer.engine.run_length` has its decay, in train_steps."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from trainer.config import Config
from trainer.model.next_note import NextNoteModel

_FLOOR = 0.01  # final learning rate of the cosine schedule, relative to the peak


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a constant rate or a cosine down to a hundredth of the peak.

    Two float32 scalar variables hold the train_steps at which the cosine begins and ends.
    """

    def __init__(self, config: Config, decay_from: tf.Variable, decay_steps: tf.Variable) -> None:
        super().__init__()
        self._config, self._decay_from, self._decay_steps = config, decay_from, decay_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate of the update after `step` updates, float32."""
        config = self._config
        step = tf.cast(step, tf.float32)
        warmup = tf.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
        if config.schedule == "constant":
            return config.learning_rate * warmup
        begin = tf.cast(self._decay_from, tf.float32)
        after = tf.maximum(step - begin, 0)
        span = tf.maximum(tf.cast(self._decay_steps, tf.float32) - begin, 1)
        cosine = 0.5 * (1 + tf.cos(math.pi * tf.minimum(after / span, 1)))
        return config.learning_rate * warmup * (_FLOOR + (1 - _FLOOR) * cosine)


class _TakesReducedGradients:
    """Mixin that skips the sum over replicas, which Keras' optimizers would repeat."""

    def _all_reduce_sum_gradients(self, grads_and_vars: Sequence[tuple]) -> Sequence[tuple]:
        return grads_and_vars


class _Adam(_TakesReducedGradients, keras.optimizers.Adam):
    pass


class _AdamW(_TakesReducedGradients, keras.optimizers.AdamW):
    pass


def build_optimizer(
    config: Config, model: NextNoteModel, decay_from: tf.Variable, decay_steps: tf.Variable
) -> keras.optimizers.Optimizer:
    """Returns the config's optimizer with all its variables; call it under the strategy's scope."""
    schedule = WarmupSchedule(config, decay_from, decay_steps)
    if config.optimizer == "adamw":
        optimizer = _AdamW(schedule, weight_decay=config.weight_decay)
        # Weight decay suits matrices; biases, norms and embeddings do not decay.
        optimizer.exclude_from_weight_decay(
            [variable for variable in model.trainable_variables if "kernel" not in variable.name]
        )
    else:
        optimizer = _Adam(schedule)
    # A checkpoint restored into an unbuilt optimizer would silently drop the optimizer's state.
    optimizer.build(model.trainable_variables)
    return optimizer
