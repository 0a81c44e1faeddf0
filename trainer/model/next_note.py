"""The next-note model: raw notes in, an LSTM body, heads.

Scaling lives inside the model: callers pass MIDI numbers and microseconds.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from sostenuto.music.notes import PITCHES
from trainer.config import Config
from trainer.data.random import Dropout
from trainer.data.windows import START_PITCH, NoteTensors
from trainer.model import blocked_matmul, lstm_cpu, note_history
from trainer.model.density_heads import ALL_PITCHES, Dense, DensityHeads, NoteEmbedding, PitchRange, RegressionHeads


class LayerState(NamedTuple):
    """What one LSTM layer carries from note to note, `[batch, units]` each."""

    hidden: tf.Tensor
    cell: tf.Tensor


class ModelState(NamedTuple):
    """What a model carries from note to note.

    Attributes:
        layers: of each LSTM layer.
        recent: the last notes, `[batch, RECENT]`; an empty tuple for a model that is not told of them.
    """

    layers: tuple[LayerState, ...]
    recent: note_history.NoteHistory | tuple[()]


class DecodeWeights(NamedTuple):
    """An LSTM layer as a single step uses it.

    Attributes:
        tables: for a layer that reads embeddings, its products with all of them, `[rows, 4 * units]` each, which are
            looked up instead of being made anew for each note; else None.
        matrix: kernel (but the rows that are in the tables) above recurrent kernel, `[inputs, 4 * units]` in blocks.
        bias: `[4 * units]`.
    """

    tables: list[tf.Tensor] | None
    matrix: tf.Tensor
    bias: tf.Tensor


class NextNoteModel(keras.Model):
    """Predicts the next note from those before it.

    Attributes:
        config: what the model was built from.
        width: columns of what the heads read.
        heads: `DensityHeads` or `RegressionHeads`.
        cudnn: whether Keras runs the LSTM layers, which it does with cuDNN on a GPU, or `recurrent.lstm`, for a CPU; by
            default whether a GPU is visible. What is traced for a CPU on a machine with GPUs needs it to be False.
    """

    def __init__(self, config: Config, pitch_range: PitchRange = ALL_PITCHES) -> None:
        # Logits, losses and normalisation stay in the variables' precision; LSTM and hidden layers compute in less.
        full = config.full_precision
        super().__init__(dtype=full, name="next_note")
        self.config = config
        self.width = config.units + (
            note_history.HISTORY_LENGTH if config.model == "density" and config.recent_embedding else 0
        )
        self.cudnn = bool(tf.config.list_physical_devices("GPU"))
        self._lstm = [
            keras.layers.LSTM(
                config.units, return_sequences=True, return_state=True, dtype=config.precision, name=f"lstm_{layer}"
            )
            for layer in range(config.layers)
        ]
        if config.model == "density":
            self._embedding = NoteEmbedding(config, full)
            self._recent = (
                Dense(config.recent_embedding, use_bias=False, dtype=config.precision, name="recent")
                if config.recent_embedding
                else None
            )
            self._norms = [
                keras.layers.LayerNormalization(dtype=full, name=f"norm_{layer}")
                for layer in range(1, config.layers + 1)
            ]
            self.heads = DensityHeads(config, full, pitch_range)
        else:
            self._recent = None
            self.heads = RegressionHeads(full, pitch_range)

    def read(
        self, inputs: NoteTensors, state: ModelState | None = None, dropout: Dropout | None = None
    ) -> tuple[tf.Tensor, ModelState]:
        """Runs the body.

        Args:
            inputs: notes `[batch, notes]`; `START_PITCH` where a performance begins.
            state: what an earlier call returned; zeros by default.
            dropout: masks for training; none by default.

        Returns:
            What the heads read, `[batch, notes, width]`, and the state after the last note.
        """
        after = []
        state = self.initial_state(tf.shape(inputs.pitch)[0]) if state is None else state
        last, remembered = self._remember(inputs, state.recent)
        stream = tf.concat([self._encode(inputs), *remembered], axis=-1)
        for index, (lstm, before) in enumerate(zip(self._lstm, state.layers, strict=True)):
            output, left = self._run_layer(lstm, self._normalised(index, stream), before)
            after.append(left)
            stream = self._joined(index, stream, tf.cast(output, self.compute_dtype), dropout)
        left = tf.nest.map_structure(lambda field: field[:, -1], last)
        return self._reading(stream, last), ModelState(tuple(after), left)

    def step_weights(self) -> list[DecodeWeights]:
        """What `step` multiplies with, to be made once for many notes."""
        made = []
        for index, lstm in enumerate(self._lstm):
            kernel, tables = tf.convert_to_tensor(lstm.cell.kernel), None
            if self.config.model == "density" and not index:
                embedded, kernel = kernel[: self._embedding.size], kernel[self._embedding.size :]
                tables = self._embedding.products(embedded)
            matrix = tf.concat([kernel, lstm.cell.recurrent_kernel], axis=0)
            made.append(DecodeWeights(tables, blocked_matmul.cut(matrix), tf.convert_to_tensor(lstm.cell.bias)))
        return made

    def step(
        self, inputs: NoteTensors, state: ModelState, weights: list[DecodeWeights]
    ) -> tuple[tf.Tensor, ModelState]:
        """Runs the body over one note `[batch]`: what `read` does, without its loop, all in the variables' precision.

        Args:
            inputs: the note, `[batch]`.
            state: zeros at the start, else what the call before returned, in the variables' precision.
            weights: what `step_weights` returned.

        Returns:
            What the heads read, `[batch, width]`, and the next state.
        """
        after = []
        one = self._remember(inputs.map(lambda field: field[:, tf.newaxis]), state.recent)
        last, remembered = tf.nest.map_structure(lambda part: part[:, 0], one)
        stream = None
        for index, (layer, before) in enumerate(zip(weights, state.layers, strict=True)):
            if layer.tables:
                gates = blocked_matmul.multiply(tf.concat([*remembered, before.hidden], axis=-1), layer.matrix)
                gates += self._embedding.lookup_sum(layer.tables, inputs)
            else:
                stream = self._encode(inputs) if stream is None else stream
                known = tf.concat([self._normalised(index, stream), before.hidden], axis=-1)
                gates = blocked_matmul.multiply(known, layer.matrix)
            write, keep, candidate, show = tf.split(gates + layer.bias, 4, axis=-1)
            cell = tf.sigmoid(keep) * before.cell + tf.sigmoid(write) * tf.tanh(candidate)
            output = tf.sigmoid(show) * tf.tanh(cell)
            after.append(LayerState(output, cell))
            stream = self._joined(index, stream, output, None)
        return self._reading(stream, last), ModelState(tuple(after), last)

    def _run_layer(
        self, lstm: keras.layers.LSTM, stream: tf.Tensor, before: LayerState
    ) -> tuple[tf.Tensor, LayerState]:
        """An LSTM layer's output `[batch, notes, units]` in its compute type, and the state that it leaves."""
        stream, hidden, cell = (tf.cast(tensor, lstm.compute_dtype) for tensor in (stream, *before))
        if self.cudnn:
            output, hidden, cell = lstm(stream, initial_state=[hidden, cell])
        else:
            if not lstm.built:
                lstm.build(stream.shape)
            weights = (lstm.cell.kernel, lstm.cell.recurrent_kernel, lstm.cell.bias)
            matrices = (tf.cast(weight, lstm.compute_dtype) for weight in weights)
            output, hidden, cell = lstm_cpu.lstm(stream, hidden, cell, *matrices)
        return output, LayerState(hidden, cell)

    def initial_state(self, batch: int | tf.Tensor) -> ModelState:
        """The state before a performance's start: zeros, and no notes.

        Args:
            batch: how many performances; a scalar.
        """
        layers = tuple(
            LayerState(*(tf.zeros([batch, self.config.units], lstm.compute_dtype) for _ in LayerState._fields))
            for lstm in self._lstm
        )
        return ModelState(layers, note_history.no_notes(batch) if self._recent else ())

    def _encode(self, notes: NoteTensors) -> tf.Tensor:
        if self.config.model == "density":
            return self._embedding.vectors(notes)
        seconds = [tf.cast(tf.cast(field, tf.float64) * 1e-6, self.compute_dtype) for field in notes[1:3]]
        return tf.stack([tf.cast(notes.pitch, self.compute_dtype) / PITCHES, *seconds], axis=-1)

    def _remember(
        self, notes: NoteTensors, before: note_history.NoteHistory | tuple[()]
    ) -> tuple[note_history.NoteHistory | tuple[()], list[tf.Tensor]]:
        """The last notes at each note `[batch, notes]`, and what the first layer is told of them, if anything."""
        if self._recent is None or not isinstance(before, note_history.NoteHistory):
            return (), []
        last = note_history.extend_history(notes, before)
        keys = note_history.keys(last, self.compute_dtype)
        releases = note_history.releases(last.remaining_us, self.compute_dtype)
        return last, [self._recent(tf.concat([keys, releases], axis=-1))]

    def _reading(self, stream: tf.Tensor, last: note_history.NoteHistory | tuple[()]) -> tf.Tensor:
        """What the heads read: the body's output and, where there are last notes, when each is to end."""
        output = self._normalised(self.config.layers, stream)
        return (
            tf.concat([output, tf.cast(last.remaining_us, output.dtype)], axis=-1)
            if isinstance(last, note_history.NoteHistory)
            else output
        )

    def _normalised(self, index: int, stream: tf.Tensor) -> tf.Tensor:
        """The input of a layer, or after the last one of the heads; embeddings are taken as they are."""
        return self._norms[index - 1](stream) if self.config.model == "density" and index else stream

    def _joined(self, index: int, stream: tf.Tensor | None, output: tf.Tensor, dropout: Dropout | None) -> tf.Tensor:
        """A layer's output, dropped, with the residual around all layers but the first."""
        if dropout is not None:
            output = dropout(index, output)
        return stream + output if self.config.model == "density" and index else output


def start_note(batch: int) -> NoteTensors:
    """The input before a performance's first note, int32 `[batch]` each."""
    return NoteTensors(tf.fill([batch], START_PITCH), *(tf.zeros([batch], tf.int32) for _ in range(3)))


def build_model(config: Config, pitch_range: PitchRange = ALL_PITCHES) -> NextNoteModel:
    """Creates the model with all its variables; initial weights come from Keras' global seed.

    Args:
        config: the run.
        pitch_range: the lowest and the highest pitch that the model plays.
    """
    model = NextNoteModel(config, pitch_range)
    notes = start_note(1).map(lambda field: field[:, tf.newaxis])
    hidden, _ = model.read(notes)
    model.heads.losses(hidden, notes._replace(pitch=tf.zeros_like(notes.pitch)))
    return model
