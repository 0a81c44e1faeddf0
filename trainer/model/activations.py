"""Layer normalization and GELU with short gradients: a few operations each, where TensorFlow derives twice as many.

Elementwise operations are most of the kernels of a train_step, and much of its time for small models.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

_Gradients = Callable[..., tuple[tf.Tensor, ...]]

# Of the approximation by Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016: x * sigmoid(x * (LINEAR + CUBIC *
# x ** 2)), as 1 + tanh(z) is 2 * sigmoid(2 * z).
_LINEAR = 1.5957691216057308  # 2 * sqrt(2 / pi)
_CUBIC = 0.044715 * _LINEAR


class LayerNorm(keras.layers.LayerNormalization):
    """Keras' layer normalization over the last axis."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalizes inputs `[..., units]`."""
        return _layer_norm(inputs, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta), self.epsilon)


def _layer_norm(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    @tf.custom_gradient
    def normalize(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, _Gradients]:
        centered = inputs - tf.reduce_mean(inputs, axis=-1, keepdims=True)
        inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True) + epsilon)
        normalized = centered * inverse

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            d_gamma, d_beta = (_sum_rows(values) for values in (upstream * normalized, upstream))
            d_normalized = upstream * gamma
            mean = tf.reduce_mean(d_normalized, axis=-1, keepdims=True)
            projection = tf.reduce_mean(d_normalized * normalized, axis=-1, keepdims=True)
            return inverse * (d_normalized - mean - normalized * projection), d_gamma, d_beta

        return normalized * gamma + beta, gradients

    return normalize(inputs, gamma, beta)


@tf.custom_gradient
def gelu(inputs: tf.Tensor) -> tuple[tf.Tensor, _Gradients]:
    """Returns `tf.nn.gelu(inputs, approximate=True)`."""
    slope = _LINEAR + _CUBIC * tf.square(inputs)
    gate = tf.sigmoid(inputs * slope)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor]:
        d_gate = tf.raw_ops.SigmoidGrad(y=gate, dy=3 * slope - 2 * _LINEAR)
        return (upstream * (gate + inputs * d_gate),)

    return inputs * gate, gradient


def _sum_rows(values: tf.Tensor) -> tf.Tensor:
    """Sums `[..., units]` to `[units]`."""
    return tf.raw_ops.BiasAddGrad(out_backprop=tf.reshape(values, [-1, values.shape[-1]]))
