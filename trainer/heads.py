"""From the body's output to the next note: what each kind of model predicts, its losses, and how a note is drawn."""

from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from notes.representation import FIELDS, MAX_TICK, PITCHES, TICK_US
from trainer.config import Config
from trainer.dataset import NoteArrays

_FINE_TICKS = 20  # ticks below this have a bin each
_BIN_GROWTH = 1.06  # ratio of the borders of two neighbouring bins above


def _bin_starts() -> np.ndarray:
    starts = list(range(_FINE_TICKS))
    while starts[-1] < MAX_TICK:
        starts.append(min(max(starts[-1] + 1, round(starts[-1] * _BIN_GROWTH)), MAX_TICK))
    return np.array(starts, np.int32)


BIN_STARTS = _bin_starts()
"""int32 `[bins]`: the first tick of each bin; the last bin is the tick that stands for 10 s and more."""

BINS = len(BIN_STARTS)
BIN_WIDTHS = np.diff([*BIN_STARTS, MAX_TICK + 1]).astype(np.int32)
_BIN_OF_TICK = np.repeat(np.arange(BINS, dtype=np.int32), BIN_WIDTHS)

_AFTER = {"pitch": ("step", "duration", "velocity"), "step": ("duration", "velocity"), "duration": ("velocity",)}

UNIFORMS_PER_NOTE = 6
"""Uniform numbers that drawing one note takes."""

TopP = tuple[tf.Tensor | None, tf.Tensor | None, tf.Tensor | None, tf.Tensor | None]
"""For pitch, step, duration and velocity, as `categorical` says."""

EVERYTHING: TopP = (None, None, None, None)
"""Nothing is left out, however unlikely."""

# Embeddings begin within 0.05 of zero, and an optimizer's step is as long for them as for any weight: scaled up, they
# are of the size of activations, and learn as much faster.
_INPUT_SCALE = 32.0
_GIVEN_SCALE = 8.0

_COLDEST = 1e-30  # temperatures below are as good as this one, and divide without overflow
_TUTORIAL_VELOCITY = 100  # what a model without velocities plays
_SHORTEST_US = TICK_US // 2 - 1  # a note that is heard lasts: tick 0 stands for all that is shorter than 5 ms


