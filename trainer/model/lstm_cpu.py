"""An LSTM layer for the CPU whose training comes near the speed of plain matrix products.

Keras' layer multiplies its input and sums up its weights' gradients note by note, in products too small for a CPU. Here
only what depends on the note before stays in the loop; the rest is one product over all notes. Each gate has a matrix
of its own: to cut the gates of all of them out of one product would copy them at every note.
"""

import tensorflow as tf

_GATES = 4


@tf.custom_gradient
def lstm(
    inputs: tf.Tensor,
    hidden: tf.Tensor,
    cell: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
):
    """Runs an LSTM layer over all notes: what `keras.layers.LSTM` computes with the same weights.

    Differentiable once, with respect to every argument. All arguments are of one floating type, in which everything is
    computed.

    Args:
        inputs: `[batch, notes, features]`, at least one note.
        hidden: the state before the first note, `[batch, units]`.
        cell: likewise.
        kernel: `[features, 4 * units]`; the gates in Keras' order: write, keep, candidate, show.
        recurrent_kernel: `[units, 4 * units]`.
        bias: `[4 * units]`.

    Returns:
        The output after each note `[batch, notes, units]`, and hidden and cell after the last one.
    """
    # While tracing, what the loop makes of a state must be known to be of that state's shape.
    inputs = tf.ensure_shape(inputs, [hidden.shape[0], None, None])
    batch, notes = tf.shape(inputs)[0], tf.shape(inputs)[1]
    features, units = kernel.shape[0], recurrent_kernel.shape[0]
    kernels = tf.split(kernel, _GATES, axis=1)
    recurrent_kernels = tf.split(recurrent_kernel, _GATES, axis=1)
    rows = tf.reshape(_swapped(inputs), [-1, features])
    # What each gate hears of the inputs.
    heard = [
        tf.reshape(tf.nn.bias_add(tf.matmul(rows, matrix), part), [notes, batch, units])
        for matrix, part in zip(kernels, tf.split(bias, _GATES), strict=True)
    ]

    def array(size: tf.Tensor) -> tf.TensorArray:
        return tf.TensorArray(inputs.dtype, size, clear_after_read=False, element_shape=heard[0].shape[1:])

    def forward_step(note, hidden, cell, hiddens, cells, squashed, gates):
        write, keep, candidate, show = (
            part[note] + tf.matmul(hidden, matrix) for part, matrix in zip(heard, recurrent_kernels, strict=True)
        )
        write, keep, candidate, show = tf.sigmoid(write), tf.sigmoid(keep), tf.tanh(candidate), tf.sigmoid(show)
        cell = keep * cell + write * candidate
        squash = tf.tanh(cell)
        hidden = show * squash
        hiddens, cells = hiddens.write(note + 1, hidden), cells.write(note + 1, cell)
        return note + 1, hidden, cell, hiddens, cells, squashed.write(note, squash), _written(
            gates, note, (write, keep, candidate, show)
        )  # fmt: skip

    begun = [array(notes + 1).write(0, part) for part in (hidden, cell)]
    _, hidden, cell, hiddens, cells, squashed, gates = tf.while_loop(
        lambda note, *_: note < notes,
        forward_step,
        (0, hidden, cell, *begun, array(notes), [array(notes) for _ in range(_GATES)]),
    )
    hiddens = hiddens.stack()

    def gradients(of_outputs: tf.Tensor, d_hidden: tf.Tensor, of_cell: tf.Tensor):
        of_outputs = _swapped(of_outputs)
        # Transposed once; a product that is told to transpose does so at every note.
        transposed = [tf.transpose(matrix) for matrix in recurrent_kernels]

        def backward_step(note, d_hidden, of_cell, of_gates):
            write, keep, candidate, show = (gate.read(note) for gate in gates)
            squash = squashed.read(note)
            d_hidden += of_outputs[note]
            of_cell += _tanh_gradient(squash, d_hidden * show)
            parts = (
                _sigmoid_gradient(write, of_cell * candidate),
                _sigmoid_gradient(keep, of_cell * cells.read(note)),
                _tanh_gradient(candidate, of_cell * write),
                _sigmoid_gradient(show, d_hidden * squash),
            )
            d_hidden = tf.add_n([tf.matmul(part, matrix) for part, matrix in zip(parts, transposed, strict=True)])
            return note - 1, d_hidden, of_cell * keep, _written(of_gates, note, parts)

        _, d_hidden, of_cell, of_gates = tf.while_loop(
            lambda note, *_: note >= 0,
            backward_step,
            (notes - 1, d_hidden, of_cell, [array(notes) for _ in range(_GATES)]),
        )
        of_gates = [tf.reshape(part.stack(), [-1, units]) for part in of_gates]
        of_rows = tf.add_n(
            [tf.matmul(part, tf.transpose(matrix)) for part, matrix in zip(of_gates, kernels, strict=True)]
        )
        before = tf.reshape(hiddens[:-1], [-1, units])
        return (
            _swapped(tf.reshape(of_rows, [notes, batch, features])),
            d_hidden,
            of_cell,
            tf.concat([tf.matmul(rows, part, transpose_a=True) for part in of_gates], axis=1),
            tf.concat([tf.matmul(before, part, transpose_a=True) for part in of_gates], axis=1),
            tf.concat([tf.raw_ops.BiasAddGrad(out_backprop=part) for part in of_gates], axis=0),
        )

    return (_swapped(hiddens[1:]), hidden, cell), gradients


def _swapped(sequence: tf.Tensor) -> tf.Tensor:
    """`[batch, notes, ...]` as `[notes, batch, ...]`, and the other way round: a note's rows lie together."""
    return tf.transpose(sequence, [1, 0, 2])


def _written(arrays: list[tf.TensorArray], index: tf.Tensor, values: tuple[tf.Tensor, ...]) -> list[tf.TensorArray]:
    return [array.write(index, value) for array, value in zip(arrays, values, strict=True)]


def _sigmoid_gradient(sigmoid: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """The gradient of what the sigmoid was taken of; one operation instead of three."""
    return tf.raw_ops.SigmoidGrad(y=sigmoid, dy=gradient)


def _tanh_gradient(tanh: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.TanhGrad(y=tanh, dy=gradient)
