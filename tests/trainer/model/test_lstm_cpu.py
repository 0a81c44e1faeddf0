import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.factories import random_arrays, tiny_model
from trainer.config import Config
from trainer.model import lstm_cpu
from trainer.model.next_note import build_model

FEATURES, UNITS = 5, 3
ARGUMENTS = ("inputs", "hidden", "cell", "kernel", "recurrent_kernel", "bias")
RESULTS = ("outputs", "hidden", "cell")


def arguments(batch, notes, dtype=tf.float64, features=FEATURES, units=UNITS):
    """What `lstm` takes, everything of a size that matters."""
    shapes = ((batch, notes, features), (batch, units), (batch, units), (features, 4 * units), (units, 4 * units))
    return [tf.constant(np.random.normal(0, 0.7, shape), dtype) for shape in (*shapes, (4 * units,))]


def keras_lstm(inputs, hidden, cell, *weights):
    layer = keras.layers.LSTM(hidden.shape[-1], return_sequences=True, return_state=True, dtype=inputs.dtype.name)
    layer.build(inputs.shape)
    held = [variable.value for variable in layer.trainable_variables]
    for variable, weight in zip(held, weights, strict=True):
        variable.assign(weight)
    return layer(inputs, initial_state=[hidden, cell]), held


def run_lstm(inputs, hidden, cell, *weights):
    return lstm_cpu.lstm(inputs, (hidden, cell), weights)


def weighted_sum(results, weights):
    """A number that depends on every result, so that its gradient checks all of them."""
    return tf.add_n([tf.reduce_sum(result * weight) for result, weight in zip(results, weights, strict=True)])


def gradients(function, given, weights):
    """The results and the gradients with respect to all arguments."""
    with tf.GradientTape() as tape:
        tape.watch(given)
        results = function(*given)
        objective = weighted_sum(results, weights)
    return results, tape.gradient(objective, given)


def random_like(results):
    return [tf.constant(np.random.normal(size=result.shape), result.dtype) for result in results]


def assert_close(actual, expected, names, relative):
    for name, one, other in zip(names, actual, expected, strict=True):
        one, other = (np.asarray(tf.cast(tensor, tf.float64)) for tensor in (one, other))
        assert one.shape == other.shape, name
        assert np.linalg.norm(one - other) <= relative * np.linalg.norm(other), name


@pytest.mark.parametrize(("batch", "notes"), [(1, 1), (1, 7), (4, 1), (3, 8)])
@pytest.mark.parametrize("traced", [False, True])
def test_results_and_gradients_are_those_of_keras(batch, notes, traced):
    given = arguments(batch, notes)
    weights = random_like((np.zeros((batch, notes, UNITS)), *given[1:3]))
    with tf.GradientTape() as tape:
        tape.watch(given[:3])
        expected, held = keras_lstm(*given)
        objective = weighted_sum(expected, weights)
    expected_gradients = tape.gradient(objective, [*given[:3], *held])
    function = tf.function(run_lstm, autograph=False) if traced else run_lstm
    results, actual_gradients = gradients(function, given, weights)
    assert_close(results, expected, RESULTS, 1e-12)
    assert_close(actual_gradients, expected_gradients, ARGUMENTS, 1e-12)


@pytest.mark.parametrize("which", range(3), ids=RESULTS)
def test_each_result_has_its_gradient(which):
    """The others are left out of the objective altogether."""
    given = arguments(2, 3, features=2, units=2)
    function = tf.function(lambda *given: [run_lstm(*given)[which]], autograph=False)
    weight = random_like(function(*given))
    results, actual = gradients(function, given, weight)
    numeric = [np.zeros(argument.shape) for argument in given]
    for argument, slopes in zip(range(len(given)), numeric, strict=True):
        for index in np.ndindex(*slopes.shape):
            ends = []
            for change in (1e-5, -1e-5):
                changed = [np.array(tensor) for tensor in given]
                changed[argument][index] += change
                ends.append(weighted_sum(function(*map(tf.constant, changed)), weight).numpy())
            slopes[index] = (ends[0] - ends[1]) / 2e-5
    assert_close(actual, numeric, ARGUMENTS, 1e-8)
    assert np.abs(results[0]).max() > 0.1


def test_an_empty_batch_leaves_no_trace():
    given = arguments(0, 4)
    results, actual = gradients(run_lstm, given, random_like(run_lstm(*given)))
    assert [result.shape for result in results] == [(0, 4, UNITS), (0, UNITS), (0, UNITS)]
    for gradient, argument in zip(actual, given, strict=True):
        assert gradient.shape == argument.shape
        assert not np.any(gradient)


