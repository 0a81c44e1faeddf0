"""Constraints on the sampling of the next note."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.music.notes import TICK_US
from trainer.model.time_bins import BIN_STARTS, BIN_WIDTHS

_SMALL_SECONDS = 0.05


class Constraints(NamedTuple):
    """Constraints on the sampling of the next note; None stands for none.

    Attributes:
        pitches: which pitches may be sampled, bool `[batch, PITCHES]`: at least one within the model's range.
        tilt: `[batch]`: above 0 it favours short steps, below 0 long ones.
    """

    pitches: tf.Tensor | None = None
    tilt: tf.Tensor | None = None


NO_CONSTRAINTS = Constraints()


def tilt_steps(logits: tf.Tensor, tilt: tf.Tensor) -> tf.Tensor:
    """Returns the logits of the step's bins `[batch, BINS]`, tilted exponentially.

    Each probability is multiplied by a power of the step, to which 50 ms are added so that chords keep theirs.
    """
    seconds = (BIN_STARTS + (BIN_WIDTHS - 1) / 2) * TICK_US * 1e-6
    logarithms = np.log(seconds + _SMALL_SECONDS)
    return logits - tilt[:, tf.newaxis] * tf.constant(logarithms, logits.dtype)
