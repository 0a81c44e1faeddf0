"""From the body's output to the next note: what each kind of model predicts, its losses, and how a note is drawn."""

from typing import ClassVar

import keras
import tensorflow as tf

from sostenuto.music.notes import FIELDS, PITCHES, TICK_US
from trainer.config import Config
from trainer.data.windows import NoteTensors
from trainer.model.categorical import categorical
from trainer.model.note_history import releases
from trainer.model.times import BINS, bins, ticks, time_distribution

_AFTER = {"pitch": ("step", "duration", "velocity"), "step": ("duration", "velocity"), "duration": ("velocity",)}
_WITHIN_BIN = {"step": 4, "duration": 5}  # which of a note's uniform numbers draws a time within its bin

UNIFORMS_PER_NOTE = 6
"""Uniform numbers that drawing one note takes."""

TopP = tuple[tf.Tensor | None, tf.Tensor | None, tf.Tensor | None, tf.Tensor | None]
"""For pitch, step, duration and velocity, as `categorical` says."""

EVERYTHING: TopP = (None, None, None, None)
"""Nothing is left out, however unlikely."""

PitchRange = tuple[int, int]
"""The lowest and the highest pitch that a model plays; the scores of all other pitches stay as they are."""

ALL_PITCHES: PitchRange = (0, PITCHES - 1)

# Embeddings begin within 0.05 of zero, and an optimizer's step is as long for them as for any weight: scaled up, they
# are of the size of activations, and learn as much faster.
_INPUT_SCALE = 32.0
_GIVEN_SCALE = 8.0

_TUTORIAL_VELOCITY = 100  # what a model without velocities plays
_SHORTEST_US = TICK_US // 2 - 1  # a note that is heard lasts: tick 0 stands for all that is shorter than 5 ms


