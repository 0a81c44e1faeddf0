"""An LSTM layer for the CPU that trains nearly as fast as plain matrix products.

Keras' layer multiplies its input and sums its weights' gradients note by note, in products too small for a CPU. Here
the loop contains only what depends on the previous note; the rest is one product over all notes. Each gate has its own
matrix: splitting all gates out of one product would copy them at every note.

With a 16-bit type, only matrix products and their inputs use it. The rest is computed and kept in float32, because a
CPU has no 16-bit instructions for it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

_GATES = 4
_State = tuple[tf.Tensor, tf.Tensor]


class _Trace(NamedTuple):
    """Values of all notes for the backward pass: TensorArrays of `[batch, units]`.

    For 16-bit types, all but `hidden` are float32.
    """

    hidden: tf.TensorArray  # before the first note and after each note
    cell: tf.TensorArray  # likewise
    tanh_cell: tf.TensorArray
    gates: list[tf.TensorArray]  # input, forget, candidate and output gate


@tf.custom_gradient
def lstm(
    inputs: tf.Tensor, state: _State, weights: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
) -> tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], Callable[..., Any]]:
    """Runs an LSTM layer over all notes `[batch, notes, features]`, at least one, as `keras.layers.LSTM` does.

    The state is hidden and cell `[batch, units]`; the weights are kernel, recurrent kernel and bias in Keras' order of
    gates. Returns the output after each note `[batch, notes, units]`, and the state after the last one. Differentiable
    once, with respect to every argument. All tensors have one floating type.
    """
    # While tracing, the loop requires static shapes of the state that do not change.
    inputs = tf.ensure_shape(inputs, [state[0].shape[0], None, None])
    kernel, recurrent_kernel, bias = weights
    batch, notes = tf.shape(inputs)[0], tf.shape(inputs)[1]
    features, units = kernel.shape[0], recurrent_kernel.shape[0]
    kernels = tf.split(kernel, _GATES, axis=1)
    recurrent_kernels = tf.split(recurrent_kernel, _GATES, axis=1)
    rows = tf.reshape(_swap_batch_and_notes(inputs), [-1, features])
    projected_inputs = [
        tf.reshape(_widen(tf.nn.bias_add(tf.matmul(rows, matrix), gate_bias)), [notes, batch, units])
        for matrix, gate_bias in zip(kernels, tf.split(bias, _GATES), strict=True)
    ]
    (hidden, cell), trace = _forward(projected_inputs, recurrent_kernels, state)
    hiddens = trace.hidden.stack()

    def gradients(d_outputs: tf.Tensor, d_hidden: tf.Tensor, d_cell: tf.Tensor) -> tuple[tf.Tensor, ...]:
        d_outputs, d_state = _swap_batch_and_notes(_widen(d_outputs)), (_widen(d_hidden), _widen(d_cell))
        (d_hidden, d_cell), d_gates = _backward(trace, recurrent_kernels, d_outputs, d_state)
        d_gates = [tf.reshape(d_gate.stack(), [-1, units]) for d_gate in d_gates]
        d_rows = tf.add_n(
            [tf.matmul(d_gate, tf.transpose(matrix)) for d_gate, matrix in zip(d_gates, kernels, strict=True)]
        )
        before = tf.reshape(hiddens[:-1], [-1, units])
        return (
            _swap_batch_and_notes(tf.reshape(d_rows, [notes, batch, features])),
            tf.cast(d_hidden, inputs.dtype),
            tf.cast(d_cell, inputs.dtype),
            tf.concat([tf.matmul(rows, d_gate, transpose_a=True) for d_gate in d_gates], axis=1),
            tf.concat([tf.matmul(before, d_gate, transpose_a=True) for d_gate in d_gates], axis=1),
            tf.concat([tf.raw_ops.BiasAddGrad(out_backprop=d_gate) for d_gate in d_gates], axis=0),
        )

    return (_swap_batch_and_notes(hiddens[1:]), hidden, tf.cast(cell, inputs.dtype)), gradients


def _forward(
    projected_inputs: list[tf.Tensor], recurrent_kernels: list[tf.Tensor], state: _State
) -> tuple[_State, _Trace]:
    """Returns the state after the last note, and the trace; projected inputs are `[notes, batch, units]` a gate."""
    notes = tf.shape(projected_inputs[0])[0]

    def array(size: tf.Tensor, dtype: tf.DType) -> tf.TensorArray:
        element_shape = projected_inputs[0].shape[1:]
        return tf.TensorArray(dtype, size, clear_after_read=False, element_shape=element_shape)

    def forward_step(note: tf.Tensor, state: _State, trace: _Trace) -> tuple[tf.Tensor, _State, _Trace]:
        hidden, cell = state
        input_gate, forget_gate, candidate, output_gate = (
            projected[note] + _widen(tf.matmul(hidden, matrix))
            for projected, matrix in zip(projected_inputs, recurrent_kernels, strict=True)
        )
        input_gate, forget_gate = tf.sigmoid(input_gate), tf.sigmoid(forget_gate)
        candidate, output_gate = tf.tanh(candidate), tf.sigmoid(output_gate)
        cell = forget_gate * cell + input_gate * candidate
        tanh_cell = tf.tanh(cell)
        hidden = tf.cast(output_gate * tanh_cell, dtype)
        trace = _Trace(
            trace.hidden.write(note + 1, hidden),
            trace.cell.write(note + 1, cell),
            trace.tanh_cell.write(note, tanh_cell),
            _write_all(trace.gates, note, (input_gate, forget_gate, candidate, output_gate)),
        )
        return note + 1, (hidden, cell), trace

    dtype, state = state[0].dtype, (state[0], _widen(state[1]))
    hidden, cell = (array(notes + 1, value.dtype).write(0, value) for value in state)
    wide = state[1].dtype
    trace = _Trace(hidden, cell, array(notes, wide), [array(notes, wide) for _ in range(_GATES)])
    _, state, trace = tf.while_loop(lambda note, *_: note < notes, forward_step, (0, state, trace))
    return state, trace


def _backward(
    trace: _Trace, recurrent_kernels: list[tf.Tensor], d_outputs: tf.Tensor, d_state: _State
) -> tuple[_State, list[tf.TensorArray]]:
    """Returns the gradients of the first state and, note by note, of the gates before their activations."""
    notes = tf.shape(d_outputs)[0]
    # Transposed once: a product with a transpose flag transposes at every note.
    transposed = [tf.transpose(matrix) for matrix in recurrent_kernels]

    def backward_step(
        note: tf.Tensor, d_state: _State, d_gates: list[tf.TensorArray]
    ) -> tuple[tf.Tensor, _State, list[tf.TensorArray]]:
        d_hidden, d_cell = d_state
        input_gate, forget_gate, candidate, output_gate = (gate.read(note) for gate in trace.gates)
        tanh_cell = trace.tanh_cell.read(note)
        d_hidden += d_outputs[note]
        # One operation for the gradient of an activation, instead of three.
        sigmoid_grad, tanh_grad = tf.raw_ops.SigmoidGrad, tf.raw_ops.TanhGrad
        d_cell += tanh_grad(y=tanh_cell, dy=d_hidden * output_gate)
        d_gate = [
            sigmoid_grad(y=input_gate, dy=d_cell * candidate),
            sigmoid_grad(y=forget_gate, dy=d_cell * trace.cell.read(note)),
            tanh_grad(y=candidate, dy=d_cell * input_gate),
            sigmoid_grad(y=output_gate, dy=d_hidden * tanh_cell),
        ]
        d_gate = [tf.cast(value, dtype) for value in d_gate]
        products = [tf.matmul(value, matrix) for value, matrix in zip(d_gate, transposed, strict=True)]
        d_hidden = tf.add_n([_widen(product) for product in products])
        return note - 1, (d_hidden, d_cell * forget_gate), _write_all(d_gates, note, d_gate)

    element_shape, dtype = trace.tanh_cell.element_shape, recurrent_kernels[0].dtype
    arrays = [tf.TensorArray(dtype, notes, clear_after_read=False, element_shape=element_shape) for _ in range(_GATES)]
    _, d_state, d_gates = tf.while_loop(lambda note, *_: note >= 0, backward_step, (notes - 1, d_state, arrays))
    return d_state, d_gates


def _swap_batch_and_notes(sequence: tf.Tensor) -> tf.Tensor:
    """Transposes `[batch, notes, ...]` and `[notes, batch, ...]`: a note's rows become contiguous."""
    return tf.transpose(sequence, [1, 0, 2])


def _widen(values: tf.Tensor) -> tf.Tensor:
    """Returns values of a 16-bit type as float32, and others as they are."""
    return tf.cast(values, tf.float32) if values.dtype.size == 2 else values


def _write_all(arrays: list[tf.TensorArray], index: tf.Tensor, values: Sequence[tf.Tensor]) -> list[tf.TensorArray]:
    return [array.write(index, value) for array, value in zip(arrays, values, strict=True)]
