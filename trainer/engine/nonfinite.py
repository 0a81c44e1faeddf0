"""Diagnosis of a loss or gradient that is infinite or not a number."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from trainer.engine.train_step import ReplicaStep


class NonFinite(NamedTuple):
    """Origin of a value that is infinite or not a number."""

    train_step: int  # train_steps done before the one that failed
    field: str  # of the loss, or of the loss whose gradient it is
    quantity: str  # `loss` or `gradient`
    performance: int  # index of the performance of the worst window
    first_note: int  # the first note that the window predicts
    last_note: int


def find_nonfinite(step: ReplicaStep, train_step: int, windows: int) -> NonFinite:
    """Finds the worst of a failed train_step's windows by repeating it window by window on one device."""

    def window_losses(window: tf.Tensor) -> dict[str, tf.Tensor]:
        losses = step.losses(step.windows.batch(window, 1))
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
    """Returns the error that ends a run trained on these performances, given as indices in the train split."""
    path = next(itertools.islice(manifest.read_performances("train"), performances[origin.performance], None)).path
    return UserError(
        f"train_step {origin.train_step + 1}: the {origin.quantity} of {origin.field} is infinite or not a number. "
        f"The worst window is notes {origin.first_note} to {origin.last_note} of {path}. "
        "Start again in another --workdir with a lower --learning_rate, or with --clip_norm"
    )
