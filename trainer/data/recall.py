"""Recall: the pitches that may follow, for the next pitch; and times of earlier places, for a note of known pitch."""

from typing import Final, NamedTuple

import tensorflow as tf

from sostenuto.music.notes import PITCHES
from trainer.data.alignments import ALIGNMENTS, PLACES, Alignments, PitchBack, hit_distance
from trainer.data.matches import IS_TRANSPOSED, MATCHES

CANDIDATES: Final = MATCHES + ALIGNMENTS * PLACES
"""Candidates for a pitch: what followed each match, then the places of each alignment that are not played yet."""

TIMES: Final = MATCHES + ALIGNMENTS
"""Places whose times are recalled: each match, then the place of each alignment that the note plays."""


class PitchRecall(NamedTuple):
    """Candidates for the pitch of the next note, int64 `[..., CANDIDATES]` each; zeros where there is none.

    Attributes:
        pitch: what followed, transposed with the match or the alignment.
        distance: the notes from the match, or the alignment's place, to the newest note.
        strength: of the alignment; 0 for a match.
    """

    pitch: tf.Tensor
    distance: tf.Tensor
    strength: tf.Tensor


class TimeRecall(NamedTuple):
    """Times of earlier places for a note whose pitch alone is known, int64 `[..., TIMES]` each; zeros for no place.

    Attributes:
        step_us: steps of the notes there in microseconds.
        duration_us: their durations.
        distance: the notes from the place to the note.
        strength: of the alignment before the note; 0 for a match.
    """

    step_us: tf.Tensor
    duration_us: tf.Tensor
    distance: tf.Tensor
    strength: tf.Tensor


class Recall(NamedTuple):
    """Pitches and times that are recalled for each predicted note; empty tuples for a model without memory."""

    pitches: PitchRecall | tuple[()]
    times: TimeRecall | tuple[()]


NO_RECALL: Final = Recall((), ())


def recall_pitches(distance: tf.Tensor, alignments: Alignments, pitch_back: PitchBack) -> PitchRecall:
    """Returns the candidates after notes `[...]`.

    Args:
        distance: back to the matches of each note, int64 `[..., MATCHES]`; 0 where there is none.
        alignments: at each note.
        pitch_back: counts from each note.
    """
    shift = tf.where(IS_TRANSPOSED, pitch_back(tf.zeros_like(distance[..., :1])) - pitch_back(distance), 0)
    back = alignments.back()
    is_open = ~alignments.is_played & (alignments.strength > 0)[..., tf.newaxis] & (back >= 0)
    is_candidate = _join(distance > 0, is_open)
    pitch = pitch_back(tf.where(is_candidate, _join(distance - 1, back), 0)) + _join(shift, _spread(alignments.shift))
    is_candidate &= (pitch >= 0) & (pitch < PITCHES)
    parts = (
        pitch,
        _join(distance, _spread(alignments.distance)),
        _join(tf.zeros_like(distance), _spread(alignments.strength)),
    )
    return PitchRecall(*(tf.where(is_candidate, part, 0) for part in parts))


def time_places(distance: tf.Tensor, before: Alignments, hits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the distances from notes `[...]` to the places whose times are recalled, and their strengths.

    Args:
        distance: back to the matches of each note, int64 `[..., MATCHES]`; 0 where there is none.
        before: the alignments at the note before each note.
        hits: what `trainer.data.alignments.find_hits` returned.
    """
    played = hit_distance(before, hits)
    strength = tf.where(played > 0, before.strength, 0)
    return tf.concat([distance, played], axis=-1), tf.concat([tf.zeros_like(distance), strength], axis=-1)


def empty_recall(shape: tf.Tensor) -> tuple[PitchRecall, TimeRecall]:
    """Returns the recall of notes of the given shape for which there is none."""
    pitches, times = (tf.zeros(tf.concat([shape, [size]], axis=0), tf.int64) for size in (CANDIDATES, TIMES))
    return PitchRecall(pitches, pitches, pitches), TimeRecall(times, times, times, times)


def _spread(values: tf.Tensor) -> tf.Tensor:
    """Returns the value of each alignment for each of its places."""
    return tf.repeat(values[..., tf.newaxis], PLACES, axis=-1)


def _join(matches: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Returns `[..., CANDIDATES]` from `[..., MATCHES]` and `[..., ALIGNMENTS, PLACES]`."""
    flat = tf.reshape(places, tf.concat([tf.shape(matches)[:-1], [ALIGNMENTS * PLACES]], axis=0))
    return tf.concat([matches, flat], axis=-1)
