"""Learned embeddings of notes."""

import keras
import tensorflow as tf

from sostenuto.music.notes import PITCHES
from trainer.config import Config
from trainer.data.note_tensors import NoteTensors
from trainer.model.time_bins import BINS
from trainer.model.time_distribution import bins

# Embeddings start within 0.05 of zero, and an optimizer step has the same length for them as for any weight. Scaled up,
# they are as large as activations and learn faster in proportion.
_SCALE = 32.0


class NoteEmbedding(keras.layers.Layer):
    """Raw notes as learned vectors, one table for each field; times through logarithmic bins.

    Attributes:
        size: columns of the vectors.
    """

    def __init__(self, config: Config, dtype: str) -> None:
        super().__init__(dtype=dtype, name="embedding")
        shapes = {
            "pitch": (PITCHES + 1, config.pitch_embedding),
            "step": (BINS, config.time_embedding),
            "duration": (BINS, config.time_embedding),
            "velocity": (PITCHES, config.velocity_embedding),
        }
        self.size = sum(size for _, size in shapes.values())
        self._layers_by_field = [
            keras.layers.Embedding(rows, size, dtype=dtype, name=field) for field, (rows, size) in shapes.items()
        ]

    def embed(self, notes: NoteTensors) -> tf.Tensor:
        """Concatenates the vectors of all fields of notes `[...]`: `[..., size]`."""
        vectors = [layer(row) for layer, row in zip(self._layers_by_field, _rows(notes), strict=True)]
        return _SCALE * tf.concat(vectors, axis=-1)

    def project_tables(self, matrix: tf.Tensor) -> list[tf.Tensor]:
        """Returns a table `[rows, columns]` a field, so that `lookup_sum` equals `embed @ matrix` `[size, columns]`."""
        blocks = tf.split(matrix, [layer.output_dim for layer in self._layers_by_field])
        return [
            tf.matmul(_SCALE * layer.embeddings, block)
            for layer, block in zip(self._layers_by_field, blocks, strict=True)
        ]

    def lookup_sum(self, tables: list[tf.Tensor], notes: NoteTensors) -> tf.Tensor:
        """Sums the rows of notes `[...]` in the tables from `project_tables`: `[..., columns]`."""
        return tf.add_n([tf.gather(table, row) for table, row in zip(tables, _rows(notes), strict=True)])


def _rows(notes: NoteTensors) -> tuple[tf.Tensor, ...]:
    """Returns the row of each field in its table."""
    return notes.pitch, bins(notes.step_us), bins(notes.duration_us), notes.velocity
