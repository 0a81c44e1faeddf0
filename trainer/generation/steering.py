"""Steering of the compiled loop: the constraints on each note, which follow from the notes before it."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sostenuto.music.notes import PITCHES, Notes
from trainer.data.note_tensors import NoteTensors
from trainer.generation.arguments import check_density
from trainer.generation.controls import Controls, allowed_pitches
from trainer.model.constraints import Constraints
from trainer.model.next_note import NextNoteModel

_HISTORY: Final = 4096  # notes within which no run of pitches is repeated
_NO_PITCH: Final = -1

# A proportional-integral controller tilts the steps. With these, densities from 2 to 16 notes per second are met within
# 10 %, and the density over 32 notes varies as much as without the control.
_AVERAGED_NOTES: Final = 32
_INTEGRAL_GAIN: Final = 0.03  # The proportional gain is 1.
_MAX_TILT: Final = 6.0


class Steering(NamedTuple):
    """Inputs of the compiled loop that stay the same in all calls; None where a control is off.

    Attributes:
        pitches: which pitches the controls permit, bool `[1, PITCHES]`.
        step_us: the mean step to approach in microseconds, by the model's own clock; 0 steers nothing.
        run: the length of a run of pitches that must not occur twice, int32.
    """

    pitches: tf.Tensor | None = None
    step_us: tf.Tensor | None = None
    run: tf.Tensor | None = None


class _Density(NamedTuple):
    """State of the controller of the density, float32 `[batch]` each.

    Attributes:
        step_us: the moving average of the steps in microseconds.
        integral: the integral of its deviations.
    """

    step_us: tf.Tensor
    integral: tf.Tensor


class _History(NamedTuple):
    """The pitches of the last `_HISTORY` notes, and what they repeat, int32 `[batch, _HISTORY]` each.

    Attributes:
        pitches: column n has the pitch n notes before the newest one; `_NO_PITCH` before the first note.
        lengths: column n has how many of the newest notes equal those n + 1 notes before them.
    """

    pitches: tf.Tensor
    lengths: tf.Tensor


class SteeringState(NamedTuple):
    """State of the controls that constrain the next note; an empty tuple where a control is off."""

    density: _Density | tuple[()] = ()
    history: _History | tuple[()] = ()


def make_steering(controls: Controls, model: NextNoteModel) -> Steering:
    """Returns the inputs of the compiled loop for controls.

    Raises:
        UserError: no pitch is permitted, or the model does not support a control.
    """
    check_density(controls.density, model.config)
    has_pitches = controls.key or controls.range or controls.avoid_repeats
    allowed = allowed_pitches(controls, model.heads.pitch_range) if has_pitches else None
    return Steering(
        None if allowed is None else tf.constant(allowed[np.newaxis]),
        tf.constant(_wanted_step_us(controls)) if controls.density else None,
        tf.constant(controls.avoid_repeats) if controls.avoid_repeats else None,
    )


def make_live_steering(controls: Controls, model: NextNoteModel) -> Steering:
    """Returns the inputs of a loop that is compiled once for any key, range and density.

    Raises:
        UserError: no pitch is permitted, or the model does not support a control.
    """
    check_density(controls.density, model.config)
    allowed = allowed_pitches(controls, model.heads.pitch_range)
    step_us = _wanted_step_us(controls) if controls.density else 0.0
    return Steering(tf.constant(allowed[np.newaxis]), tf.constant(step_us))


def start_live(step_us: float) -> SteeringState:
    """Returns the state of `make_live_steering` after notes with this mean step in microseconds."""
    return SteeringState(_Density(tf.constant([step_us], tf.float32), tf.zeros([1])))


def start(controls: Controls, primers: Sequence[Notes]) -> SteeringState:
    """Returns the state after each primer."""
    density: _Density | tuple[()] = ()
    history: _History | tuple[()] = ()
    if controls.density:
        wanted_us = _wanted_step_us(controls)
        means = [primer.step_us[1:][-_AVERAGED_NOTES:].mean() if len(primer) > 1 else wanted_us for primer in primers]
        density = _Density(tf.constant(means, tf.float32), tf.zeros([len(primers)]))
    if controls.avoid_repeats:
        pasts = [_read_history(primer.pitch, controls.avoid_repeats) for primer in primers]
        history = _History(*(tf.constant(np.stack(part)) for part in zip(*pasts, strict=True)))
    return SteeringState(density, history)


def constrain(steering: Steering, state: SteeringState) -> Constraints:
    """Returns the constraints on the next note."""
    pitches, tilt = steering.pitches, None
    if isinstance(state.history, _History):
        unrepeated = pitches & ~_completing(state.history, steering.run)
        pitches = tf.where(tf.reduce_any(unrepeated, axis=-1, keepdims=True), unrepeated, pitches)
    if isinstance(state.density, _Density):
        deviation = _deviation(state.density.step_us, steering.step_us)
        tilt = tf.clip_by_value(state.density.integral + deviation, -_MAX_TILT, _MAX_TILT)
        tilt = tf.where(tf.greater(steering.step_us, 0), tilt, 0)
    return Constraints(pitches, tilt)


def follow(steering: Steering, state: SteeringState, note: NoteTensors) -> SteeringState:
    """Returns the state after a note, int32 `[batch]` each."""
    density, history = state
    if isinstance(density, _Density):
        step_us = density.step_us + (tf.cast(note.step_us, tf.float32) - density.step_us) / _AVERAGED_NOTES
        integral = density.integral + _INTEGRAL_GAIN * _deviation(step_us, steering.step_us)
        density = _Density(step_us, tf.clip_by_value(integral, -_MAX_TILT, _MAX_TILT))
    if isinstance(history, _History):
        pitch = note.pitch[:, tf.newaxis]
        lengths = tf.where(history.pitches == pitch, history.lengths + 1, 0)
        history = _History(tf.concat([pitch, history.pitches[:, :-1]], axis=-1), lengths)
    return SteeringState(density, history)


def _wanted_step_us(controls: Controls) -> float:
    """Returns the mean step to approach by the model's own clock, which the tempo speeds up."""
    return 1e6 * controls.tempo / controls.density


