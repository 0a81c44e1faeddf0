"""Random numbers that are a pure function of (seed, purpose, slot), however the work is cut up.

A slot is one window of the whole run: slot n = train_step x global batch size + place in the batch. Because every draw
is keyed by its slot, one replica, two replicas and a resumed run see the same windows, augmentation and dropout.
"""

import enum

import tensorflow as tf

_PHILOX = 1  # tf.random.Algorithm.PHILOX
_DRAWS_PER_COUNT = 4  # 32-bit numbers that Philox makes of one counter value


class Purpose(enum.IntEnum):
    """What numbers are drawn for; each purpose is a stream of its own."""

    WINDOW = 1
    PHASE = 2
    AUGMENT = 3
    DROPOUT = 4  # the first of one stream per layer: keep it the last


def uniform_rows(seed: int, purpose: int, first_row: tf.Tensor, rows: tf.Tensor, columns: int) -> tf.Tensor:
    """Uniform numbers in [0, 1) for rows `first_row`, `first_row + 1`, … of an endless table.

    Philox makes its i-th block of four numbers from counter i alone, so that any slice of the table can be made
    without what comes before it.

    Args:
        seed: the run's seed.
        purpose: which table, a `Purpose` or a number derived from one.
        first_row: int64 scalar, the first row wanted.
        rows: int32 scalar, how many rows.
        columns: numbers in a row.

    Returns:
        float32 `[rows, columns]`.
    """
    counts = -(-columns // _DRAWS_PER_COUNT)
    counter = tf.stack([tf.cast(first_row * counts, tf.uint64), tf.constant(0, tf.uint64)])
    numbers = tf.raw_ops.StatelessRandomUniformV2(
        shape=[rows, counts * _DRAWS_PER_COUNT],
        key=tf.constant([seed << 16 | purpose], tf.uint64),
        counter=counter,
        alg=_PHILOX,
        dtype=tf.float32,
    )
    return numbers[:, :columns]


def shuffled(seed: int, purpose: int, epoch: tf.Tensor, index: tf.Tensor, size: int) -> tf.Tensor:
    """Where each index of `range(size)` comes to lie in the shuffle of its epoch.

    Args:
        seed: the run's seed.
        purpose: which shuffle, a `Purpose`.
        epoch: int64 `[n]`; each epoch has its own permutation.
        index: int64 `[n]` in `[0, size)`.
        size: length of what is shuffled.

    Returns:
        int64 `[n]` in `[0, size)`, a bijection of `index` for each epoch.
    """
    # The op uses but a few low bits of each seed word (8 for a small size) and mixes them little in its 4 rounds by
    # default: with plain words the shuffles would come again after 256 epochs, and look alike under near seeds.
    key = _mixed(tf.constant(seed << 16 | purpose, tf.uint64))
    words = _mixed(key + tf.cast(epoch[:, tf.newaxis] * 3 + tf.range(3, dtype=tf.int64), tf.uint64))
    return tf.raw_ops.RandomIndexShuffle(
        index=index, seed=tf.cast(words, tf.uint32), max_index=tf.ones_like(epoch) * (size - 1), rounds=8
    )


def _mixed(number: tf.Tensor) -> tf.Tensor:
    """A bijection of uint64 in which every bit depends on all others: splitmix64 (Steele, Lea and Flood, 2014)."""
    number += tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        number = tf.bitwise.bitwise_xor(number, tf.bitwise.right_shift(number, tf.constant(shift, tf.uint64)))
        number *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(number, tf.bitwise.right_shift(number, tf.constant(31, tf.uint64)))


class Dropout:
    """Dropout masks of one train_step's windows, shared by all notes of a window.

    One mask for all positions of a sequence is "variational" dropout (Gal and Ghahramani, 2016, arXiv:1512.05287).

    Args:
        seed: the run's seed.
        rate: share of activations set to zero, in [0, 1).
        first_slot: int64 scalar, slot of the first window.
    """

    def __init__(self, seed: int, rate: float, first_slot: tf.Tensor) -> None:
        self._seed = seed
        self._rate = rate
        self._first_slot = first_slot

    def __call__(self, layer: int, activations: tf.Tensor) -> tf.Tensor:
        """Drops and rescales activations `[windows, notes, units]` of the given layer."""
        if not self._rate:
            return activations
        uniform = uniform_rows(
            self._seed, Purpose.DROPOUT + layer, self._first_slot, tf.shape(activations)[0], activations.shape[-1]
        )
        mask = tf.cast(uniform >= self._rate, activations.dtype) / (1 - self._rate)
        return activations * mask[:, tf.newaxis, :]
