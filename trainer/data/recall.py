"""Recall: the pitches that followed matches, for the next pitch; and times of matches, for a note of known pitch."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.music.notes import PITCHES
from trainer.data.matches import CONTEXTS, MATCHES, SAME_PITCHES, TRANSPOSED

# Of the contexts of 4 notes and more, the note after next counts too: chords vary in order, and repeats in notes.
_SKIPPING: Final = [index + len(SAME_PITCHES) for index, length in enumerate(TRANSPOSED) if length >= 4]
_MATCH: Final = np.array([*range(MATCHES), *_SKIPPING])  # of each candidate
_OFFSET: Final = np.array([1] * MATCHES + [2] * len(_SKIPPING), np.int64)  # of each candidate, from its match
_IS_TRANSPOSED: Final = len(SAME_PITCHES) <= _MATCH % CONTEXTS
CANDIDATES: Final = len(_MATCH)


class PitchRecall(NamedTuple):
    """Candidates for the pitch of the next note, int64 `[..., CANDIDATES]` each; distance 0 where there is none.

    Attributes:
        pitch: what followed the match, transposed with it.
        distance: the notes from the match to the newest note.
    """

    pitch: tf.Tensor
    distance: tf.Tensor


class TimeRecall(NamedTuple):
    """Times of the matches of a note whose pitch alone is known, int64 `[..., MATCHES]` each; 0 where there is none.

    Attributes:
        step_us: steps of the matching notes in microseconds.
        duration_us: their durations.
        distance: the notes from the match to the note.
    """

    step_us: tf.Tensor
    duration_us: tf.Tensor
    distance: tf.Tensor


class Recall(NamedTuple):
    """Pitches and times that are recalled for each predicted note; empty tuples for a model without memory."""

    pitches: PitchRecall | tuple[()]
    times: TimeRecall | tuple[()]


NO_RECALL: Final = Recall((), ())


def recall_pitches(distance: tf.Tensor, pitch_back: Callable[[tf.Tensor], tf.Tensor]) -> PitchRecall:
    """Returns the candidates after notes `[...]`.

    Args:
        distance: back to the matches of each note, int64 `[..., MATCHES]`; 0 where there is none.
        pitch_back: returns the pitches of the notes so many notes before each note, int64 `[..., n]` both.
    """
    distance = tf.gather(distance, _MATCH, axis=-1)
    pitch = pitch_back(tf.maximum(distance - _OFFSET, 0))
    shift = pitch_back(tf.zeros_like(distance[..., :1])) - pitch_back(distance)
    pitch += tf.where(_IS_TRANSPOSED, shift, 0)
    is_candidate = (distance >= _OFFSET) & (pitch >= 0) & (pitch < PITCHES)
    return PitchRecall(tf.where(is_candidate, pitch, 0), tf.where(is_candidate, distance, 0))


def empty_recall(shape: tf.Tensor) -> tuple[PitchRecall, TimeRecall]:
    """Returns the recall of notes of the given shape that have no match."""
    pitches, times = (tf.zeros(tf.concat([shape, [size]], axis=0), tf.int64) for size in (CANDIDATES, MATCHES))
    return PitchRecall(pitches, pitches), TimeRecall(times, times, times)