def ticks(microseconds: tf.Tensor) -> tf.Tensor:
    """Times on the 10 ms grid, int32, as `notes.representation.ticks`."""
    # Cut first: the longest times are so near the end of int32 that half a tick more would overflow.
    return (tf.minimum(microseconds, MAX_TICK * TICK_US) + TICK_US // 2) // TICK_US


def bins(microseconds: tf.Tensor) -> tf.Tensor:
    """The bin of each time, int32 in `[0, BINS)`."""
    return tf.gather(_BIN_OF_TICK, ticks(microseconds))


def categorical(
    logits: tf.Tensor, uniform: tf.Tensor, temperature: tf.Tensor, top_p: tf.Tensor | None = None
) -> tf.Tensor:
    """Draws from softmax(logits / temperature) by inverting its distribution function.

    Args:
        logits: `[voices, classes]`.
        uniform: `[voices]` in [0, 1).
        temperature: scalar above 0.
        top_p: scalar above 0, at most 1: draws from the smallest set of likeliest classes whose probability reaches it;
            None draws from all of them.

    Returns:
        int32 `[voices]`.
    """
    classes = logits.shape[-1]
    # Next to the likeliest class, so that a temperature near 0 leaves it alone instead of dividing by nothing.
    relative = logits - tf.reduce_max(logits, axis=-1, keepdims=True)
    likelihood = tf.exp(relative / tf.maximum(temperature, _COLDEST))
    if top_p is not None:
        likelihood = _nucleus(likelihood, top_p)
    # Running sums as a product with a triangle of ones: XLA makes a far slower loop of tf.cumsum. They are compared
    # with a share of their own total, which rounding, coarse on some GPUs, leaves a little off that of the likelihoods.
    running = tf.matmul(likelihood, tf.constant(np.triu(np.ones((classes, classes))), logits.dtype))
    drawn = tf.cast(uniform, logits.dtype)[:, tf.newaxis] * running[:, -1:]
    return tf.reduce_sum(tf.cast(running[:, :-1] <= drawn, tf.int32), axis=-1)


def _nucleus(likelihood: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Leaves the fewest likeliest classes whose share of the sum reaches `top_p`, and sets the others to 0.

    Of classes within a ten-thousandth of each other's likelihood, all are left or none. It is nucleus sampling:
    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020.

    Args:
        likelihood: `[voices, classes]`, the largest of each voice 1.
        top_p: scalar above 0, at most 1.
    """
    # By halving an interval: numbers that are not negative have the order of their bits. A sort would take many times
    # as long. The sums are products with ones, since XLA makes a slower loop of tf.reduce_sum.
    integer, exponent_and_13_bits = (
        (tf.int64, range(39, 62)) if likelihood.dtype == tf.float64 else (tf.int32, range(10, 30))
    )
    ones = tf.ones([likelihood.shape[-1], 1], likelihood.dtype)
    wanted = tf.maximum(top_p * tf.matmul(likelihood, ones), 1)  # The likeliest stays, however small the share.
    bits = tf.zeros_like(wanted, integer)
    for place in reversed(exponent_and_13_bits):
        higher = bits + tf.constant(1 << place, integer)
        enough = tf.matmul(_at_least(likelihood, higher), ones) >= wanted
        bits = tf.where(enough, higher, bits)
    return _at_least(likelihood, bits)


def _at_least(values: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Sets to 0 what is below the number of those bits."""
    return tf.where(values >= tf.bitcast(bits, values.dtype), values, 0)


def _nats(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


class NoteEmbedding(keras.layers.Layer):
    """Raw notes as learned vectors; times through logarithmic bins."""

    def __init__(self, config: Config, dtype: str) -> None:
        super().__init__(dtype=dtype, name="embedding")
        sizes = {
            "pitch": (PITCHES + 1, config.pitch_embedding),
            "step": (BINS, config.time_embedding),
            "duration": (BINS, config.time_embedding),
            "velocity": (PITCHES, config.velocity_embedding),
        }
        self._layers_by_field = [
            keras.layers.Embedding(rows, size, dtype=dtype, name=field) for field, (rows, size) in sizes.items()
        ]

    def vectors(self, notes: NoteArrays) -> tf.Tensor:
        """The vectors of all fields behind each other, `[..., sizes]`."""
        rows = _rows(notes)
        vectors = [layer(row) for layer, row in zip(self._layers_by_field, rows, strict=True)]
        return _INPUT_SCALE * tf.concat(vectors, axis=-1)

    def products(self, matrix: tf.Tensor) -> list[tf.Tensor]:
        """A table for each field, such that the sum of their rows is `vectors @ matrix`.

        Args:
            matrix: `[sizes, columns]`.
        """
        parts = tf.split(matrix, [layer.output_dim for layer in self._layers_by_field])
        return [
            tf.matmul(_INPUT_SCALE * layer.embeddings, part)
            for layer, part in zip(self._layers_by_field, parts, strict=True)
        ]

    def look_up(self, tables: list[tf.Tensor], notes: NoteArrays) -> tf.Tensor:
        """The sum of each field's row, `[..., columns]`."""
        return tf.add_n([tf.gather(table, row) for table, row in zip(tables, _rows(notes), strict=True)])


def _rows(notes: NoteArrays) -> tuple[tf.Tensor, ...]:
    """The row of each field's table."""
    return notes.pitch, bins(notes.step_us), bins(notes.duration_us), notes.velocity


class DensityHeads(keras.layers.Layer):
    """Pitch, then step given pitch, then duration given both, then velocity given all: four categoricals.

    Step and duration are distributions over the 1,001 ticks of 10 ms: a softmax over logarithmic bins, uniform within
    a bin. So a head's probabilities sum to one over all ticks, and its loss is the nats of the tick.
    """

    losses_of: ClassVar[dict[str, str]] = {
        "pitch": "pitch_nll",
        "step": "step_nll",
        "duration": "duration_nll",
        "velocity": "velocity_nll",
    }
    """The name under which the loss of each field is reported."""

    def __init__(self, config: Config, dtype: str) -> None:
        super().__init__(dtype=dtype, name="heads")
        sizes = {"pitch": PITCHES, "step": BINS, "duration": BINS, "velocity": PITCHES}
        self._hidden = keras.layers.Dense(len(sizes) * config.head_units, dtype=dtype, name="hidden")
        # What is known of the note adds a learned vector to the hidden layer of each head that comes after it.
        self._given = {
            field: keras.layers.Embedding(sizes[field], len(_AFTER[field]) * config.head_units, dtype=dtype, name=field)
            for field in _AFTER
        }
        self._logits = {
            field: keras.layers.Dense(size, dtype=dtype, name=f"{field}_logits") for field, size in sizes.items()
        }

    def _hidden_layers(self, body: tf.Tensor) -> dict[str, tf.Tensor]:
        """The hidden layer of each head before any of the note is known, `[..., head_units]`."""
        return dict(zip(self._logits, tf.split(self._hidden(body), len(self._logits), axis=-1), strict=True))

    def _tell(self, layers: dict[str, tf.Tensor], field: str, value: tf.Tensor) -> None:
        """Adds what a field came out as, a pitch or a bin `[...]`, to the heads after it."""
        vectors = tf.split(_GIVEN_SCALE * self._given[field](value), len(_AFTER[field]), axis=-1)
        for later, vector in zip(_AFTER[field], vectors, strict=True):
            layers[later] += vector

    def _read(self, layers: dict[str, tf.Tensor], field: str) -> tf.Tensor:
        """A head's logits."""
        return self._logits[field](tf.nn.gelu(layers[field], approximate=True))

    def logits(self, body: tf.Tensor, notes: NoteArrays) -> dict[str, tf.Tensor]:
        """Each field's logits given the fields before it in the same note.

        Args:
            body: the body's output, `[..., units]`.
            notes: the notes that are predicted, `[...]`.

        Returns:
            pitch and velocity `[..., 128]`, step and duration `[..., BINS]`.
        """
        layers = self._hidden_layers(body)
        self._tell(layers, "pitch", notes.pitch)
        self._tell(layers, "step", bins(notes.step_us))
        self._tell(layers, "duration", bins(notes.duration_us))
        return {field: self._read(layers, field) for field in self._logits}

    def nats(self, logits: dict[str, tf.Tensor], notes: NoteArrays) -> dict[str, tf.Tensor]:
        """The negative log likelihood of each field in nats, times as ticks: `[...]` each."""
        log_width = tf.math.log(tf.constant(BIN_WIDTHS, logits["step"].dtype))
        step, duration = bins(notes.step_us), bins(notes.duration_us)
        return {
            "pitch": _nats(logits["pitch"], notes.pitch),
            "step": _nats(logits["step"], step) + tf.gather(log_width, step),
            "duration": _nats(logits["duration"], duration) + tf.gather(log_width, duration),
            "velocity": _nats(logits["velocity"], notes.velocity),
        }

    def losses(self, body: tf.Tensor, notes: NoteArrays) -> dict[str, tf.Tensor]:
        """The training loss of each field, `[...]` each: its nats."""
        return self.nats(self.logits(body, notes), notes)

    def tick_probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Bin logits `[..., BINS]` as probabilities of the ticks, `[..., MAX_TICK + 1]`."""
        share = tf.nn.softmax(logits) / tf.constant(BIN_WIDTHS, logits.dtype)
        return tf.gather(share, _BIN_OF_TICK, axis=-1)

    def sample(
        self, body: tf.Tensor, uniforms: tf.Tensor, temperature: tf.Tensor, top_p: TopP = EVERYTHING
    ) -> NoteArrays:
        """Draws a note for each voice.

        Args:
            body: the body's output, `[voices, units]`.
            uniforms: `[voices, UNIFORMS_PER_NOTE]` in [0, 1).
            temperature: above 0: scalar, or `[4]` for pitch, step, duration and velocity.
            top_p: for the same fields, as `categorical` says; of times, the classes are the bins.

        Returns:
            int32 `[voices]` each.
        """
        layers = self._hidden_layers(body)
        temperatures = tf.unstack(tf.broadcast_to(temperature, [len(FIELDS)]))
        chosen = {}
        for index, field in enumerate(FIELDS):
            logits = self._read(layers, field)
            chosen[field] = categorical(logits, uniforms[:, index], temperatures[index], top_p[index])
            if field in _AFTER:
                self._tell(layers, field, chosen[field])
        return NoteArrays(
            chosen["pitch"],
            _time_in_bin(chosen["step"], uniforms[:, 4]),
            # A note that is heard lasts: tick 0 stands for all that is shorter than 5 ms.
            tf.maximum(_time_in_bin(chosen["duration"], uniforms[:, 5]), _SHORTEST_US),
            tf.maximum(chosen["velocity"], 1),
        )


def _time_in_bin(chosen: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Microseconds of a tick within each bin, all of its ticks being equally likely: int32."""
    width = tf.gather(tf.constant(BIN_WIDTHS), chosen)
    within = tf.cast(uniform * tf.cast(width, uniform.dtype), tf.int32)
    return (tf.gather(tf.constant(BIN_STARTS), chosen) + tf.minimum(within, width - 1)) * TICK_US


class RegressionHeads(keras.layers.Layer):
    """The tutorial's heads: pitch logits, and step and duration as one number each, in seconds."""

    losses_of: ClassVar[dict[str, str]] = {"pitch": "pitch_nll", "step": "step_mse", "duration": "duration_mse"}
    """The name under which the loss of each field is reported."""

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype=dtype, name="heads")
        self._pitch = keras.layers.Dense(PITCHES, dtype=dtype, name="pitch")
        self._step = keras.layers.Dense(1, dtype=dtype, name="step")
        self._duration = keras.layers.Dense(1, dtype=dtype, name="duration")

    def predict_fields(self, body: tf.Tensor) -> dict[str, tf.Tensor]:
        """Pitch logits `[..., 128]`, step and duration in seconds `[...]`, which may be negative."""
        return {
            "pitch": self._pitch(body),
            "step": tf.squeeze(self._step(body), axis=-1),
            "duration": tf.squeeze(self._duration(body), axis=-1),
        }

    def losses(self, body: tf.Tensor, notes: NoteArrays) -> dict[str, tf.Tensor]:
        """The training loss of each field, `[...]` each: cross entropy, and squared error with positive pressure."""
        predicted = self.predict_fields(body)
        return {
            "pitch": _nats(predicted["pitch"], notes.pitch),
            "step": _squared_error_with_positive_pressure(notes.step_us, predicted["step"]),
            "duration": _squared_error_with_positive_pressure(notes.duration_us, predicted["duration"]),
        }

    def sample(
        self, body: tf.Tensor, uniforms: tf.Tensor, temperature: tf.Tensor, top_p: TopP = EVERYTHING
    ) -> NoteArrays:
        """A note for each voice, int32 `[voices]` each: the pitch is drawn, step and duration are the means.

        Args as `DensityHeads.sample`; only the pitch's temperature and `top_p` have an effect.
        """
        predicted = self.predict_fields(body)
        temperature = tf.broadcast_to(temperature, [len(FIELDS)])[0]
        pitch = categorical(predicted["pitch"], uniforms[:, 0], temperature, top_p[0])
        step_us = tf.cast(tf.round(tf.maximum(predicted["step"], 0) * 1e6), tf.int32)
        duration_us = tf.cast(tf.round(tf.maximum(predicted["duration"], 0) * 1e6), tf.int32)
        velocity = tf.fill(tf.shape(pitch), _TUTORIAL_VELOCITY)
        return NoteArrays(pitch, step_us, tf.maximum(duration_us, _SHORTEST_US), velocity)


def _squared_error_with_positive_pressure(target_us: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    target = tf.cast(tf.cast(target_us, tf.float64) * 1e-6, predicted.dtype)
    return tf.square(target - predicted) + 10 * tf.maximum(-predicted, 0)
