"""Small layers of the model: embeddings, dense layers of mixed precision, dropout and matrix products of few rows."""

import os
import random
from collections.abc import Iterator
from typing import Final, Literal

import keras
import tensorflow as tf

from sostenuto.music.notes import PITCHES
from trainer.config import Config
from trainer.data.note_tensors import NoteTensors
from trainer.data.random import Purpose, uniform_rows
from trainer.model.time_bins import BINS
from trainer.model.time_distribution import bins

# Embeddings start within 0.05 of zero, and an optimizer step has the same length for them as for any weight. Scaled up,
# they are as large as activations and learn faster in proportion.
EMBEDDING_SCALE: Final = 32.0


def initializer_seeds(seed: int) -> Iterator[int]:
    """Yields a seed for each initializer, in the order in which the layers are created."""
    # The seeds that Keras draws by default from the process's generator, which other threads use too.
    generator = random.Random(seed)
    while True:
        yield generator.randint(1, 10**9)


def glorot(seeds: Iterator[int]) -> keras.Initializer:
    """Returns the initializer of a kernel, with the next seed."""
    return keras.initializers.GlorotUniform(next(seeds))


def embedding(
    rows: int,
    columns: int,
    seeds: Iterator[int],
    *,
    dtype: str,
    name: str,
    start: Literal["random", "zeros"] = "random",
) -> keras.layers.Embedding:
    """Returns a table of learned vectors, random ones of the next seed or zeros."""
    initializer = keras.initializers.RandomUniform(seed=next(seeds)) if start == "random" else "zeros"
    return _Embedding(rows, columns, initializer, dtype=dtype, name=name)


class _Embedding(keras.layers.Embedding):
    """An embedding without Keras' support of negative rows, which is computed on the host of a GPU."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.gather(tf.convert_to_tensor(self.embeddings), inputs)


class NoteEmbedding(keras.layers.Layer):
    """Raw notes as learned vectors of `size` columns, one table for each field; times through logarithmic bins."""

    def __init__(self, config: Config, dtype: str, seeds: Iterator[int]) -> None:
        super().__init__(dtype=dtype, name="embedding")
        shapes = {
            "pitch": (PITCHES + 1, config.pitch_embedding),
            "step": (BINS, config.time_embedding),
            "duration": (BINS, config.time_embedding),
            "velocity": (PITCHES, config.velocity_embedding),
        }
        self.size = sum(size for _, size in shapes.values())
        self._layers_by_field = [
            embedding(rows, size, seeds, dtype=dtype, name=field) for field, (rows, size) in shapes.items()
        ]

    def embed(self, notes: NoteTensors) -> tf.Tensor:
        """Concatenates the vectors of all fields of notes `[...]`: `[..., size]`."""
        vectors = [layer(row) for layer, row in zip(self._layers_by_field, _table_rows(notes), strict=True)]
        return EMBEDDING_SCALE * tf.concat(vectors, axis=-1)

    def project_tables(self, matrix: tf.Tensor) -> list[tf.Tensor]:
        """Returns a table `[rows, columns]` a field, so that `lookup_sum` equals `embed @ matrix` `[size, columns]`."""
        blocks = tf.split(matrix, [layer.output_dim for layer in self._layers_by_field])
        return [
            tf.matmul(EMBEDDING_SCALE * layer.embeddings, block)
            for layer, block in zip(self._layers_by_field, blocks, strict=True)
        ]


def scale_fields(notes: NoteTensors, dtype: str) -> tf.Tensor:
    """Returns the pitch from 0 to 1, and step and duration in seconds, of notes `[...]`: `[..., 3]`."""
    seconds = [tf.cast(tf.cast(field, tf.float64) * 1e-6, dtype) for field in (notes.step_us, notes.duration_us)]
    return tf.stack([tf.cast(notes.pitch, dtype) / PITCHES, *seconds], axis=-1)


def lookup_sum(tables: list[tf.Tensor], notes: NoteTensors) -> tf.Tensor:
    """Sums the rows of notes `[...]` in the tables from `NoteEmbedding.project_tables`: `[..., columns]`."""
    return tf.add_n([tf.gather(table, row) for table, row in zip(tables, _table_rows(notes), strict=True)])


def _table_rows(notes: NoteTensors) -> tuple[tf.Tensor, ...]:
    return notes.pitch, bins(notes.step_us), bins(notes.duration_us), notes.velocity


class MixedDense(keras.layers.Dense):
    """A dense layer that multiplies in its compute type and returns the type of its variables."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps inputs `[..., features]` to `[..., units]`."""
        return tf.cast(super().call(inputs), self.variable_dtype)


class Dropout:
    """Dropout masks of a train_step's windows, the first with example index `first_example` (int64 scalar).

    All notes of a window share a mask: "variational" dropout (Gal and Ghahramani, 2016, arXiv:1512.05287). The masks
    do not depend on how a batch is divided among replicas.
    """

    def __init__(self, seed: int, rate: float, first_example: tf.Tensor) -> None:
        self._seed, self._rate, self._first_example = seed, rate, first_example

    def __call__(self, layer: int, activations: tf.Tensor) -> tf.Tensor:
        """Drops and rescales activations `[windows, notes, units]` of the given layer."""
        if not self._rate:
            return activations
        windows, units = tf.shape(activations)[0], activations.shape[-1]
        uniform = uniform_rows(self._seed, Purpose.DROPOUT + layer, self._first_example, windows, units)
        mask = tf.cast(uniform >= self._rate, activations.dtype) / (1 - self._rate)
        return activations * mask[:, tf.newaxis, :]


def split_columns(matrix: tf.Tensor) -> tf.Tensor:
    """Splits a matrix `[inputs, columns]` into blocks `[blocks, inputs, columns / blocks]`; on a GPU into one."""
    # XLA computes a product of few rows on one core, which waits for memory, but the products of a batch in parallel:
    # a block per core, each small enough for that core's cache.
    cores = 1 if tf.config.list_physical_devices("GPU") else min(len(os.sched_getaffinity(0)), 8)
    blocks = max(blocks for blocks in (1, 2, 4, 8) if blocks <= cores and matrix.shape[1] % blocks == 0)
    return tf.stack(tf.split(tf.convert_to_tensor(matrix), blocks, axis=1))


def blocked_matmul(rows: tf.Tensor, blocks: tf.Tensor) -> tf.Tensor:
    """Multiplies rows `[batch, inputs]` with a matrix from `split_columns`: `[batch, columns]`."""
    products = tf.matmul(tf.repeat(rows[tf.newaxis], blocks.shape[0], axis=0), blocks)
    return tf.concat(tf.unstack(products), axis=-1)
