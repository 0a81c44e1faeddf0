"""Adam on flat vectors against Keras' optimizers, and an update that is not applied."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.factories import tiny_model
from trainer.distribution.strategy import create_strategy
from trainer.engine.optimizer import Adam, flatten, learning_rate

UPDATES = 200


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The rates of the trainer, each computed once: a graph would round some of them otherwise."""

    def __init__(self, config):
        super().__init__()
        self.rates = tf.stack([learning_rate(config, tf.constant(step), 30.0, 180.0) for step in range(UPDATES)])

    def __call__(self, step):
        return tf.gather(self.rates, tf.minimum(step, UPDATES - 1))


class Updates:
    """A model with its optimizer; `apply` updates it in a graph, as training does."""

    def __init__(self, **config):
        self.strategy = create_strategy(["CPU:0"])
        with self.strategy.scope():
            self.model = tiny_model("density", **config)
            self.adam = Adam(self.model.config, self.model)
        self.graph = tf.function(self._apply, autograph=False)

    def _apply(self, gradients, rate, is_applied):
        def update(gradients):
            self.adam.load()
            self.adam.update(flatten(gradients), rate, is_applied)

        self.strategy.run(update, args=(gradients,))

    def apply(self, gradients, rate, is_applied=True):
        self.graph(gradients, tf.cast(rate, tf.float32), tf.constant(is_applied))

    def values(self):
        return [weight.numpy() for weight in self.adam.weights]


def random_gradients(weights, seed):
    """Gradients whose size changes from update to update, as training's does."""
    random = np.random.default_rng(seed)
    scale = random.lognormal(-3, 2)
    return [tf.constant(random.normal(0, scale, weight.shape), weight.dtype) for weight in weights]


def keras_optimizer(config, model):
    # Keras rounds a plain number to float32 even where the weights are float64.
    betas = {"beta_1": np.array(0.9), "beta_2": np.array(0.999)}
    if config.optimizer == "adam":
        return keras.optimizers.Adam(Schedule(config), **betas)
    optimizer = keras.optimizers.AdamW(Schedule(config), weight_decay=np.array(config.weight_decay), **betas)
    optimizer.exclude_from_weight_decay(
        [variable for variable in model.trainable_variables if "kernel" not in variable.name]
    )
    return optimizer


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_updates_are_those_of_keras(optimizer, precision, tolerance):
    ours = Updates(precision=precision, optimizer=optimizer, weight_decay=0.1, learning_rate=0.01, warmup_steps=20)
    theirs = tiny_model("density", precision=precision)
    initial = [variable.numpy() for variable in theirs.trainable_variables]
    config = ours.model.config
    reference = keras_optimizer(config, theirs)
    place = {id(variable.value): index for index, variable in enumerate(ours.model.trainable_variables)}
    paired = [theirs.trainable_variables[place[id(weight)]] for weight in ours.adam.weights]
    reference.build(paired)
    apply_reference = tf.function(lambda gradients: reference.apply(gradients), autograph=False)
    for count in range(UPDATES):
        gradients = random_gradients(ours.adam.weights, count)
        ours.apply(gradients, reference.learning_rate)
        apply_reference(gradients)
    moved = sum(
        np.linalg.norm(variable.numpy() - before)
        for variable, before in zip(theirs.trainable_variables, initial, strict=True)
    )
    assert moved > 1
    for one, other in zip(ours.values(), paired, strict=True):
        expected = other.numpy()
        assert np.linalg.norm(one - expected) <= tolerance * np.linalg.norm(expected)


def test_an_update_that_is_not_applied_changes_nothing():
    updates = Updates(optimizer="adamw", weight_decay=0.1, ema=0.9)
    updates.apply(random_gradients(updates.adam.weights, 0), 0.01)
    kept = [*updates.adam.weights, *updates.adam.variables(), *updates.adam.averages]
    before = [variable.numpy() for variable in kept]
    updates.apply([tf.zeros_like(weight) for weight in updates.adam.weights], 0.01, is_applied=False)
    for variable, value in zip(kept, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_weights_that_were_set_from_outside_are_those_that_are_updated():
    updates = Updates()
    weight = updates.adam.weights[0]
    weight.assign(tf.ones_like(weight))
    updates.apply([tf.zeros_like(weight) for weight in updates.adam.weights], 0.0)
    np.testing.assert_array_equal(weight.numpy(), 1)
