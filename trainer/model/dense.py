"""A dense layer for mixed precision."""

import keras
import tensorflow as tf


class MixedDense(keras.layers.Dense):
    """A dense layer that multiplies in its compute type and returns the type of its variables."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps inputs `[..., features]` to `[..., units]`."""
        return tf.cast(super().call(inputs), self.variable_dtype)
