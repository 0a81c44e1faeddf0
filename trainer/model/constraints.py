"""Constraints on the sampling of the next note."""

from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.music.notes import TICK_US
from trainer.model.time_bins import BIN_STARTS, BIN_WIDTHS

# Added to the step, so that a tilt changes the proportion of chords little.
_ADDED_SECONDS: Final = 0.3


class Constraints(NamedTuple):
    """Constraints on the sampling of the next note; None stands for none.

    Attributes:
        pitches: which pitches may be sampled, bool `[batch, PITCHES]`: at least one within the model's range.
        tilt: `[batch]`: the probability of a step is divided by this power of it, with 0.3 s added; a tilt above 0
            favours short steps, below 0 long ones.
    """

    pitches: tf.Tensor | None = None
    tilt: tf.Tensor | None = None


NO_CONSTRAINTS = Constraints()


def tilt_steps(logits: tf.Tensor, tilt: tf.Tensor) -> tf.Tensor:
    """Returns the logits of the step's bins `[batch, BINS]`, tilted as `Constraints` explains."""
    seconds = (BIN_STARTS + (BIN_WIDTHS - 1) / 2) * TICK_US * 1e-6
    logarithms = tf.constant(np.log(seconds + _ADDED_SECONDS), logits.dtype)
    return logits - tf.cast(tilt, logits.dtype)[:, tf.newaxis] * logarithms
