"""Matrix products of few rows on all cores of a CPU, for the compiled loop that plays.

XLA runs a product with few rows on a single core, which waits for its memory; but it runs the products of a batch side
by side. So a matrix is cut into blocks of columns, one a core, each small enough to stay in that core's cache.
"""

import os

import tensorflow as tf


def cut(matrix: tf.Tensor) -> tf.Tensor:
    """A matrix `[inputs, columns]` as blocks `[parts, inputs, columns / parts]`; on a GPU a single one."""
    cores = 1 if tf.config.list_physical_devices("GPU") else min(os.cpu_count() or 1, 8)
    parts = max(parts for parts in (1, 2, 4, 8) if parts <= cores and matrix.shape[1] % parts == 0)
    return tf.stack(tf.split(tf.convert_to_tensor(matrix), parts, axis=1))


def multiply(rows: tf.Tensor, blocks: tf.Tensor) -> tf.Tensor:
    """Rows `[batch, inputs]` times a matrix that `cut` cut: `[batch, columns]`."""
    products = tf.matmul(tf.repeat(rows[tf.newaxis], blocks.shape[0], axis=0), blocks)
    return tf.concat(tf.unstack(products), axis=-1)
