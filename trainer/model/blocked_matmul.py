"""Matrix products of few rows on all cores of a CPU, for the compiled loop that generates notes.

XLA computes a product of few rows on one core, which waits for memory, but it computes the products of a batch in
parallel. So a matrix is split into blocks of columns, one per core, each small enough for that core's cache.
"""

import os

import tensorflow as tf


def split_columns(matrix: tf.Tensor) -> tf.Tensor:
    """Splits a matrix `[inputs, columns]` into blocks `[blocks, inputs, columns / blocks]`; on a GPU into one."""
    cores = 1 if tf.config.list_physical_devices("GPU") else min(os.cpu_count() or 1, 8)
    blocks = max(blocks for blocks in (1, 2, 4, 8) if blocks <= cores and matrix.shape[1] % blocks == 0)
    return tf.stack(tf.split(tf.convert_to_tensor(matrix), blocks, axis=1))


def matmul(rows: tf.Tensor, blocks: tf.Tensor) -> tf.Tensor:
    """Multiplies rows `[batch, inputs]` with a matrix from `split_columns`: `[batch, columns]`."""
    products = tf.matmul(tf.repeat(rows[tf.newaxis], blocks.shape[0], axis=0), blocks)
    return tf.concat(tf.unstack(products), axis=-1)
