"""Hyperparameters that a search can vary by name, with their ranges, units and reasons.

The weights of the step and the duration loss are relative to the base config's pitch_weight, 1 in every preset but
`tutorial`. Only ratios matter, since Adam ignores a common factor of all losses. A file for `--space` may also search
`pitch_weight` and other fields of the config.
"""

from collections.abc import Sequence
from typing import Any

from tuning.space import Parameter


def _choice(field: str, values: Sequence[Any], unit: str, why: str) -> Parameter:
    return Parameter(field, "choice", values=tuple(values), unit=unit, why=why)


def _weight(field: str, loss: str) -> Parameter:
    why = f"weight of the {loss} loss against pitch; beyond a factor of four one field learns and the others do not"
    return Parameter(field, "float", 0.25, 4.0, sampling="log", unit="times the pitch loss's", why=why)


SEARCHED_BY_DEFAULT = ("seq_length", "units", "step_weight", "duration_weight")

PARAMETERS = (
    _choice("seq_length", (32, 64, 128, 256, 512), "notes",
            "how far back gradients reach: 32 notes are a few bars; beyond 512, little is gained for the memory"),
    _choice("units", (64, 96, 128, 192, 256, 384, 512), "units of each LSTM layer",
            "arithmetic grows with the square: below 64 the music is poor, beyond 512 a trial is no longer cheap"),
    _weight("step_weight", "step"),
    _weight("duration_weight", "duration"),
    _choice("layers", (1, 2, 3, 4), "LSTM layers", "more than four seldom learn without shortcuts between them"),
    Parameter("learning_rate", "float", 3e-4, 1e-2, sampling="log", unit="peak of the schedule",
              why="a short trial learns little below it, and training is unsteady above it"),
    _choice("batch_size", (8, 16, 32, 64, 128), "windows",
            "trials read the same number of notes: small batches give more train_steps, large ones faster ones"),
    Parameter("dropout", "float", 0.0, 0.5, step=0.05, unit="share of the activations",
              why="helps once a model is large for its corpus; beyond half, it only slows learning down"),
    _choice("transpose", (0, 3, 6, 9, 12), "semitones up or down",
            "6 gives every piece in every key; beyond an octave the registers are unrealistic"),
    Parameter("stretch", "float", 0.0, 0.1, step=0.025, unit="share faster or slower",
              why="beyond a tenth the tempo is another one"),
    _choice("pitch_embedding", (32, 64, 96, 128, 192), "numbers", "pianos have 88 keys, so 96 can separate them"),
    _choice("time_embedding", (16, 32, 48, 64, 96), "numbers", "for step and for duration each: 1,001 ordered ticks"),
    _choice("velocity_embedding", (8, 16, 32, 64), "numbers", "127 ordered values; few differ audibly"),
    _choice("recent_embedding", (0, 32, 64, 128, 256), "numbers",
            "size of the summary of the last 32 notes; without it (0) the LSTM must remember them itself"),
    _choice("head_units", (64, 128, 192, 256), "hidden units of each head", "at 256, as much as a layer of the body"),
    _choice("head_blocks", (0, 1, 2), "residual blocks of each head", "each costs as much as the heads without any"),
)  # fmt: skip
