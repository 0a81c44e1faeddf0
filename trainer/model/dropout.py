"""Reproducible dropout, independent of how a batch is divided among replicas."""

import tensorflow as tf

from trainer.data.random import Purpose, uniform_rows


class Dropout:
    """Dropout masks of one train_step's windows, shared by all notes of a window.

    One mask for all positions of a sequence is "variational" dropout (Gal and Ghahramani, 2016, arXiv:1512.05287).

    Args:
        seed: the run's seed.
        rate: fraction of activations set to zero, in [0, 1).
        first_example: int64 scalar, example index of the first window (`trainer.data.random`).
    """

    def __init__(self, seed: int, rate: float, first_example: tf.Tensor) -> None:
        self._seed = seed
        self._rate = rate
        self._first_example = first_example

    def __call__(self, layer: int, activations: tf.Tensor) -> tf.Tensor:
        """Drops and rescales activations `[windows, notes, units]` of the given layer."""
        if not self._rate:
            return activations
        windows, units = tf.shape(activations)[0], activations.shape[-1]
        uniform = uniform_rows(self._seed, Purpose.DROPOUT + layer, self._first_example, windows, units)
        mask = tf.cast(uniform >= self._rate, activations.dtype) / (1 - self._rate)
        return activations * mask[:, tf.newaxis, :]
