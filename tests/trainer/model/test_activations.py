"""Layer normalization and GELU against Keras' and TensorFlow's, with their gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.model.activations import LayerNorm, gelu


def differentiate(function, *inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        result = function(*inputs)
        # Weights of their own for each output, so that no two gradients are equal by chance.
        objective = tf.reduce_sum(
            result * tf.reshape(tf.linspace(-1.0, 2.0, result.shape.num_elements()), result.shape)
        )
    return [result, *tape.gradient(objective, inputs)]


def normal(*shape):
    return tf.constant(np.random.default_rng(0).normal(0.5, 2, shape), tf.float32)


@pytest.mark.parametrize("shape", [(5, 16), (3, 4, 16)])
def test_layer_normalization_is_that_of_keras(shape):
    results = []
    for layer in (LayerNorm(), keras.layers.LayerNormalization()):
        layer.build(shape)
        layer.gamma.assign(normal(16))
        layer.beta.assign(normal(16))
        with tf.GradientTape() as tape:
            result = layer(inputs := tf.Variable(normal(*shape)))
            objective = tf.reduce_sum(tf.sin(3 * result))
        results.append([result, *tape.gradient(objective, [inputs, layer.gamma.value, layer.beta.value])])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_gelu_is_that_of_tensorflow():
    inputs = tf.linspace(-8.0, 8.0, 401)
    ours = differentiate(gelu, inputs)
    theirs = differentiate(lambda values: tf.nn.gelu(values, approximate=True), inputs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_gelu_keeps_its_type(dtype):
    values = differentiate(lambda inputs: tf.cast(gelu(tf.cast(inputs, dtype)), tf.float32), tf.linspace(-3.0, 3.0, 9))
    assert gelu(tf.zeros([2], dtype)).dtype == dtype
    assert np.isfinite(values).all()
