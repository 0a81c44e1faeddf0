"""Adam and AdamW on flat vectors, and the learning-rate schedule; `trainer.engine.run_length` has its decay.

All weights of a group lie in one vector, so an update is a few operations for any number of variables.
"""

import math
from collections.abc import Sequence
from typing import Final

import tensorflow as tf

from trainer.config import Config
from trainer.model.next_note import NextNoteModel

_FLOOR = 0.01  # final learning rate of the cosine schedule, relative to the peak
_BETA_1: Final = 0.9
_BETA_2: Final = 0.999
_EPSILON: Final = 1e-7
_EMA_WARMUP = 10.0  # the average starts as that of about the last tenth of all updates


def learning_rate(
    config: Config, train_step: tf.Tensor, decay_from: tf.Tensor | float, decay_steps: tf.Tensor | float
) -> tf.Tensor:
    """Returns the learning rate of the update after `train_step` train_steps, a float32 scalar.

    A linear warm-up, then a constant rate, or a cosine from the train_step `decay_from` down to a hundredth of the peak
    at `decay_steps`.
    """
    train_step = tf.cast(train_step, tf.float32)
    warmup = tf.minimum((train_step + 1) / max(config.warmup_steps, 1), 1.0)
    if config.schedule == "constant":
        return config.learning_rate * warmup
    after = tf.maximum(train_step - decay_from, 0)
    span = tf.maximum(tf.cast(decay_steps, tf.float32) - decay_from, 1)
    cosine = 0.5 * (1 + tf.cos(math.pi * tf.minimum(after / span, 1)))
    return config.learning_rate * warmup * (_FLOOR + (1 - _FLOOR) * cosine)


class Adam:
    """Adam (Kingma and Ba, 2015), or AdamW (Loshchilov and Hutter, 2019) with decay of the matrices.

    Create it under the strategy's scope. Its methods run in replica context.

    Attributes:
        weights: the trained variables, without frozen ones, in the order in which `flatten` expects their gradients.
    """

    def __init__(self, config: Config, model: NextNoteModel) -> None:
        decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        # Weight decay suits matrices; biases, norms and embeddings do not decay.
        decaying = [variable for variable in model.trainable_variables if decay and "kernel" in variable.name]
        constant = [variable for variable in model.trainable_variables if not decay or "kernel" not in variable.name]
        self._groups = [
            _Group([variable.value for variable in variables], group_decay, has_average=config.ema > 0)
            for variables, group_decay in ((decaying, decay), (constant, 0.0))
            if variables
        ]
        self.weights = [variable for group in self._groups for variable in group.variables]
        self._updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self._ema = config.ema

    @property
    def averages(self) -> list[tf.Variable]:
        """The moving averages of the weights, a vector for each group; none without `ema`."""
        return [group.average for group in self._groups if group.average is not None]

    def variables(self) -> list[tf.Variable]:
        """Returns the number of updates and the moments, which a resumed run needs with weights and averages."""
        return [self._updates, *(moment for group in self._groups for moment in (group.momentum, group.velocity))]

    def load(self) -> None:
        """Reads the model's weights, which something else may have set since the last update."""
        for group in self._groups:
            assign(group.weights, flatten(group.variables))

    def update(self, gradient: tf.Tensor, rate: tf.Tensor, is_applied: tf.Tensor) -> None:
        """Updates weights and averages by a flat gradient; changes nothing where `is_applied`, a bool scalar, is False.

        It has no branch: a GPU would wait for one. `rate` is the learning rate, a scalar; the gradient must be 0 where
        nothing is applied.
        """
        dtype = gradient.dtype
        updates = self._updates.read_value() + tf.cast(is_applied, tf.int64)
        assign(self._updates, updates)
        count = tf.cast(tf.maximum(updates, 1), dtype)
        scalars = {
            "beta1_power": tf.pow(tf.constant(_BETA_1, dtype), count),
            "beta2_power": tf.pow(tf.constant(_BETA_2, dtype), count),
            "lr": tf.where(is_applied, tf.cast(rate, dtype), 0),
            # Moments with a decay of 1 stay as they are.
            "beta1": tf.where(is_applied, tf.constant(_BETA_1, dtype), 1),
            "beta2": tf.where(is_applied, tf.constant(_BETA_2, dtype), 1),
            "epsilon": tf.constant(_EPSILON, dtype),
        }
        share = self._average_share(updates, is_applied, dtype)
        gradients = tf.split(gradient, [group.size for group in self._groups])
        for group, part in zip(self._groups, gradients, strict=True):
            group.update(part, scalars, share)

    def reset_averages(self) -> None:
        """Sets the averages to the model's weights."""
        for group in self._groups:
            if group.average is not None:
                assign(group.average, flatten(group.variables))

    def swap_averages(self) -> None:
        """Exchanges the model's weights and their averages."""
        for group in self._groups:
            if group.average is not None:
                weights = flatten(group.variables)
                group.set_variables(group.average.read_value())
                assign(group.average, weights)

    def _average_share(self, updates: tf.Tensor, is_applied: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns the share of the new weights in the averages."""
        count = tf.cast(updates, tf.float32)
        decay = tf.minimum(self._ema, count / (_EMA_WARMUP + count - 1))
        return tf.cast(tf.where(is_applied, 1 - decay, 0), dtype)


class _Group:
    """Variables with the same weight decay, and their moments as vectors."""

    def __init__(self, variables: Sequence[tf.Variable], decay: float, *, has_average: bool) -> None:
        self.variables, self._decay = variables, decay
        self._sizes = [variable.shape.num_elements() for variable in variables]
        self.size = sum(self._sizes)

        def vector(name: str) -> tf.Variable:
            return tf.Variable(tf.zeros([self.size], variables[0].dtype), trainable=False, name=name)

        self.weights, self.momentum, self.velocity = map(vector, ("weights", "momentum", "velocity"))
        self.average = None
        if has_average:
            self.average = tf.Variable(flatten(variables), trainable=False, name="average")

    def update(self, gradient: tf.Tensor, scalars: dict[str, tf.Tensor], share: tf.Tensor) -> None:
        if self._decay:
            weights = self.weights.read_value()
            assign(self.weights, weights - weights * (scalars["lr"] * self._decay))
        handles = {"var": self.weights.handle, "m": self.momentum.handle, "v": self.velocity.handle}
        tf.raw_ops.ResourceApplyAdam(**handles, **scalars, grad=gradient)
        weights = self.weights.read_value()
        self.set_variables(weights)
        if self.average is not None:
            average = self.average.read_value()
            assign(self.average, average + (weights - average) * share)

    def set_variables(self, vector: tf.Tensor) -> None:
        """Sets the model's variables to the parts of a vector."""
        for variable, part in zip(self.variables, tf.split(vector, self._sizes), strict=True):
            assign(variable, tf.reshape(part, variable.shape))


def flatten(tensors: Sequence[tf.Tensor | tf.Variable]) -> tf.Tensor:
    """Joins tensors to one vector."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def assign(variable: tf.Variable, value: tf.Tensor) -> None:
    """Sets this replica's copy of a variable; every replica must set the same value.

    `Variable.assign` would send the value from one replica to all others.
    """
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=tf.cast(value, variable.dtype))
