import hashlib
import random

import numpy as np
import pytest
import tensorflow as tf

from tests.factories import random_arrays, tiny_model
from trainer.config import Config
from trainer.data.note_tensors import START_PITCH
from trainer.model.layers import Dropout
from trainer.model.next_note import build_model, start_note
from trainer.presets import PRESETS

KINDS = ["density", "regression"]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return tiny_model(request.param, layers=2)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def with_start(notes):
    """The notes, each row beginning with the input that says so."""
    return notes._replace(
        pitch=tf.concat([tf.fill([notes.pitch.shape[0], 1], START_PITCH), notes.pitch[:, 1:]], axis=1)
    )


def part(notes, start, stop):
    return notes.map(lambda field: field[:, start:stop])


def assert_close(some, others):
    for one, other in zip(tf.nest.flatten(some), tf.nest.flatten(others), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_reading_in_one_pass_in_chunks_and_note_by_note_agree(model):
    notes = with_start(random_arrays(3, 20))
    whole, final = model.forward(notes)
    assert whole.body.shape == (3, 20, model.config.units)
    assert np.std(whole.body) > 0.1

    state, chunks = model.initial_state(3), []
    for start, stop in ((0, 1), (1, 8), (8, 20)):
        hidden, state = model.forward(part(notes, start, stop), state)
        chunks.append(hidden)
    assert_close(chunks[0].map(lambda *parts: tf.concat(parts, axis=1), *chunks[1:]), whole)

    state, steps, tables = model.initial_state(3), [], model.decode_weights()
    for index in range(20):
        hidden, state = model.decode_step(notes.map(lambda field, index=index: field[:, index]), state, tables)
        steps.append(hidden)
    assert_close(steps[0].map(lambda *parts: tf.stack(parts, axis=1), *steps[1:]), whole)
    assert_close(state, final)


def test_a_later_note_never_changes_an_earlier_output(model):
    notes, other = random_arrays(2, 12), random_arrays(2, 12, seed=1)
    before, _ = model.forward(notes)
    for index in (0, 5, 11):
        changed = notes._replace(
            **{
                field: tf.concat([getattr(notes, field)[:, :index], getattr(other, field)[:, index:]], axis=1)
                for field in notes._fields
            }
        )
        after, _ = model.forward(changed)
        for one, other_one in zip(tf.nest.flatten(after), tf.nest.flatten(before), strict=True):
            np.testing.assert_array_equal(one[:, :index], other_one[:, :index])
        assert np.abs(after.body[:, index] - before.body[:, index]).max() > 1e-3


@pytest.mark.parametrize("field", ["pitch", "step_us", "duration_us", "velocity"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_note_depends_on_every_field_of_those_before(kind, field):
    model = tiny_model(kind)
    notes, other = random_arrays(4, 6), random_arrays(4, 6, seed=1)
    before, _ = model.forward(notes)
    after, _ = model.forward(notes._replace(**{field: getattr(other, field)}))
    # The tutorial's model does not read velocities.
    assert np.any(after.body != before.body) == (kind == "density" or field != "velocity")


def test_performances_in_a_batch_do_not_affect_each_other(model):
    notes = random_arrays(4, 10)
    together, _ = model.forward(notes)
    alone, _ = model.forward(notes.map(lambda field: field[2:3]))
    assert_close(together.map(lambda part: part[2:3]), alone)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("precision", "full"),
    [("float32", tf.float32), ("float64", tf.float64), ("mixed_bfloat16", tf.float32), ("mixed_float16", tf.float32)],
)
def test_heads_and_losses_keep_full_precision(kind, precision, full):
    model = tiny_model(kind, precision=precision)
    assert {variable.dtype for variable in model.weights} == {full.name}
    notes = random_arrays(2, 5)
    hidden, state = model.forward(notes)
    carried = tf.nest.map_structure(lambda part: tf.cast(part, full) if part.dtype.is_floating else part, state)
    stepped, carried = model.decode_step(notes.map(lambda field: field[:, 0]), carried, model.decode_weights())
    losses = model.heads.losses(hidden, notes)
    assert {
        tensor.dtype for tensor in (hidden.body, stepped.body, *tf.nest.flatten(carried.layers), *losses.values())
    } == {full}
    assert all(np.isfinite(loss).all() for loss in losses.values())
    # The LSTM layers are what computes in less.
    computed = {"mixed_bfloat16": tf.bfloat16, "mixed_float16": tf.float16}.get(precision, full)
    assert {part.dtype for part in tf.nest.flatten([state.layers, model.initial_state(2).layers])} == {computed}
    # Microseconds are counted, in any precision of the rest.
    assert {part.dtype for part in tf.nest.flatten([state.history, carried.history])} <= {tf.int64}
    reference, _ = tiny_model(kind, precision="float64").forward(notes)
    assert np.abs(tf.cast(hidden.body, tf.float64) - reference.body).max() < {"float64": 1e-12, "float32": 1e-4}.get(
        precision, 0.3
    )


@pytest.mark.parametrize("name", PRESETS)
def test_all_weights_are_there_before_the_first_train_step(name):
    config = PRESETS[name]
    model = build_model(config)
    before = len(model.weights)
    notes = random_arrays(2, 4)
    hidden, _ = model.forward(notes)
    model.heads.losses(hidden, notes)
    uniforms = tf.zeros([2, 6])
    drawn, _ = model.heads.sample(hidden.map(lambda part: part[:, -1]), uniforms, tf.constant(1.0))
    model.decode_step(drawn, model.initial_decode_state(2), model.decode_weights())
    assert len(model.weights) == before
    kernels = [variable.shape for variable in model.weights if "recurrent" in variable.path]
    assert kernels == [(config.units, 4 * config.units)] * config.layers


def test_the_tutorials_model_has_the_tutorials_parameters():
    # LSTM(128) on (pitch, step, duration): 4 x 128 x (3 + 128 + 1); Dense 128 and twice 1 on 128 units with bias.
    assert (
        sum(np.prod(weight.shape) for weight in build_model(PRESETS["tutorial"]).weights) == 4 * 128 * 132 + 129 * 130
    )


def test_scaling_lives_inside_the_tutorials_model():
    model = tiny_model("regression")
    notes = random_arrays(1, 1)
    kernel, recurrent, bias = (variable.numpy() for variable in model.weights[:3])
    pitch, step_us, duration_us = (field.numpy().item() for field in notes[:3])
    scaled = np.array([pitch / 128, step_us * 1e-6, duration_us * 1e-6])
    gates = scaled @ kernel + bias
    write, _, candidate, show = np.split(gates, 4)
    expected = sigmoid(show) * np.tanh(sigmoid(write) * np.tanh(candidate))
    np.testing.assert_allclose(model.forward(notes)[0].body[0, 0], expected, atol=1e-5)
    assert recurrent.shape == (16, 64)


def test_dropout_is_for_training_alone(model):
    notes = random_arrays(3, 6)
    plain = model.forward(notes)[0].body
    dropout = Dropout(0, 0.5, tf.constant(0, tf.int64))
    dropped = model.forward(notes, dropout=dropout)[0].body
    assert np.abs(dropped - plain).max() > 0.01
    np.testing.assert_array_equal(model.forward(notes, dropout=dropout)[0].body, dropped)
    np.testing.assert_array_equal(model.forward(notes)[0].body, plain)


def test_initial_weights_come_from_the_seed_whatever_else_draws_random_numbers():
    """Threads that upload draw from Python's own generator while a model is built."""

    def weights(config_seed, other):
        random.seed(other)
        np.random.seed(other)
        tf.random.set_seed(other)
        before = random.getstate(), np.random.get_state()[1].tolist()
        values = build_model(Config(units=8, seed=config_seed)).get_weights()
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before
        return np.concatenate([np.ravel(value) for value in values])

    np.testing.assert_array_equal(weights(1, 5), weights(1, 6))
    assert np.mean(weights(1, 5) == weights(2, 5)) < 0.5


@pytest.mark.parametrize(
    ("preset", "seed", "expected"),
    [("base", 0, "40ff573de669c005"), ("tutorial", 7, "be638eb42e0e794a"), ("large", 0, "ecd3b2921022608e")],
)
def test_initial_weights_are_those_of_earlier_releases(preset, seed, expected):
    digest = hashlib.sha256()
    for weight in build_model(PRESETS[preset].replace(seed=seed)).weights:
        # An orthogonal matrix depends on the CPU in its last bits; ticks start at 0.
        if weight.name not in ("recurrent_kernel", "ticks"):
            digest.update(weight.numpy().tobytes())
    assert digest.hexdigest()[:16] == expected


def test_the_note_before_the_first_is_that_of_the_dataset():
    assert [field.numpy().tolist() for field in start_note(2)] == [[START_PITCH] * 2, [0, 0], [0, 0], [0, 0]]
