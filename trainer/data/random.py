"""Counter-based random numbers: a pure function of seed, purpose and example index.

An example is one window of the whole run: index = train_step x windows per train_step + position in the train_step.
Every draw is keyed by its example index, so one replica, two replicas and a resumed run use the same windows,
augmentation and dropout.
"""

import enum

import tensorflow as tf

_PHILOX = 1  # tf.random.Algorithm.PHILOX
_NUMBERS_PER_COUNT = 4  # Philox turns one counter value into four 32-bit numbers.


class Purpose(enum.IntEnum):
    """Independent streams of random numbers."""

    WINDOW = 1
    PHASE = 2
    AUGMENT = 3
    COMPOSER = 4
    DROPOUT = 5  # The first of one stream per layer: keep it the last.


def uniform_rows(seed: int, purpose: int, first_row: tf.Tensor, rows: tf.Tensor, columns: int) -> tf.Tensor:
    """Returns rows from `first_row` (int64) of a purpose's endless table of uniform numbers in [0, 1), float32."""
    # Philox computes its i-th block of numbers from counter i alone, so any slice can be computed directly.
    counts = -(-columns // _NUMBERS_PER_COUNT)
    counter = tf.stack([tf.cast(first_row * counts, tf.uint64), tf.constant(0, tf.uint64)])
    numbers = tf.raw_ops.StatelessRandomUniformV2(
        shape=[rows, counts * _NUMBERS_PER_COUNT],
        key=tf.constant([seed << 16 | purpose], tf.uint64),
        counter=counter,
        alg=_PHILOX,
        dtype=tf.float32,
    )
    return numbers[:, :columns]


def permute_index(seed: int, purpose: int, epoch: tf.Tensor, index: tf.Tensor, *, size: int) -> tf.Tensor:
    """Returns the position of each index `[n]` of `range(size)` in the shuffle of its epoch `[n]`, int64."""
    # The op uses few low bits of each seed word (8 for a small size) and mixes them little in its default of 4 rounds:
    # with plain words the shuffles would repeat after 256 epochs, and look alike under near seeds.
    key = _mix(tf.constant(seed << 16 | purpose, tf.uint64))
    words = _mix(key + tf.cast(epoch[:, tf.newaxis] * 3 + tf.range(3, dtype=tf.int64), tf.uint64))
    return tf.raw_ops.RandomIndexShuffle(
        index=index, seed=tf.cast(words, tf.uint32), max_index=tf.ones_like(epoch) * (size - 1), rounds=8
    )


def _mix(number: tf.Tensor) -> tf.Tensor:
    """Applies splitmix64 (Steele, Lea and Flood, 2014): a bijection of uint64 in which each bit depends on all."""
    number += tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        number = tf.bitwise.bitwise_xor(number, tf.bitwise.right_shift(number, tf.constant(shift, tf.uint64)))
        number *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(number, tf.bitwise.right_shift(number, tf.constant(31, tf.uint64)))
