"""The next-note model: embedded notes, LSTM layers and heads.

The model scales its inputs: callers pass MIDI numbers and microseconds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.config import Config
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.data.recall import PitchRecall, empty_recall
from trainer.model import note_history
from trainer.model.activations import LayerNorm
from trainer.model.end_head import count_notes
from trainer.model.heads import ALL_PITCHES, DensityHeads, HeadInput, PitchRange, RegressionHeads
from trainer.model.layers import (
    Dropout,
    MixedDense,
    NoteEmbedding,
    embedding,
    glorot,
    initializer_seeds,
    scale_fields,
)
from trainer.model.lstm_layers import (
    DecodeWeights,
    LayerState,
    create_layer,
    decode_layer,
    make_decode_weights,
    run_layer,
)
from trainer.model.memory import Memory, NoteMatches, empty_memory, remember
from trainer.model.recall_heads import expected_keys

_History = note_history.NoteHistory | tuple[()]


class ModelState(NamedTuple):
    """State of a model between notes.

    Attributes:
        layers: of each LSTM layer.
        history: the last notes, `[batch, HISTORY_LENGTH]`; an empty tuple for a model without note history.
        memory: the notes of the performance; an empty tuple for a model without memory, and in `forward`, whose callers
            know the whole performance.
        position: the number of notes of each performance so far, int64 `[batch]`; an empty tuple for a model that
            predicts no end.
        composer: 1 + the index of each performance's composer in `NextNoteModel.composers`, 0 for an unknown one, int64
            `[batch]`; an empty tuple for a model with `composer_embedding=0`.
    """

    layers: tuple[LayerState, ...]
    history: _History
    memory: Memory | tuple[()] = ()
    position: tf.Tensor | tuple[()] = ()
    composer: tf.Tensor | tuple[()] = ()


class NextNoteModel(keras.Model):
    """Predicts the next note from the notes before it.

    Attributes:
        config: the config that it was built from.
        composers: the names of the composers that it knows; none if its dataset names none, or `config` disables them.
        heads: the layers that predict a note, or its losses, from a `HeadInput`.
        has_memory: True if the model uses recall.
        cudnn: True runs Keras' LSTM layers, which use cuDNN on a GPU; False runs `lstm_cpu.lstm`. By default True if a
            GPU is visible. Set it to False before tracing for a CPU on a machine with GPUs.
    """

    def __init__(self, config: Config, pitch_range: PitchRange = ALL_PITCHES, composers: Sequence[str] = ()) -> None:
        # Logits, losses and normalizations have the precision of the variables; LSTM and hidden layers may have less.
        full = config.full_precision
        super().__init__(dtype=full, name="next_note")
        self.config, self.composers = config, tuple(composers)
        self.has_memory = config.has_memory
        self.cudnn = bool(tf.config.list_physical_devices("GPU"))
        seeds = initializer_seeds(config.seed)
        self._lstm = [create_layer(config, index, seeds) for index in range(config.layers)]
        self._recent = self._composer = None
        if config.model == "density":
            self._embedding = NoteEmbedding(config, full, seeds)
            if config.recent_embedding:
                self._recent = MixedDense(
                    config.recent_embedding,
                    use_bias=False,
                    kernel_initializer=glorot(seeds),
                    dtype=config.precision,
                    name="recent",
                )
            if config.has_composers:
                # From zero, and without the scale of notes' vectors: slow ones learn a style and no single piece.
                self._composer = embedding(
                    1 + len(self.composers),
                    config.composer_embedding,
                    seeds,
                    dtype=full,
                    name="composer",
                    start="zeros",
                )
            self._norms = [LayerNorm(dtype=full, name=f"norm_{layer + 1}") for layer in range(config.layers)]
            self.heads = DensityHeads(config, full, pitch_range, seeds)
        else:
            self.heads = RegressionHeads(full, pitch_range, seeds)

    def forward(
        self,
        inputs: NoteTensors,
        state: ModelState | None = None,
        recall: PitchRecall | tuple[()] = (),
        dropout: Dropout | None = None,
    ) -> tuple[HeadInput, ModelState]:
        """Runs the body over all notes.

        Args:
            inputs: notes `[batch, notes]`; `START_PITCH` where a performance starts.
            state: from an earlier call; by default `initial_state`.
            recall: candidates for the pitch after each note; by default none.
            dropout: masks for training; by default none.

        Returns:
            The heads' input, `[batch, notes, ...]`, and the state after the last note.
        """
        state = self.initial_state(tf.shape(inputs.pitch)[0]) if state is None else state
        history, releases, recent = self._update_history(inputs, state.history, recall)
        composer = self._embed_composers(state.composer, tf.shape(inputs.pitch)[1])
        stream = tf.concat([self._encode(inputs), *recent, *composer], axis=-1)
        layers = []
        for index, (lstm, before) in enumerate(zip(self._lstm, state.layers, strict=True)):
            output, after = self._run_layer(lstm, self._normalize(index, stream), before)
            layers.append(after)
            stream = self._residual(index, stream, tf.cast(output, self.compute_dtype), dropout)
        position = count_notes(inputs, state.position)
        last_history, last_position = tf.nest.map_structure(lambda part: part[:, -1], (history, position))
        end = ModelState(tuple(layers), last_history, (), last_position, state.composer)
        body = self._normalize(self.config.layers, stream)
        return HeadInput(body, note_history.remaining_us(history), releases, recall, position), end

    def decode_weights(self) -> list[DecodeWeights]:
        """Returns the weights for `decode_step`; compute them once for many notes."""
        first = self._embedding if self.config.model == "density" else None
        return [make_decode_weights(lstm, None if index else first) for index, lstm in enumerate(self._lstm)]

    def decode_step(
        self,
        inputs: NoteTensors,
        state: ModelState,
        weights: list[DecodeWeights],
        matches: NoteMatches | None = None,
        returns: tf.Tensor | None = None,
    ) -> tuple[HeadInput, ModelState]:
        """Runs the body over one note: `forward` without its loop, in the precision of the variables.

        Args:
            inputs: the note, `[batch]`.
            state: the initial state for decoding or that of the previous call, in the precision of the variables.
            weights: from `decode_weights`.
            matches: the note's matches, if `DensityHeads.sample` returned them.
            returns: the fraction of the remembered notes that lies between the note and an earlier passage to which the
                music returns, `[batch]` in [0, 1); below 0 it does not return, as by default.

        Returns:
            The heads' input, `[batch, ...]`, and the next state.
        """
        memory, recall = remember(state.memory, inputs, matches, returns)
        sequence = tf.nest.map_structure(lambda value: value[:, tf.newaxis], (inputs, recall))
        update = self._update_history(sequence[0], state.history, sequence[1])
        history, releases, recent, position = tf.nest.map_structure(
            lambda value: value[:, 0], (*update, count_notes(sequence[0], state.position))
        )
        recent = [*recent, *(vector[:, 0] for vector in self._embed_composers(state.composer, 1))]
        layers = []
        stream = None if weights[0].tables else self._encode(inputs)
        for index, (layer, before) in enumerate(zip(weights, state.layers, strict=True)):
            features = recent if layer.tables else [self._normalize(index, stream)]
            layers.append(decode_layer(layer, features, inputs, before))
            stream = self._residual(index, stream, layers[-1].hidden, None)
        body = self._normalize(self.config.layers, stream)
        head_input = HeadInput(body, note_history.remaining_us(history), releases, recall, position)
        return head_input, ModelState(tuple(layers), history, memory, position, state.composer)

    def initial_state(self, batch: int | tf.Tensor, composer: tf.Tensor | np.ndarray | None = None) -> ModelState:
        """Returns the state of performances before they start: zeros, no history.

        Args:
            batch: a scalar, the number of performances.
            composer: int64 `[batch]`, as in `ModelState`; by default all are unknown.
        """
        zeros = [tf.zeros([batch, self.config.units], lstm.compute_dtype) for lstm in self._lstm]
        layers = tuple(LayerState(zero, zero) for zero in zeros)
        zero = tf.zeros([batch], tf.int64)
        return ModelState(
            layers,
            note_history.empty_history(batch) if self._recent else (),
            position=zero if self.config.has_ending else (),
            composer=(zero if composer is None else tf.cast(composer, tf.int64)) if self._composer else (),
        )

    def window_state(self, position: tf.Tensor, composer: tf.Tensor) -> ModelState:
        """Returns the state before training windows, from `position` and `composer`, int64 `[windows]` each."""
        state = self.initial_state(tf.shape(position)[0], composer)
        return state._replace(position=position) if self.config.has_ending else state

    def initial_decode_state(
        self, batch: int | tf.Tensor, composer: tf.Tensor | np.ndarray | None = None
    ) -> ModelState:
        """Returns the state of `initial_state` for `decode_step`: in its precision, with an empty memory.

        Args:
            batch: a scalar, the number of performances.
            composer: int64 `[batch]`, as in `ModelState`; by default all are unknown.
        """
        state = self.initial_state(batch, composer)
        layers = tf.nest.map_structure(lambda value: tf.cast(value, self.compute_dtype), state.layers)
        return state._replace(layers=layers, memory=empty_memory(batch) if self.has_memory else ())

    def _run_layer(
        self, lstm: keras.layers.LSTM, stream: tf.Tensor, before: LayerState
    ) -> tuple[tf.Tensor, LayerState]:
        # benchmarks/transformer_parts.py runs other layers here.
        return run_layer(lstm, stream, before, cudnn=self.cudnn)

    def _encode(self, notes: NoteTensors) -> tf.Tensor:
        if self.config.model == "density":
            return self._embedding.embed(notes)
        return scale_fields(notes, self.compute_dtype)

    def _update_history(
        self, notes: NoteTensors, before: _History, recall: PitchRecall | tuple[()]
    ) -> tuple[_History, tf.Tensor | tuple[()], list[tf.Tensor]]:
        """Returns the history at each note `[batch, notes]`, its releases, and features for the first layer.

        The features are of the history and of the recalled pitches.
        """
        if self._recent is None or not isinstance(before, note_history.NoteHistory):
            return (), (), []
        history = note_history.extend_history(notes, before)
        releases = note_history.release_histogram(history.remaining_us, self.compute_dtype)
        features = [note_history.key_features(history, self.compute_dtype), releases]
        if self.has_memory:
            pitches = recall if isinstance(recall, PitchRecall) else empty_recall(tf.shape(notes.pitch))[0]
            features.append(expected_keys(pitches, self.compute_dtype))
        return history, releases, [self._recent(tf.concat(features, axis=-1))]

    def _embed_composers(self, composer: tf.Tensor | tuple[()], notes: int | tf.Tensor) -> list[tf.Tensor]:
        """Returns features of the composers `[batch]` for the first layer, `[batch, notes, composer_embedding]`."""
        if self._composer is None:
            return []
        return [tf.repeat(self._composer(composer)[:, tf.newaxis], notes, axis=1)]

    def _normalize(self, index: int, stream: tf.Tensor) -> tf.Tensor:
        """Normalizes the input of layer `index`, or of the heads after the last layer; embeddings stay as they are."""
        return self._norms[index - 1](stream) if self.config.model == "density" and index else stream

    def _residual(self, index: int, stream: tf.Tensor | None, output: tf.Tensor, dropout: Dropout | None) -> tf.Tensor:
        """Applies dropout to a layer's output and, except after the first layer, adds it to the stream."""
        if dropout is not None:
            output = dropout(index, output)
        return stream + output if self.config.model == "density" and index else output


def start_note(batch: int) -> NoteTensors:
    """Returns the input before a performance's first note, int32 `[batch]` each."""
    return NoteTensors(tf.fill([batch], START_PITCH), *(tf.zeros([batch], tf.int32) for _ in range(3)))


def build_model(config: Config, pitch_range: PitchRange = ALL_PITCHES, composers: Sequence[str] = ()) -> NextNoteModel:
    """Creates the model with all its variables; initial weights depend on the config and the number of composers."""
    model = NextNoteModel(config, pitch_range, composers)
    create_variables(model)
    return model


def create_variables(model: NextNoteModel) -> None:
    """Creates a model's variables."""
    notes = start_note(1).map(lambda field: field[:, tf.newaxis])
    head_input, _ = model.forward(notes)
    targets = notes._replace(pitch=tf.zeros_like(notes.pitch))
    pitches, times = empty_recall(tf.shape(notes.pitch))
    model.heads.losses(head_input._replace(recall=pitches), targets, times)