def _nats(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


class Dense(keras.layers.Dense):
    """A dense layer that multiplies in its compute type and answers in the type of its variables."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """What the layer makes of inputs `[..., features]`: `[..., units]`."""
        return tf.cast(super().call(inputs), self.variable_dtype)


class NoteEmbedding(keras.layers.Layer):
    """Raw notes as learned vectors; times through logarithmic bins.

    Attributes:
        size: columns of the vectors.
    """

    def __init__(self, config: Config, dtype: str) -> None:
        super().__init__(dtype=dtype, name="embedding")
        sizes = {
            "pitch": (PITCHES + 1, config.pitch_embedding),
            "step": (BINS, config.time_embedding),
            "duration": (BINS, config.time_embedding),
            "velocity": (PITCHES, config.velocity_embedding),
        }
        self.size = sum(size for _, size in sizes.values())
        self._layers_by_field = [
            keras.layers.Embedding(rows, size, dtype=dtype, name=field) for field, (rows, size) in sizes.items()
        ]

    def vectors(self, notes: NoteTensors) -> tf.Tensor:
        """The vectors of all fields behind each other, `[..., sizes]`, of notes `[...]`."""
        rows = _rows(notes)
        vectors = [layer(row) for layer, row in zip(self._layers_by_field, rows, strict=True)]
        return _INPUT_SCALE * tf.concat(vectors, axis=-1)

    def products(self, matrix: tf.Tensor) -> list[tf.Tensor]:
        """A table for each field, such that the sum of their rows is `vectors @ matrix`.

        Args:
            matrix: `[sizes, columns]`.

        Returns:
            `[rows, columns]` each.
        """
        parts = tf.split(matrix, [layer.output_dim for layer in self._layers_by_field])
        return [
            tf.matmul(_INPUT_SCALE * layer.embeddings, part)
            for layer, part in zip(self._layers_by_field, parts, strict=True)
        ]

    def lookup_sum(self, tables: list[tf.Tensor], notes: NoteTensors) -> tf.Tensor:
        """The sum of each field's row.

        Args:
            tables: what `products` returned, `[rows, columns]` each.
            notes: `[...]`.

        Returns:
            `[..., columns]`.
        """
        return tf.add_n([tf.gather(table, row) for table, row in zip(tables, _rows(notes), strict=True)])


def _rows(notes: NoteTensors) -> tuple[tf.Tensor, ...]:
    """The row of each field's table."""
    return notes.pitch, bins(notes.step_us), bins(notes.duration_us), notes.velocity


class DensityHeads(keras.layers.Layer):
    """Pitch, then step given pitch, then duration given both, then velocity given all.

    Pitch and velocity are categoricals; step and duration are distributions over the 1,001 ticks of 10 ms, in the form
    that the config chose. So a head's probabilities sum to one over all ticks, and its loss is the nats of the tick.

    Hidden layers multiply in the run's precision; what is added up, normalised, or a logit is in `dtype`.

    Attributes:
        times: what the outputs of the heads of step and duration mean.
        pitch_range: the lowest and the highest pitch that `sample` draws.
    """

    loss_names: ClassVar[dict[str, str]] = {
        "pitch": "pitch_nll",
        "step": "step_nll",
        "duration": "duration_nll",
        "velocity": "velocity_nll",
    }
    """The name under which the loss of each field is reported."""

    def __init__(self, config: Config, dtype: str, pitch_range: PitchRange) -> None:
        super().__init__(dtype=dtype, name="heads")
        self.times = time_distribution(config)
        self.pitch_range = pitch_range
        sizes = {"pitch": PITCHES, "step": self.times.size, "duration": self.times.size, "velocity": PITCHES}
        known = {"pitch": PITCHES, "step": BINS, "duration": BINS}
        self._units = config.units
        self._hidden = Dense(len(sizes) * config.head_units, dtype=config.precision, name="hidden")
        # What is known of the note adds a learned vector to the hidden layer of each head that comes after it.
        self._given = {
            field: keras.layers.Embedding(known[field], len(_AFTER[field]) * config.head_units, dtype=dtype, name=field)
            for field in _AFTER
        }
        # Notes are often struck, and chords released, when another note ends.
        self._releases = {
            field: Dense(config.head_units, use_bias=False, dtype=config.precision, name=f"{field}_releases")
            for field in ("step", "duration")
            if config.recent_embedding
        }
        self._blocks = {
            field: [_Block(config, dtype, f"{field}_{index}") for index in range(config.head_blocks)] for field in sizes
        }
        self._last = {
            field: keras.layers.LayerNormalization(dtype=dtype, name=f"{field}_norm") if config.head_blocks else _gelu
            for field in sizes
        }
        self._logits = {
            field: keras.layers.Dense(size, dtype=dtype, name=f"{field}_logits") for field, size in sizes.items()
        }

    def _hidden_layers(self, reading: tf.Tensor) -> dict[str, tf.Tensor]:
        """The hidden layer of each head before any of the note is known, `[..., head_units]`."""
        body = self._hidden(reading[..., : self._units])
        layers = dict(zip(self._logits, tf.split(body, len(self._logits), axis=-1), strict=True))
        self._hear_releases(layers, "step", reading, 0)
        return layers

    def _hear_releases(
        self, layers: dict[str, tf.Tensor], field: str, reading: tf.Tensor, after_us: tf.Tensor | int
    ) -> None:
        """Adds to a head which of the last notes are to end when, counted from `after_us` `[..., 1]` on."""
        if self._releases:
            remaining_us = tf.cast(reading[..., self._units :], tf.int32) - after_us
            layers[field] += self._releases[field](releases(remaining_us, reading.dtype))

    def _tell(self, layers: dict[str, tf.Tensor], field: str, value: tf.Tensor, reading: tf.Tensor) -> None:
        """Adds what a field came out as, a pitch or microseconds `[...]`, to the heads after it."""
        if field == "step":
            # Of the note that is predicted, only what is scored is known: its times on the grid.
            self._hear_releases(layers, "duration", reading, TICK_US * ticks(value)[..., tf.newaxis])
        value = value if field == "pitch" else bins(value)
        vectors = tf.split(_GIVEN_SCALE * self._given[field](value), len(_AFTER[field]), axis=-1)
        for later, vector in zip(_AFTER[field], vectors, strict=True):
            layers[later] += vector

    def _read(self, layers: dict[str, tf.Tensor], field: str) -> tf.Tensor:
        """A head's outputs: logits, or for a time what `times` takes."""
        hidden = layers[field]
        for block in self._blocks[field]:
            hidden += block(hidden)
        return self._logits[field](self._last[field](hidden))

    def logits(self, reading: tf.Tensor, notes: NoteTensors) -> dict[str, tf.Tensor]:
        """Each head's outputs given the fields before it in the same note.

        Args:
            reading: the body's output and, for a model that is told of the last notes, the microseconds until each is
                released, `[..., width]`.
            notes: the notes that are predicted, `[...]`.

        Returns:
            Logits of pitch and velocity `[..., 128]`; of step and duration what `times` takes, `[..., times.size]`.
        """
        layers = self._hidden_layers(reading)
        self._tell(layers, "pitch", notes.pitch, reading)
        self._tell(layers, "step", notes.step_us, reading)
        self._tell(layers, "duration", notes.duration_us, reading)
        return {field: self._read(layers, field) for field in self._logits}

    def nats(self, logits: dict[str, tf.Tensor], notes: NoteTensors) -> dict[str, tf.Tensor]:
        """The negative log likelihood of each field in nats, times as ticks.

        Args:
            logits: what `logits` returned, `[..., outputs]` each.
            notes: those that came, `[...]`.

        Returns:
            `[...]` each.
        """
        return {
            "pitch": _nats(logits["pitch"], notes.pitch),
            "step": self.times.nats(logits["step"], notes.step_us),
            "duration": self.times.nats(logits["duration"], notes.duration_us),
            "velocity": _nats(logits["velocity"], notes.velocity),
        }

    def losses(self, reading: tf.Tensor, notes: NoteTensors) -> dict[str, tf.Tensor]:
        """The training loss of each field: its nats.

        Args:
            reading: as for `logits`, `[..., width]`.
            notes: the notes that are predicted, `[...]`.

        Returns:
            `[...]` each.
        """
        return self.nats(self.logits(reading, notes), notes)

    def sample(
        self, reading: tf.Tensor, uniforms: tf.Tensor, temperature: tf.Tensor, top_p: TopP = EVERYTHING
    ) -> NoteTensors:
        """Draws a note for each voice.

        Args:
            reading: as for `logits`, `[voices, width]`.
            uniforms: `[voices, UNIFORMS_PER_NOTE]` in [0, 1).
            temperature: above 0: scalar, or `[4]` for pitch, step, duration and velocity.
            top_p: for the same fields, as `categorical` says; of times, the classes are the bins, in either form.

        Returns:
            int32 `[voices]` each.
        """
        layers = self._hidden_layers(reading)
        temperatures = tf.unstack(tf.broadcast_to(temperature, [len(FIELDS)]))
        drawn = {}
        for index, field in enumerate(FIELDS):
            outputs = self._read(layers, field)
            how = uniforms[:, index], temperatures[index], top_p[index]
            if field in _WITHIN_BIN:
                drawn[field] = self.times.sample(outputs, *how, within=uniforms[:, _WITHIN_BIN[field]])
            else:
                drawn[field] = categorical(outputs, *how, _bounds(self.pitch_range) if field == "pitch" else None)
            if field in _AFTER:
                self._tell(layers, field, drawn[field], reading)
        return NoteTensors(
            drawn["pitch"],
            drawn["step"],
            # A note that is heard lasts: tick 0 stands for all that is shorter than 5 ms.
            tf.maximum(drawn["duration"], _SHORTEST_US),
            tf.maximum(drawn["velocity"], 1),
        )


def _bounds(pitch_range: PitchRange) -> PitchRange | None:
    """Returns the bounds of `categorical` for a pitch; none are compiled where every pitch may be drawn."""
    return None if pitch_range == ALL_PITCHES else pitch_range


def _gelu(values: tf.Tensor) -> tf.Tensor:
    return tf.nn.gelu(values, approximate=True)


class _Block(keras.layers.Layer):
    """What a residual block adds to its input, `[..., head_units]` both."""

    def __init__(self, config: Config, dtype: str, name: str) -> None:
        super().__init__(dtype=dtype, name=name)
        self._norm = keras.layers.LayerNormalization(dtype=dtype, name="norm")
        self._hidden = keras.layers.Dense(config.head_units, activation=_gelu, dtype=config.precision, name="hidden")
        self._added = Dense(config.head_units, dtype=config.precision, name="added")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self._added(self._hidden(self._norm(inputs)))


class RegressionHeads(keras.layers.Layer):
    """The tutorial's heads: pitch logits, and step and duration as one number each, in seconds.

    Attributes:
        pitch_range: the lowest and the highest pitch that `sample` draws.
    """

    loss_names: ClassVar[dict[str, str]] = {"pitch": "pitch_nll", "step": "step_mse", "duration": "duration_mse"}
    """The name under which the loss of each field is reported."""

    def __init__(self, dtype: str, pitch_range: PitchRange) -> None:
        super().__init__(dtype=dtype, name="heads")
        self.pitch_range = pitch_range
        self._pitch = keras.layers.Dense(PITCHES, dtype=dtype, name="pitch")
        self._step = keras.layers.Dense(1, dtype=dtype, name="step")
        self._duration = keras.layers.Dense(1, dtype=dtype, name="duration")

    def predict_fields(self, body: tf.Tensor) -> dict[str, tf.Tensor]:
        """What is predicted of the next note.

        Args:
            body: its output, `[..., width]`.

        Returns:
            Pitch logits `[..., 128]`, step and duration in seconds `[...]`, which may be negative.
        """
        return {
            "pitch": self._pitch(body),
            "step": tf.squeeze(self._step(body), axis=-1),
            "duration": tf.squeeze(self._duration(body), axis=-1),
        }

    def losses(self, body: tf.Tensor, notes: NoteTensors) -> dict[str, tf.Tensor]:
        """The training loss of each field: cross entropy, and squared error with positive pressure.

        Args:
            body: its output, `[..., width]`.
            notes: the notes that are predicted, `[...]`.

        Returns:
            `[...]` each.
        """
        predicted = self.predict_fields(body)
        return {
            "pitch": _nats(predicted["pitch"], notes.pitch),
            "step": _squared_error_with_positive_pressure(notes.step_us, predicted["step"]),
            "duration": _squared_error_with_positive_pressure(notes.duration_us, predicted["duration"]),
        }

    def sample(
        self, body: tf.Tensor, uniforms: tf.Tensor, temperature: tf.Tensor, top_p: TopP = EVERYTHING
    ) -> NoteTensors:
        """A note for each voice: the pitch is drawn, step and duration are the means.

        Args:
            body: its output, `[voices, width]`.
            uniforms: `[voices, UNIFORMS_PER_NOTE]` in [0, 1).
            temperature: above 0: scalar, or `[4]`; only that of the pitch has an effect.
            top_p: likewise, as for `DensityHeads.sample`.

        Returns:
            int32 `[voices]` each.
        """
        predicted = self.predict_fields(body)
        temperature = tf.broadcast_to(temperature, [len(FIELDS)])[0]
        pitch = categorical(predicted["pitch"], uniforms[:, 0], temperature, top_p[0], _bounds(self.pitch_range))
        step_us = tf.cast(tf.round(tf.maximum(predicted["step"], 0) * 1e6), tf.int32)
        duration_us = tf.cast(tf.round(tf.maximum(predicted["duration"], 0) * 1e6), tf.int32)
        velocity = tf.fill(tf.shape(pitch), _TUTORIAL_VELOCITY)
        return NoteTensors(pitch, step_us, tf.maximum(duration_us, _SHORTEST_US), velocity)


def _squared_error_with_positive_pressure(target_us: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    target = tf.cast(tf.cast(target_us, tf.float64) * 1e-6, predicted.dtype)
    return tf.square(target - predicted) + 10 * tf.maximum(-predicted, 0)
