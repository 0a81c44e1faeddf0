"""The head that predicts whether a performance ends after its newest note."""

from collections.abc import Iterator
from typing import Final

import keras
import tensorflow as tf

from trainer.config import Config
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.model.activations import gelu
from trainer.model.layers import MixedDense, glorot

_UNITS: Final = 32
_COUNT_BINS: Final = 40
_BINS_PER_E_FOLD: Final = 3  # The last bin begins at 440,000 notes.

# Performances of MAESTRO have some 4,000 notes, and an end should be as unlikely from the first train_step on.
_INITIAL_LOGIT: Final = -8.0

_SCALE: Final = 8.0  # factor of small weights, which an optimizer step moves little, as in `trainer.model.heads`


class EndHead(keras.layers.Layer):
    """The log-odds that a performance ends, from the body's output and the number of notes so far."""

    def __init__(self, config: Config, dtype: str, seeds: Iterator[int]) -> None:
        super().__init__(dtype=dtype, name="end")
        self._hidden = MixedDense(_UNITS, kernel_initializer=glorot(seeds), dtype=config.precision, name="hidden")
        self._counts = self.add_weight(shape=[_COUNT_BINS], initializer="zeros", name="counts")
        self._logit = self.add_weight(shape=[_UNITS, 1], initializer=glorot(seeds), name="logit")
        initializer = keras.initializers.Constant(_INITIAL_LOGIT)
        self._bias = self.add_weight(shape=[], initializer=initializer, name="bias")

    def call(self, body: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        """Returns the log-odds `[...]` for the body's output `[..., units]` and the number of notes, int64 `[...]`."""
        bins = tf.cast(_BINS_PER_E_FOLD * tf.math.log1p(tf.cast(position, tf.float32)), tf.int64)
        by_count = tf.gather(tf.convert_to_tensor(self._counts), tf.minimum(bins, _COUNT_BINS - 1))
        # In two dimensions: TensorFlow would multiply note by note.
        hidden = tf.reshape(gelu(self._hidden(body)), [-1, _UNITS])
        return tf.reshape(tf.matmul(hidden, self._logit), tf.shape(position)) + self._bias + _SCALE * by_count


def count_notes(notes: NoteTensors, before: tf.Tensor | tuple[()]) -> tf.Tensor | tuple[()]:
    """Returns the number of notes of the performance at each note, int64 `[batch, notes]`.

    Args:
        notes: the notes, `[batch, notes]`.
        before: the number before them, int64 `[batch]`; an empty tuple, as is the result, if none are counted.
    """
    if isinstance(before, tuple):
        return ()
    # Only the first input can be `START_PITCH`, which is not a note.
    starts = tf.cast(notes.pitch[:, :1] == START_PITCH, tf.int64)
    return before[:, tf.newaxis] - starts + tf.range(1, tf.shape(notes.pitch)[1] + 1, dtype=tf.int64)


def end_nll(logits: tf.Tensor, is_end: tf.Tensor) -> tf.Tensor:
    """Returns the negative log likelihood `[...]` in nats that a performance has ended, or has not where False."""
    return tf.nn.softplus(tf.where(is_end, -logits, logits))