def test_notes_and_batch_need_not_be_known_while_tracing():
    specs = [tf.TensorSpec([None, None, FEATURES], tf.float64), *[tf.TensorSpec([None, UNITS], tf.float64)] * 2]
    weights = arguments(1, 1)[3:]
    function = tf.function(lambda *given: run_lstm(*given, *weights), autograph=False, input_signature=specs)
    for batch, notes in ((1, 1), (2, 5), (5, 2)):
        given = arguments(batch, notes)[:3]
        assert_close(function(*given), run_lstm(*given, *weights), RESULTS, 1e-12)
    assert function.experimental_get_tracing_count() == 1
    # One of them known, the other not, in both orders.
    known, unknown = tf.TensorSpec([1, 2, FEATURES], tf.float64), specs[1]
    for signature in ([known, unknown, unknown], [specs[0], *[tf.TensorSpec([1, UNITS], tf.float64)] * 2]):
        function = tf.function(lambda *given: run_lstm(*given, *weights), autograph=False, input_signature=signature)
        assert function(*arguments(1, 2)[:3])[0].shape == (1, 2, UNITS)


def test_a_state_of_another_batch_is_refused():
    given = arguments(3, 2)
    with pytest.raises(tf.errors.InvalidArgumentError):
        run_lstm(given[0], given[1][:1], *given[2:])


@pytest.mark.parametrize(("dtype", "relative"), [(tf.float32, 1e-5), (tf.bfloat16, 0.05), (tf.float16, 0.01)])
def test_lower_precisions_compute_the_same_less_precisely(dtype, relative):
    exact = arguments(3, 8)
    given = [tf.cast(tensor, dtype) for tensor in exact]
    weights = random_like(run_lstm(*exact))
    expected, expected_gradients = gradients(run_lstm, exact, weights)
    results, actual_gradients = gradients(
        tf.function(run_lstm, autograph=False), given, [tf.cast(weight, dtype) for weight in weights]
    )
    assert {tensor.dtype for tensor in (*results, *actual_gradients)} == {dtype}
    assert_close(results, expected, RESULTS, relative)
    assert_close(actual_gradients, expected_gradients, ARGUMENTS, relative)


def test_equal_runs_are_equal_bit_for_bit():
    given = arguments(16, 40, tf.float32, features=64, units=128)
    weights = random_like(run_lstm(*given))
    run = tf.function(lambda: gradients(run_lstm, given, weights), autograph=False)
    first = tf.nest.flatten(run())
    for _ in range(5):
        for one, other in zip(first, tf.nest.flatten(run()), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", ["float64", "mixed_bfloat16"])
def test_a_model_reads_alike_with_either_implementation(precision):
    model = tiny_model("density", layers=2, precision=precision)
    notes = random_arrays(3, 9)
    _, state = model.forward(notes)
    read = {}
    for cudnn in (True, False):
        model.cudnn = cudnn
        with tf.GradientTape() as tape:
            hidden, after = model.forward(notes, state)
            objective = tf.reduce_sum(hidden.body**2)
        variables = [variable.value for variable in model.trainable_variables if "lstm" in variable.path]
        of_weights = tape.gradient(objective, variables)
        assert all(gradient.dtype == variable.dtype for gradient, variable in zip(of_weights, variables, strict=True))
        read[cudnn] = [hidden.body, *tf.nest.flatten(after), *of_weights]
    names = [str(index) for index in range(len(read[True]))]
    assert_close(read[False], read[True], names, 1e-12 if precision == "float64" else 0.05)


def test_weights_are_those_that_keras_makes():
    """Names, order and initial values: checkpoints know weights by their place."""

    def weights(cudnn):
        config = Config(units=4, layers=2, head_units=4, seed=3)
        if not cudnn:
            return build_model(config).weights
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:0"])
            return build_model(config).weights

    ours, theirs = weights(False), weights(True)
    assert [variable.path for variable in ours] == [variable.path for variable in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_traced_plays_without_the_project(tmp_path):
    model = tiny_model("density", layers=2)
    notes = random_arrays(2, 6)
    specs = notes.map(lambda field: tf.TensorSpec([None, None], field.dtype))
    module = tf.Module()
    module.variables_held = [variable.value for variable in model.weights]
    module.read = tf.function(
        lambda *fields: model.forward(type(notes)(*fields))[0].body, autograph=False, input_signature=specs
    )
    # What only plays needs no gradients, and those of `lstm` use values that a SavedModel does not hold.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(tmp_path / "export"), options=options)
    np.save(tmp_path / "notes.npy", np.stack(notes))
    program = (
        "import numpy, tensorflow as tf; module = tf.saved_model.load('export');"
        "numpy.save('read.npy', module.read(*map(tf.constant, numpy.load('notes.npy'))))"
    )
    subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "read.npy"), model.forward(notes)[0].body, atol=1e-5)
