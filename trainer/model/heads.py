"""Heads that predict the next note: a distribution of each field, or single numbers as in the TensorFlow tutorial."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from sostenuto.music.notes import FIELDS, PITCHES, TICK_US
from trainer.config import Config
from trainer.data.note_tensors import NoteTensors
from trainer.data.recall import PitchRecall, TimeRecall
from trainer.model import time_distribution
from trainer.model.activations import LayerNorm, gelu
from trainer.model.categorical import categorical_nll, sample_categorical
from trainer.model.constraints import NO_CONSTRAINTS, Constraints, tilt_steps
from trainer.model.end_head import EndHead, end_nll
from trainer.model.layers import MixedDense, embedding, glorot
from trainer.model.memory import Memory, NoteMatches, match_pitch, recall_times
from trainer.model.note_history import release_histogram
from trainer.model.recall_heads import PitchScorer, TimeVotes
from trainer.model.time_bins import BINS
from trainer.model.time_distribution import TimeDistribution

_LATER_FIELDS = {field: FIELDS[index + 1 :] for index, field in enumerate(FIELDS[:-1])}
_UNIFORM_IN_BIN = {"step": 4, "duration": 5}  # Columns of a note's uniform numbers that draw a time within its bin.

UNIFORMS_PER_NOTE = 6  # Uniform numbers that sampling one note takes.

TopP = tuple[tf.Tensor | None, ...]  # For pitch, step, duration and velocity, as in `sample_categorical`.
NO_TOP_P: TopP = (None, None, None, None)

PitchRange = tuple[int, int]  # The lowest and the highest pitch that a model samples; it does not affect scores.
ALL_PITCHES: PitchRange = (0, PITCHES - 1)

# As the scale in `trainer.model.layers`, for the fields that condition later heads.
_FIELD_SCALE = 8.0

# Tick 0 stands for all durations below 5 ms, and a sampled note must last.
SHORTEST_US = TICK_US // 2 - 1

_TUTORIAL_VELOCITY = 100  # of all notes that `RegressionHeads` sample


class HeadInput(NamedTuple):
    """Input of the heads.

    Attributes:
        body: the body's output, `[..., units]`.
        remaining_us: the microseconds until each of the last notes is released, int64 `[..., HISTORY_LENGTH]`; an empty
            tuple without note history, as `releases`.
        releases: their histogram, `[..., BINS]`.
        recall: candidates for the predicted pitch; an empty tuple without memory.
        position: the number of notes so far, int64 `[...]`; an empty tuple if the model predicts no end.
    """

    body: tf.Tensor
    remaining_us: tf.Tensor | tuple[()] = ()
    releases: tf.Tensor | tuple[()] = ()
    recall: PitchRecall | tuple[()] = ()
    position: tf.Tensor | tuple[()] = ()

    def map(self, function: Callable[..., Any], *others: "HeadInput") -> "HeadInput":
        """Applies `function` to each tensor, with those of other inputs as further arguments."""
        return tf.nest.map_structure(function, self, *others)


class DensityHeads(keras.layers.Layer):
    """Pitch, then step given pitch, then duration given both, then velocity given all; losses are nats.

    Hidden layers multiply in the run's precision; sums, normalizations and logits are in `dtype`.

    Attributes:
        loss_names: the name of each loss in reports: of each field and, if it is predicted, of the end.
        end: the head that predicts the end of a performance, or None.
    """

    def __init__(self, config: Config, dtype: str, pitch_range: PitchRange, seeds: Iterator[int]) -> None:
        super().__init__(dtype=dtype, name="heads")
        self.pitch_range = pitch_range
        classes = {"pitch": PITCHES, "step": BINS, "duration": BINS, "velocity": PITCHES}
        units = config.head_units
        self._hidden = MixedDense(
            len(classes) * units, kernel_initializer=glorot(seeds), dtype=config.precision, name="hidden"
        )
        # Each known field of the note adds a learned vector to the hidden layer of every later head.
        self._field_embeddings = {
            field: embedding(classes[field], len(later) * units, seeds, dtype=dtype, name=field)
            for field, later in _LATER_FIELDS.items()
        }
        self._releases = {
            field: MixedDense(
                units,
                use_bias=False,
                kernel_initializer=glorot(seeds),
                dtype=config.precision,
                name=f"{field}_releases",
            )
            for field in ("step", "duration")
            if config.recent_embedding
        }
        self._pitch_scorer = PitchScorer(config, dtype, seeds) if config.has_memory else None
        self._votes = (
            {field: TimeVotes(config, dtype, field, seeds) for field in ("step", "duration")}
            if config.has_memory
            else {}
        )
        self._blocks = {
            field: [_ResidualBlock(config, dtype, f"{field}_{index}", seeds) for index in range(config.head_blocks)]
            for field in classes
        }
        self._last = {
            field: LayerNorm(dtype=dtype, name=f"{field}_norm") if config.head_blocks else gelu for field in classes
        }
        self._logits = {
            field: keras.layers.Dense(size, kernel_initializer=glorot(seeds), dtype=dtype, name=f"{field}_logits")
            for field, size in classes.items()
        }
        self.times = {field: TimeDistribution(dtype=dtype, name=f"{field}_ticks") for field in _UNIFORM_IN_BIN}
        self.end = EndHead(config, dtype, seeds) if config.has_ending else None
        losses = (*FIELDS, "end") if self.end else FIELDS
        self.loss_names: Mapping[str, str] = {loss: f"{loss}_nll" for loss in losses}

    def logits(
        self, head_input: HeadInput, notes: NoteTensors, times: TimeRecall | tuple[()] = ()
    ) -> dict[str, tf.Tensor]:
        """Returns each head's logits `[..., classes]`, given the fields before it in the predicted notes `[...]`."""
        layers = self._hidden_layers(head_input)
        logits = {}
        for field, value in zip(FIELDS, (*notes[:3], None), strict=True):
            logits[field] = self._head_logits(layers, field, head_input)
            if field in _LATER_FIELDS:
                self._condition_on(layers, field, value, head_input)
            if field == "pitch" and self._votes and isinstance(times, TimeRecall):
                self._recall_times(layers, times)
        return logits

    def nll(self, logits: dict[str, tf.Tensor], notes: NoteTensors) -> dict[str, tf.Tensor]:
        """Returns the negative log likelihood `[...]` of each field of the true notes in nats, times as ticks."""
        return {
            "pitch": categorical_nll(logits["pitch"], notes.pitch),
            "step": self.times["step"].nll(logits["step"], notes.step_us),
            "duration": self.times["duration"].nll(logits["duration"], notes.duration_us),
            "velocity": categorical_nll(logits["velocity"], notes.velocity),
        }

    def losses(
        self,
        head_input: HeadInput,
        notes: NoteTensors,
        times: TimeRecall | tuple[()] = (),
        is_end: tf.Tensor | bool = False,
    ) -> dict[str, tf.Tensor]:
        """Returns the training loss `[...]` of each field and, if predicted, of the end: negative log likelihoods.

        `is_end`, bool `[...]`, is True where the performance ends instead of going on with the note.
        """
        losses = self.nll(self.logits(head_input, notes, times), notes)
        return {**losses, "end": self.end_nll(head_input, is_end)} if self.end else losses

    def end_nll(self, head_input: HeadInput, is_end: tf.Tensor | bool) -> tf.Tensor:
        """Returns the negative log likelihood `[...]` of an end, or of its absence, if the model predicts ends."""
        assert self.end is not None, "the config has no ending"
        return end_nll(self.end(head_input.body, head_input.position), is_end)

    def sample(
        self,
        head_input: HeadInput,
        uniforms: tf.Tensor,
        temperature: tf.Tensor,
        top_p: TopP = NO_TOP_P,
        *,
        memory: Memory | tuple[()] = (),
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> tuple[NoteTensors, NoteMatches | None]:
        """Samples one note for each row, int32 `[batch]` each, and returns its matches in the memory too.

        Args:
            head_input: of the last note, `[batch, ...]`.
            uniforms: `[batch, UNIFORMS_PER_NOTE]` in [0, 1).
            temperature: above 0: scalar, or `[4]` for pitch, step, duration and velocity.
            top_p: for the same fields, as in `sample_categorical`; for a time, bins and then a bin's ticks.
            memory: memory of the notes up to the last one; by default no times are recalled.
            constraints: on pitch and step.
        """
        layers = self._hidden_layers(head_input)
        temperatures = tf.unstack(tf.broadcast_to(temperature, [len(FIELDS)]))
        note, matches = {}, None
        for index, field in enumerate(FIELDS):
            logits = self._head_logits(layers, field, head_input)
            options = uniforms[:, index], temperatures[index], top_p[index]
            if field == "step" and constraints.tilt is not None:
                logits = tilt_steps(logits, constraints.tilt)
            if field in _UNIFORM_IN_BIN:
                uniform_in_bin = uniforms[:, _UNIFORM_IN_BIN[field]]
                note[field] = self.times[field].sample(logits, *options, uniform_in_bin=uniform_in_bin)
            elif field == "pitch":
                note[field] = sample_categorical(logits, *options, self.pitch_range, allowed=constraints.pitches)
            else:
                note[field] = sample_categorical(logits, *options)
            if field in _LATER_FIELDS:
                self._condition_on(layers, field, note[field], head_input)
            if field == "pitch" and isinstance(memory, Memory):
                matches = match_pitch(memory, tf.cast(note[field], tf.int64))
                self._recall_times(layers, recall_times(memory, matches))
        duration_us = tf.maximum(note["duration"], SHORTEST_US)
        return NoteTensors(note["pitch"], note["step"], duration_us, tf.maximum(note["velocity"], 1)), matches

    def _hidden_layers(self, head_input: HeadInput) -> dict[str, tf.Tensor]:
        """Returns the hidden layer of each head, `[..., head_units]`, before any field of the note is known."""
        body = self._hidden(head_input.body)
        layers = dict(zip(FIELDS, tf.split(body, len(FIELDS), axis=-1), strict=True))
        # Notes are often struck, and chords released, when another note ends.
        if self._releases:
            layers["step"] += self._releases["step"](head_input.releases)
        return layers

    def _condition_on(self, layers: dict[str, tf.Tensor], field: str, value: tf.Tensor, head_input: HeadInput) -> None:
        """Adds a field's value, a pitch or microseconds `[...]`, to the hidden layers of the later heads."""
        if field == "step" and isinstance(head_input.remaining_us, tf.Tensor):
            # The model knows times on the grid only, as they are scored.
            remaining_us = head_input.remaining_us - TICK_US * time_distribution.ticks(value)[..., tf.newaxis]
            histogram = release_histogram(remaining_us, head_input.body.dtype)
            layers["duration"] += self._releases["duration"](histogram)
        later = _LATER_FIELDS[field]
        row = value if field == "pitch" else time_distribution.bins(value)
        vectors = tf.split(_FIELD_SCALE * self._field_embeddings[field](row), len(later), axis=-1)
        for name, vector in zip(later, vectors, strict=True):
            layers[name] += vector

    def _recall_times(self, layers: dict[str, tf.Tensor], times: TimeRecall) -> None:
        """Adds the times of earlier places of the predicted pitch to the hidden layers of step and duration."""
        for field, times_us in zip(("step", "duration"), times[:2], strict=True):
            layers[field] += self._votes[field](layers[field], times_us, times)

    def _head_logits(self, layers: dict[str, tf.Tensor], field: str, head_input: HeadInput) -> tf.Tensor:
        hidden = layers[field]
        for block in self._blocks[field]:
            hidden += block(hidden)
        logits = self._logits[field](self._last[field](hidden))
        if field == "pitch" and self._pitch_scorer and head_input.recall:
            logits += self._pitch_scorer(layers[field], head_input.recall)
        return logits


class _ResidualBlock(keras.layers.Layer):
    """The residual that a block adds to its input, `[..., head_units]` both."""

    def __init__(self, config: Config, dtype: str, name: str, seeds: Iterator[int]) -> None:
        super().__init__(dtype=dtype, name=name)
        self._norm = LayerNorm(dtype=dtype, name="norm")
        self._hidden = keras.layers.Dense(
            config.head_units, gelu, kernel_initializer=glorot(seeds), dtype=config.precision, name="hidden"
        )
        self._added = MixedDense(
            config.head_units, kernel_initializer=glorot(seeds), dtype=config.precision, name="added"
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self._added(self._hidden(self._norm(inputs)))


class RegressionHeads(keras.layers.Layer):
    """The tutorial's heads: pitch logits, and step and duration in seconds as one number each."""

    loss_names: ClassVar[dict[str, str]] = {"pitch": "pitch_nll", "step": "step_mse", "duration": "duration_mse"}
    end: ClassVar[None] = None

    def __init__(self, dtype: str, pitch_range: PitchRange, seeds: Iterator[int]) -> None:
        super().__init__(dtype=dtype, name="heads")
        self.pitch_range = pitch_range
        self._pitch, self._step, self._duration = (
            keras.layers.Dense(size, kernel_initializer=glorot(seeds), dtype=dtype, name=field)
            for field, size in (("pitch", PITCHES), ("step", 1), ("duration", 1))
        )

    def predict_fields(self, head_input: HeadInput) -> dict[str, tf.Tensor]:
        """Returns pitch logits `[..., 128]`, and step and duration in seconds `[...]`, which may be negative."""
        return {
            "pitch": self._pitch(head_input.body),
            "step": tf.squeeze(self._step(head_input.body), axis=-1),
            "duration": tf.squeeze(self._duration(head_input.body), axis=-1),
        }

    def losses(
        self,
        head_input: HeadInput,
        notes: NoteTensors,
        times: TimeRecall | tuple[()] = (),
        is_end: tf.Tensor | bool = False,
    ) -> dict[str, tf.Tensor]:
        """Returns the training losses of notes `[...]`: cross entropy, and squared error with positive pressure."""
        predicted = self.predict_fields(head_input)
        return {
            "pitch": categorical_nll(predicted["pitch"], notes.pitch),
            "step": _squared_error_with_positive_pressure(notes.step_us, predicted["step"]),
            "duration": _squared_error_with_positive_pressure(notes.duration_us, predicted["duration"]),
        }

    def sample(
        self,
        head_input: HeadInput,
        uniforms: tf.Tensor,
        temperature: tf.Tensor,
        top_p: TopP = NO_TOP_P,
        *,
        memory: Memory | tuple[()] = (),
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> tuple[NoteTensors, None]:
        """Samples a pitch for each row as `DensityHeads.sample`; step and duration are the predicted ones."""
        predicted = self.predict_fields(head_input)
        options = uniforms[:, 0], tf.broadcast_to(temperature, [len(FIELDS)])[0], top_p[0]
        pitch = sample_categorical(predicted["pitch"], *options, self.pitch_range, allowed=constraints.pitches)
        step_us, duration_us = (
            tf.cast(tf.round(tf.maximum(predicted[field], 0) * 1e6), tf.int32) for field in ("step", "duration")
        )
        velocity = tf.fill(tf.shape(pitch), _TUTORIAL_VELOCITY)
        return NoteTensors(pitch, step_us, tf.maximum(duration_us, SHORTEST_US), velocity), None


def _squared_error_with_positive_pressure(target_us: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    target = tf.cast(tf.cast(target_us, tf.float64) * 1e-6, predicted.dtype)
    return tf.square(target - predicted) + 10 * tf.maximum(-predicted, 0)
