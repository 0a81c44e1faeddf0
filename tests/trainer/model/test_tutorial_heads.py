import numpy as np
import pytest
import tensorflow as tf

from tests.factories import random_arrays, tiny_model
from trainer.model.heads import UNIFORMS_PER_NOTE, HeadInput


@pytest.fixture(scope="module")
def regression():
    return tiny_model("regression").heads


def hidden_of(*shape, seed=1):
    """What heads read of a body of 16 units."""
    return HeadInput(tf.constant(np.random.default_rng(seed).normal(0, 1, (*shape, 16)), tf.float32))


def uniforms(count, seed=0):
    return tf.constant(np.random.default_rng(seed).random((count, UNIFORMS_PER_NOTE), np.float32))


def softmax(logits):
    return tf.nn.softmax(tf.cast(logits, tf.float64)).numpy()


def test_the_tutorials_losses(regression):
    hidden, notes = hidden_of(40), random_arrays(40)
    predicted = {name: value.numpy().astype(np.float64) for name, value in regression.predict_fields(hidden).items()}
    losses = regression.losses(hidden, notes)
    assert set(losses) == set(regression.loss_names)
    probability = softmax(predicted["pitch"])[np.arange(40), notes.pitch]
    np.testing.assert_allclose(losses["pitch"], -np.log(probability), rtol=1e-4)
    for field in ("step", "duration"):
        seconds = getattr(notes, f"{field}_us").numpy() * 1e-6
        assert predicted[field].min() < 0 < predicted[field].max()
        expected = (seconds - predicted[field]) ** 2 + 10 * np.maximum(-predicted[field], 0)
        np.testing.assert_allclose(losses[field], expected, rtol=1e-4)


def test_the_tutorials_notes_are_legal_means(regression):
    hidden = hidden_of(300)
    predicted = regression.predict_fields(hidden)
    notes, _ = regression.sample(hidden, uniforms(300), tf.constant(1.0))
    np.testing.assert_allclose(notes.step_us, np.maximum(predicted["step"], 0) * 1e6, atol=1)
    assert notes.duration_us.numpy().min() >= 1
    sounds = predicted["duration"].numpy() > 0.01
    np.testing.assert_allclose(notes.duration_us.numpy()[sounds], predicted["duration"].numpy()[sounds] * 1e6, atol=1)
    assert (notes.velocity.numpy() == notes.velocity.numpy()[0]).all()
    assert len(np.unique(notes.pitch)) > 5
    assert all(field.dtype == tf.int32 for field in notes)
