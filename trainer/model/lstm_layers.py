"""LSTM layers: how they are created, run over all notes, and run over one note while decoding."""

from collections.abc import Iterator
from typing import NamedTuple

import keras
import tensorflow as tf

from trainer.config import Config
from trainer.data.note_tensors import NoteTensors
from trainer.model import lstm_cpu
from trainer.model.layers import NoteEmbedding, blocked_matmul, glorot, lookup_sum, split_columns


class LayerState(NamedTuple):
    """State of an LSTM layer between notes, `[batch, units]` each."""

    hidden: tf.Tensor
    cell: tf.Tensor


class DecodeWeights(NamedTuple):
    """Weights of an LSTM layer in the form that `decode_layer` uses, each with `4 * units` columns."""

    # For the layer that reads embeddings, each embedding table times its rows of the kernel: a lookup replaces the
    # product. None for other layers.
    tables: list[tf.Tensor] | None
    matrix: tf.Tensor  # kernel, without the rows in the tables, above recurrent kernel, in blocks
    bias: tf.Tensor


def create_layer(config: Config, index: int, seeds: Iterator[int]) -> keras.layers.LSTM:
    """Returns a new layer, with the next seeds."""
    return keras.layers.LSTM(
        config.units,
        return_sequences=True,
        return_state=True,
        kernel_initializer=glorot(seeds),
        recurrent_initializer=keras.initializers.Orthogonal(seed=next(seeds)),
        seed=next(seeds),
        dtype=config.precision,
        name=f"lstm_{index}",
    )


def run_layer(
    lstm: keras.layers.LSTM, stream: tf.Tensor, before: LayerState, *, cudnn: bool
) -> tuple[tf.Tensor, LayerState]:
    """Runs a layer over all notes.

    Args:
        lstm: the layer.
        stream: its input, `[batch, notes, ...]`.
        before: the state before the first note.
        cudnn: True calls Keras' layer, which uses cuDNN on a GPU; False calls `lstm_cpu.lstm`.

    Returns:
        The layer's output, `[batch, notes, units]`, in its compute type, and its state after the last note.
    """
    stream, hidden, cell = (tf.cast(tensor, lstm.compute_dtype) for tensor in (stream, *before))
    if cudnn:
        output, hidden, cell = lstm(stream, initial_state=[hidden, cell])
    else:
        if not lstm.built:
            lstm.build(stream.shape)
        variables = (lstm.cell.kernel, lstm.cell.recurrent_kernel, lstm.cell.bias)
        weights = tuple(tf.cast(variable, lstm.compute_dtype) for variable in variables)
        output, hidden, cell = lstm_cpu.lstm(stream, (hidden, cell), weights)
    return output, LayerState(hidden, cell)


def make_decode_weights(lstm: keras.layers.LSTM, embedding: NoteEmbedding | None) -> DecodeWeights:
    """Returns a layer's weights for `decode_layer`, from the embedding that it reads first, if it reads one."""
    kernel, tables = tf.convert_to_tensor(lstm.cell.kernel), None
    if embedding is not None:
        embedding_kernel, kernel = kernel[: embedding.size], kernel[embedding.size :]
        tables = embedding.project_tables(embedding_kernel)
    matrix = split_columns(tf.concat([kernel, lstm.cell.recurrent_kernel], axis=0))
    return DecodeWeights(tables, matrix, tf.convert_to_tensor(lstm.cell.bias))


def decode_layer(
    weights: DecodeWeights, features: list[tf.Tensor], note: NoteTensors, before: LayerState
) -> LayerState:
    """Runs a layer over one note: `run_layer` without its loop, in the precision of the variables.

    Args:
        weights: from `make_decode_weights`.
        features: the layer's input without embeddings, `[batch, ...]` each.
        note: the note, `[batch]`, whose embeddings a layer with tables reads.
        before: the state before it.

    Returns:
        The state after it; its `hidden` is the layer's output.
    """
    gates = blocked_matmul(tf.concat([*features, before.hidden], axis=-1), weights.matrix)
    if weights.tables:
        gates += lookup_sum(weights.tables, note)
    input_gate, forget_gate, candidate, output_gate = tf.split(gates + weights.bias, 4, axis=-1)
    cell = tf.sigmoid(forget_gate) * before.cell + tf.sigmoid(input_gate) * tf.tanh(candidate)
    return LayerState(tf.sigmoid(output_gate) * tf.tanh(cell), cell)
