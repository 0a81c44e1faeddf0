"""The Transformer of `transformer.py`, and what is measured of a model. Needs KerasHub."""

import dataclasses
import functools
import logging
import statistics
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from run_parts import SCORED, score, train

from sostenuto.data.manifest import Manifest
from sostenuto.music.notes import Notes
from trainer.config import Config
from trainer.data.note_table import NoteTable, load_table
from trainer.data.note_tensors import NoteTensors
from trainer.data.recall import PitchRecall
from trainer.distribution.devices import exact_float32
from trainer.distribution.strategy import create_strategy
from trainer.engine.setup import RunSetup
from trainer.engine.train_state import TrainState
from trainer.evaluation.scorer import Scorer
from trainer.generation.sampler import NoteSampler
from trainer.model.activations import LayerNorm, gelu
from trainer.model.heads import HeadInput, PitchRange
from trainer.model.layers import Dropout
from trainer.model.memory import NoteMatches, remember
from trainer.model.next_note import ModelState, NextNoteModel, build_model, create_variables
from trainer.presets import preset
from trainer.workdir.evaluation_formats import NatsPerNote

READ_NOTES = 512  # of a primer that the Transformer reads at once: the attention of all would need gigabytes
PLAYED = 512  # notes whose playing is timed
WINDOW_FACTORS = (1, 2, 4, 8)  # of the notes of a training window: windows that are scored

Row = tuple[str, ...]


class Shape(NamedTuple):
    """Sizes of the Transformer; that of its feed-forward layers follows from the number of weights."""

    layers: int
    width: int
    heads: int


class Cache(NamedTuple):
    """Rotated keys, and values, of the last notes as rings `[batch, heads, window, width / heads]`.

    Note n is at n modulo the window. In training, the window is 0: there is no earlier note.
    """

    keys: tf.Tensor
    values: tf.Tensor


class BodyState(NamedTuple):
    """The caches of all layers, and the number of notes so far, float32 `[batch]`: exact up to 2**24."""

    caches: tuple[Cache, ...]
    count: tf.Tensor


