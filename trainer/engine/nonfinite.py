"""Diagnosis of a loss or gradient that is infinite or not a number."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from trainer.engine.train_step import ReplicaStep


class NonFinite(NamedTuple):
    """Origin of a value that is infinite or not a number.

    Attributes:
        train_step: train_steps done before the one that failed.
        field: the field of the loss, or of the loss whose gradient it is.
        quantity: `loss` or `gradient`.
        performance: index of the performance of the worst window.
        first_note: the first note that the window predicts.
        last_note: the last note that the window predicts.
    """

    train_step: int
    field: str
    quantity: str
    performance: int
    first_note: int
    last_note: int


def find_nonfinite(step: ReplicaStep, train_step: int, windows: int) -> NonFinite:
    """Finds the worst window of a failed train_step by repeating it window by window on one device.

    Args:
        step: the train_step's computation.
        train_step: train_steps done before the one that failed.
        windows: the number of windows of a train_step.
    """

    def window_losses(window: tf.Tensor) -> dict[str, tf.Tensor]:
        losses, _ = step.losses(window, 1)
        return {field: tf.reduce_sum(loss) for field, loss in losses.items()}

    def window_gradients(window: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape(persistent=True) as tape:
            losses = window_losses(window)
        norms = {}
        for field, loss in losses.items():
            gradients = tape.gradient(loss, step.weights)
            norms[field] = tf.linalg.global_norm([gradient for gradient in gradients if gradient is not None])
        return norms

    numbers = range(train_step * windows, (train_step + 1) * windows)
    for quantity, function in (("loss", window_losses), ("gradient", window_gradients)):  # noqa: B007
        traced = tf.function(function, autograph=False, input_signature=(tf.TensorSpec([], tf.int64),))
        values = [traced(tf.constant(number, tf.int64)) for number in numbers]
        # A value that is not a number counts as infinite.
        sizes = {
            field: [np.nan_to_num(value[field], nan=np.inf, posinf=np.inf) for value in values] for field in step.fields
        }
        field = max(step.fields, key=lambda field: max(sizes[field]))
        if np.isinf(max(sizes[field])):
            break
    # If every window is finite and only their sum is not, the largest gradient is named.
    worst = numbers[int(np.argmax(sizes[field]))]
    return NonFinite(train_step, field, quantity, *step.windows.place(worst))


def nonfinite_error(origin: NonFinite, manifest: Manifest, performances: Sequence[int]) -> UserError:
    """Returns the error that ends a run whose loss is infinite or not a number.

    Args:
        origin: the origin of the value.
        manifest: the dataset.
        performances: index in the train split of each performance that is trained on.
    """
    path = next(
        performance.path
        for index, performance in enumerate(manifest.read_performances("train"))
        if index == performances[origin.performance]
    )
    return UserError(
        f"train_step {origin.train_step + 1}: the {origin.quantity} of {origin.field} is infinite or not a number. "
        f"The worst window is notes {origin.first_note} to {origin.last_note} of {path}. "
        "Start again in another --workdir with a lower --learning_rate, or with --clip_norm"
    )
