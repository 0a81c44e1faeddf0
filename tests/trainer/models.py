"""Small models with large random weights, whose predictions are far from uniform."""

import numpy as np
import tensorflow as tf

from trainer.config import Config
from trainer.data.note_tensors import NoteTensors
from trainer.model.density_heads import ALL_PITCHES
from trainer.model.next_note import NextNoteModel, build_model

_TINY = {
    "density": {"head_units": 24, "pitch_embedding": 12, "time_embedding": 8, "velocity_embedding": 6},
    "regression": {"model": "regression", "layers": 1, "monitor": "loss", "evaluate_every": 0},
}


def tiny_model(kind: str, *, seed: int = 0, pitch_range=ALL_PITCHES, **changes) -> NextNoteModel:
    """An untrained model of 16 units with random weights; `kind` is density or regression."""
    model = build_model(Config(**{"units": 16, "seq_length": 16, **_TINY[kind], **changes}), pitch_range)
    random = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(random.normal(0, 0.5, variable.shape))
    return model


def random_arrays(*shape: int, seed: int = 0) -> NoteTensors:
    """Legal notes in arrays of the shape, int32; many chords, some rests of more than 10 s."""
    random = np.random.default_rng(seed)
    times = [np.where(random.random(shape) < 0.1, 0, random.lognormal(12, 1.5, shape).astype(np.int32)) for _ in "sd"]
    fields = random.integers(0, 128, shape), times[0], np.maximum(times[1], 1), random.integers(1, 128, shape)
    return NoteTensors(*(tf.constant(field, tf.int32) for field in fields))


def surprise(chosen, probabilities) -> float:
    """Returns how much draws disagree with their distributions, in standard errors.

    The probability of a draw is on average the sum of squares; a draw from another distribution has less.

    Args:
        chosen: `[draws]` classes.
        probabilities: `[draws, classes]`.
    """
    probabilities = np.asarray(probabilities, np.float64)
    chosen = np.asarray(chosen)
    difference = probabilities[np.arange(len(chosen)), chosen] - np.sum(probabilities**2, axis=-1)
    return abs(float(difference.mean() / (difference.std() / len(chosen) ** 0.5)))
