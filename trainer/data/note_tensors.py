"""Raw notes as tensors: the input and the target of the model."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import tensorflow as tf

from sostenuto.music.notes import PITCHES

START_PITCH: Final = PITCHES
"""The input pitch that marks the start of a performance; its step, duration and velocity are 0."""


class NoteTensors(NamedTuple):
    """Raw notes as int32 arrays or tensors of one shape: MIDI numbers and microseconds."""

    pitch: tf.Tensor
    step_us: tf.Tensor
    duration_us: tf.Tensor
    velocity: tf.Tensor

    def map(self, function: Callable[[tf.Tensor], Any]) -> "NoteTensors":
        """Applies `function`, whose tensors may have any shape, to each field; the results have any shape."""
        return NoteTensors(*(function(field) for field in self))