def _deviation(step_us: tf.Tensor, wanted_us: tf.Tensor) -> tf.Tensor:
    """Returns the deviation from the wanted step as a fraction of it, at most 1 so that a rest weighs little."""
    return tf.minimum(step_us / wanted_us - 1, 1)


def _completing(history: _History, run: tf.Tensor) -> tf.Tensor:
    """Returns the pitches that would complete a run that occurred before, bool `[batch, PITCHES]`."""
    repeated = tf.where(history.lengths >= run - 1, history.pitches, _NO_PITCH)
    excluded = tf.zeros([repeated.shape[0], PITCHES], tf.bool)

    def exclude(repeated: tf.Tensor, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        highest = tf.reduce_max(repeated, axis=-1, keepdims=True)
        excluded |= tf.range(PITCHES) == highest
        return tf.where(repeated == highest, _NO_PITCH, repeated), excluded

    # Few notes complete a run: a pass for each pitch of them is faster than a table of all pitches and places.
    _, excluded = tf.while_loop(lambda repeated, _: tf.reduce_any(repeated != _NO_PITCH), exclude, (repeated, excluded))
    return excluded


def _read_history(pitches: NDArray[np.uint8], run: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Returns the history after a primer without the batch's axis; lengths above `run` count as `run`."""
    back = np.full(_HISTORY + run, _NO_PITCH, np.int32)
    newest_first = pitches[::-1][: len(back)]
    back[: len(newest_first)] = newest_first
    is_equal = [(back[place] >= 0) & (back[place] == back[place + 1 :][:_HISTORY]) for place in range(run)]
    lengths = np.logical_and.accumulate(is_equal).sum(axis=0, dtype=np.int32)
    return back[:_HISTORY], lengths