class Attention(keras_hub.layers.CachedMultiHeadAttention):
    """Causal attention to as many last notes as the cache holds, with rotary positions."""

    def __init__(self, shape: Shape, **options: Any) -> None:
        super().__init__(shape.heads, shape.width // shape.heads, **options)
        self._rotary = keras_hub.layers.RotaryEmbedding(dtype=self.dtype_policy)

    def attend(self, stream: tf.Tensor, cache: Cache, count: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        """Returns the output for notes `[batch, notes, width]` that follow `count` others, and the next cache."""
        positions = count[:, tf.newaxis] + tf.range(tf.shape(stream)[1], dtype=count.dtype)
        query, key = (self._rotary(dense(stream), positions=positions) for dense in (self.query_dense, self.key_dense))
        query, key, value = (tf.transpose(part, [0, 2, 1, 3]) for part in (query, key, self.value_dense(stream)))
        if stream.shape[1] == 1 and cache.keys.shape[2]:
            cache, mask = _append(cache, Cache(key, value), count)
            attended = cache
            # XLA multiplies the keys where they lie; the other way round it would copy them first.
            scores = tf.linalg.matvec(attended.keys, query[:, :, 0])[:, :, tf.newaxis]
        else:
            attended, mask, cache = _extend(cache, Cache(key, value), count, positions)
            scores = tf.matmul(query, attended.keys, transpose_b=True)
        scores = tf.where(mask[:, tf.newaxis], scores * self.key_dim**-0.5, scores.dtype.min)
        output = tf.matmul(tf.nn.softmax(scores), attended.values)
        return self.output_dense(tf.transpose(output, [0, 2, 1, 3])), cache


def _append(cache: Cache, new: Cache, count: tf.Tensor) -> tuple[Cache, tf.Tensor]:
    """Writes one note into the rings; returns them, and where they hold notes, `[batch, 1, window]`."""
    batch, heads = tf.shape(count, tf.int64)[0], new.keys.shape[1]
    window = cache.keys.shape[2]
    row, head = tf.meshgrid(tf.range(batch), tf.range(heads, dtype=tf.int64), indexing="ij")
    place = tf.cast(tf.math.floormod(count, window), tf.int64)
    index = tf.stack([row, head, tf.repeat(place[:, tf.newaxis], heads, axis=1)], axis=-1)
    after = Cache(
        *(tf.tensor_scatter_nd_update(ring, index, note[:, :, 0]) for ring, note in zip(cache, new, strict=True))
    )
    is_held = tf.range(window, dtype=count.dtype) <= count[:, tf.newaxis]
    return after, is_held[:, tf.newaxis]


def _extend(cache: Cache, new: Cache, count: tf.Tensor, positions: tf.Tensor) -> tuple[Cache, tf.Tensor, Cache]:
    """Returns earlier and new keys and values, which note attends to which `[batch, notes, all]`, the next cache."""
    window = cache.keys.shape[2]
    both = Cache(*(tf.concat(pair, axis=2) for pair in zip(cache, new, strict=True)))
    slots = tf.range(window, dtype=count.dtype)
    held = _held(count, slots, window)
    numbers = tf.concat([held, positions], axis=1)[:, tf.newaxis]
    distance = positions[:, :, tf.newaxis] - numbers
    mask = (distance >= 0) & (numbers >= 0)
    if not window:
        return both, mask, cache
    number = _held(count + tf.cast(tf.shape(positions)[1], count.dtype), slots, window)
    first = count[:, tf.newaxis]
    source = tf.cast(tf.where(number >= first, window + number - first, slots), tf.int64)
    after = Cache(*(tf.gather(part, source, axis=2, batch_dims=1) for part in both))
    return both, mask & (distance < window), after


def _held(count: tf.Tensor, slots: tf.Tensor, window: int) -> tf.Tensor:
    """Returns the number of the note in each slot after `count` notes, below 0 where there is none."""
    last = count[:, tf.newaxis] - 1
    return last - tf.math.floormod(last - slots, max(window, 1))


class Block(keras.layers.Layer):
    """Attention and two dense layers, each behind a normalization and with a residual connection."""

    def __init__(self, shape: Shape, feed_forward: int, **options: Any) -> None:
        super().__init__(**options)
        self._norms = [LayerNorm(name=f"norm_{index}") for index in range(2)]
        self._attention = Attention(shape, name="attention")
        self._dense = [
            keras.layers.Dense(feed_forward, gelu, name="hidden"),
            keras.layers.Dense(shape.width, name="added"),
        ]

    def run(self, stream: tf.Tensor, cache: Cache, count: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        """Returns the stream after this block, and the next cache."""
        if not self._attention.built:
            self._attention.build(stream.shape, stream.shape)
        attended, cache = self._attention.attend(self._norms[0](stream), cache, count)
        stream += attended
        hidden, added = self._dense
        return stream + added(hidden(self._norms[1](stream))), cache


class TransformerModel(NextNoteModel):
    """The next-note model with a Transformer in the place of its LSTM layers.

    Attributes:
        shape: the sizes of its layers.
        window: the last notes that each layer attends to where a state is carried.
    """

    def __init__(
        self, config: Config, pitch_range: PitchRange, composers: Sequence[str], shape: Shape, feed_forward: int
    ) -> None:
        # One layer for the model around it: what `_run_layer` runs.
        super().__init__(config.replace(layers=1), pitch_range, composers)
        self.shape, self.window = shape, config.seq_length
        self._lstm = [keras.layers.Dense(shape.width, name="projection")]
        self._body_blocks = [Block(shape, feed_forward, name=f"block_{index}") for index in range(shape.layers)]

    def forward(
        self,
        inputs: NoteTensors,
        state: ModelState | None = None,
        recall: PitchRecall | tuple[()] = (),
        dropout: Dropout | None = None,
    ) -> tuple[HeadInput, ModelState]:
        """Runs the body over all notes; reads a long primer part by part."""
        notes = inputs.pitch.shape[1]
        if state is None:
            state = self._empty_state(tf.shape(inputs.pitch)[0], None, 0)
        if notes is None or notes <= READ_NOTES:
            return super().forward(inputs, state, recall, dropout)
        parts = []
        for first in range(0, notes, READ_NOTES):
            part, heard = tf.nest.map_structure(
                lambda field, first=first: field[:, first : first + READ_NOTES], (inputs, recall)
            )
            head_input, state = super().forward(part, state, heard, dropout)
            parts.append(head_input)
        return tf.nest.map_structure(lambda *fields: tf.concat(fields, axis=1), *parts), state

    def decode_weights(self) -> list:
        """Returns nothing: `decode_step` reads the layers' weights."""
        return []

    def decode_step(
        self,
        inputs: NoteTensors,
        state: ModelState,
        weights: list,
        matches: NoteMatches | None = None,
        returns: tf.Tensor | None = None,
    ) -> tuple[HeadInput, ModelState]:
        """Runs the body over one note."""
        memory, recall = remember(state.memory, inputs, matches, returns)
        note, heard = tf.nest.map_structure(lambda field: field[:, tf.newaxis], (inputs, recall))
        head_input, after = self.forward(note, state, heard)
        return head_input.map(lambda field: field[:, 0]), after._replace(memory=memory)

    def initial_state(self, batch: int | tf.Tensor, composer: tf.Tensor | np.ndarray | None = None) -> ModelState:
        """Returns the state of performances before they start: empty caches of `window` notes."""
        return self._empty_state(batch, composer, self.window)

    def window_state(self, position: tf.Tensor, composer: tf.Tensor) -> ModelState:
        """Returns the state before training windows, whose notes attend to each other alone: no caches."""
        state = self._empty_state(tf.shape(position)[0], composer, 0)
        return state._replace(position=position) if self.config.has_ending else state

    def _empty_state(self, batch: int | tf.Tensor, composer: Any, window: int) -> ModelState:
        empty = tf.zeros([batch, self.shape.heads, window, self.shape.width // self.shape.heads])
        # The model around it takes any state of a layer.
        state: Any = BodyState((Cache(empty, empty),) * self.shape.layers, tf.zeros([batch]))
        return super().initial_state(batch, composer)._replace(layers=(state,))

    def _run_layer(self, lstm: Any, stream: tf.Tensor, before: Any) -> tuple[tf.Tensor, Any]:
        stream, caches = lstm(stream), []
        for block, cache in zip(self._body_blocks, before.caches, strict=True):
            stream, cache = block.run(stream, cache, before.count)
            caches.append(cache)
        return stream, BodyState(tuple(caches), before.count + tf.cast(tf.shape(stream)[1], before.count.dtype))


def weights_of(model: keras.Model) -> int:
    """Counts a model's weights."""
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def build_transformer(
    config: Config, pitch_range: PitchRange, composers: Sequence[str], *, shape: Shape
) -> TransformerModel:
    """Creates a Transformer with as many weights as the model of the config has."""
    build = functools.partial(_build, config, pitch_range, composers, shape)
    missing = weights_of(build_model(config, pitch_range, composers)) - weights_of(build(1))
    return build(max(1 + round(missing / shape.layers / (2 * shape.width + 1)), 1))


def _build(
    config: Config, pitch_range: PitchRange, composers: Sequence[str], shape: Shape, feed_forward: int
) -> TransformerModel:
    keras.utils.set_random_seed(config.seed)  # Keras gives layers of one initializer with a seed equal weights.
    model = TransformerModel(config, pitch_range, composers, shape, feed_forward)
    create_variables(model)
    return model


# Measurements


def with_transformer(setup: RunSetup, shape: Shape) -> RunSetup:
    """Returns the setup with a Transformer in the place of its model."""
    strategy = create_strategy(setup.devices)
    with strategy.scope():
        build = functools.partial(build_transformer, shape=shape)
        state = TrainState(setup.config, setup.windows, strategy, build=build)
    return dataclasses.replace(setup, state=state, scorer=Scorer(state.model))


def choose_window(model: TransformerModel, validation: NoteTable) -> NatsPerNote:
    """Gives the model the window that scores best on validation; returns its nats/note."""
    scores = {}
    for factor in WINDOW_FACTORS:
        model.window = window = factor * model.config.seq_length
        scores[window] = score(model, validation)
        print(f"  window of {window:,} notes: {scores[window]['total']:.3f} nats/note", file=sys.stderr, flush=True)
    model.window = min(scores, key=lambda window: scores[window]["total"])
    return scores[model.window]


def play(model: NextNoteModel, primer: Notes, rounds: int) -> float:
    """Returns the notes per second with which one voice continues a primer, the median of several rounds."""
    sampler = NoteSampler(model)
    speeds = [
        sampler.sample(primer, num_notes=PLAYED, temperature=1.0, seed=seed, end_odds=0.0).notes_per_second
        for seed in range(rounds)
    ]
    return statistics.median(speeds)


def primer_of(table: NoteTable, notes: int) -> Notes:
    """Returns a primer of the notes of a split, from its start, again and again if it is shorter."""
    rows = np.resize(table.notes, notes)
    rows["step_us"][0] = 0  # Time starts with the first note.
    return Notes(*(rows[field] for field in NoteTensors._fields))


def measure(dataset: str, options: dict[str, Any], histories: Sequence[int], rounds: int) -> list[Row]:
    """Trains and measures one model: `base` with some fields, and a Transformer's layers if there is a `shape`."""
    tf.get_logger().setLevel(logging.ERROR)  # Each sampler traces anew.
    options = dict(options)
    shape = Shape(*options.pop("shape")) if "shape" in options else None
    config = preset("base").replace(**options)
    manifest = Manifest.load(dataset)
    trained = train(manifest, config, functools.partial(with_transformer, shape=shape) if shape else None)
    model, validation = trained.model, load_table(manifest, "validation")
    primers = [primer_of(validation, notes) for notes in histories]
    body = f"{config.layers}xLSTM({config.units})"
    with exact_float32():
        nats = choose_window(model, validation) if isinstance(model, TransformerModel) else score(model, validation)
    if isinstance(model, TransformerModel):
        body = f"{model.shape.layers}xTransformer({model.shape.width}) {config.seq_length}, attends to {model.window:,}"
    cells = [f"{weights_of(model):,}", *(f"{nats[field]:.3f}" for field in SCORED), f"{trained.notes_per_second:,.0f}"]
    played = [f"{play(model, primer, rounds):,.0f}" for primer in primers]
    rows = [(f"{body}, {'with' if model.has_memory else 'without'} memory", *cells, *played)]
    if isinstance(model, TransformerModel):
        played = []
        for primer in primers:
            model.window = len(primer) + PLAYED + 1  # and the start marker
            played.append(f"{play(model, primer, rounds):,.0f}")
        rows.append(("the same, attends to all notes", *["–"] * len(cells), *played))
    return rows
