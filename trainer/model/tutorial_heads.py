"""The heads of the TensorFlow tutorial's model: pitch logits, and times as single numbers."""

from typing import ClassVar

import keras
import tensorflow as tf

from sostenuto.music.notes import FIELDS, PITCHES
from trainer.data.note_tensors import NoteTensors
from trainer.model.categorical import categorical_nll, sample_categorical
from trainer.model.density_heads import NO_TOP_P, SHORTEST_US, PitchRange, TopP

_VELOCITY = 100  # of all sampled notes


class RegressionHeads(keras.layers.Layer):
    """Pitch logits, and step and duration in seconds as one number each; their input is the body's `[..., width]`."""

    loss_names: ClassVar[dict[str, str]] = {"pitch": "pitch_nll", "step": "step_mse", "duration": "duration_mse"}

    def __init__(self, dtype: str, pitch_range: PitchRange) -> None:
        super().__init__(dtype=dtype, name="heads")
        self.pitch_range = pitch_range
        self._pitch = keras.layers.Dense(PITCHES, dtype=dtype, name="pitch")
        self._step = keras.layers.Dense(1, dtype=dtype, name="step")
        self._duration = keras.layers.Dense(1, dtype=dtype, name="duration")

    def predict_fields(self, head_input: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns pitch logits `[..., 128]`, and step and duration in seconds `[...]`, which may be negative."""
        return {
            "pitch": self._pitch(head_input),
            "step": tf.squeeze(self._step(head_input), axis=-1),
            "duration": tf.squeeze(self._duration(head_input), axis=-1),
        }

    def losses(self, head_input: tf.Tensor, notes: NoteTensors) -> dict[str, tf.Tensor]:
        """Returns the training losses of notes `[...]`: cross entropy, and squared error with positive pressure."""
        predicted = self.predict_fields(head_input)
        return {
            "pitch": categorical_nll(predicted["pitch"], notes.pitch),
            "step": _squared_error_with_positive_pressure(notes.step_us, predicted["step"]),
            "duration": _squared_error_with_positive_pressure(notes.duration_us, predicted["duration"]),
        }

    def sample(
        self, head_input: tf.Tensor, uniforms: tf.Tensor, temperature: tf.Tensor, top_p: TopP = NO_TOP_P
    ) -> NoteTensors:
        """Samples a pitch for each row as `DensityHeads.sample`; step and duration are the predicted ones."""
        predicted = self.predict_fields(head_input)
        temperature = tf.broadcast_to(temperature, [len(FIELDS)])[0]
        pitch = sample_categorical(predicted["pitch"], uniforms[:, 0], temperature, top_p[0], self.pitch_range)
        step_us, duration_us = (
            tf.cast(tf.round(tf.maximum(predicted[field], 0) * 1e6), tf.int32) for field in ("step", "duration")
        )
        velocity = tf.fill(tf.shape(pitch), _VELOCITY)
        return NoteTensors(pitch, step_us, tf.maximum(duration_us, SHORTEST_US), velocity)


def _squared_error_with_positive_pressure(target_us: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    target = tf.cast(tf.cast(target_us, tf.float64) * 1e-6, predicted.dtype)
    return tf.square(target - predicted) + 10 * tf.maximum(-predicted, 0)
