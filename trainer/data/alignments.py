"""Alignments: earlier passages of a performance that its newest notes repeat, with slips.

A match ends at the first note that differs, but players change the order of a chord's notes, and add, omit and alter
notes. An alignment goes on. Its place moves on by one with each note of the performance, and a note that is at this
place, or among the two notes before and after it, plays the passage. A new match nearby corrects the place. The
strength counts the notes that play the passage, and is halved by one that does not.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer.data.matches import CONTEXTS, MEMORY_LENGTH, SAME_PITCHES, TRANSPOSED

ALIGNMENTS: Final = 2
"""Alignments that a performance has at each note, the strongest first."""

PLACES: Final = 5
"""Places of a passage that the next note may play, from two before the one that comes next to two after it."""

STRONGEST: Final = 31

FARTHEST: Final = MEMORY_LENGTH - PLACES
"""The greatest distance of an alignment."""

AHEAD: Final = np.arange(PLACES) - 1
"""Notes from the place of the newest note to each such place."""

# A note of a pitch that is at several places plays the first of these. In float32, whose minimum a GPU can find.
_RANK: Final = np.array([4, 2, 1, 3, 5], np.float32)
_LAST_RANK: Final = _RANK.max() + 1
_BEFORE_A_MATCH: Final = AHEAD <= 0  # The places that count as played where an alignment begins.
_IS_WEAKER: Final = np.arange(ALIGNMENTS) == ALIGNMENTS - 1
_NEARBY: Final = 8  # The greatest distance of a match from an alignment's place that it corrects.

# An alignment is one integer: the distance, then shift, strength and flags of places, each times one of these.
_SHIFT: Final = 1 << 12
_STRENGTH: Final = _SHIFT << 8
_PLAYED: Final = _STRENGTH << 5
_FLAGS: Final = 1 << np.arange(PLACES)
_SHIFT_ZERO: Final = 128

PitchBack = Callable[[tf.Tensor], tf.Tensor]
"""Returns the pitches of the notes at distances back from each note, int64 `[..., n]` both."""


class Alignments(NamedTuple):
    """Alignments at notes `[...]`.

    Attributes:
        distance: from the note back to its place in the passage, int64 `[..., ALIGNMENTS]`; 0 for no alignment.
        shift: semitones from the passage up to its repeat, of the same shape.
        strength: 1 to `STRONGEST`, or 0 for no alignment, of the same shape.
        is_played: which of the places that the next note may play were played before, `[..., ALIGNMENTS, PLACES]`.
    """

    distance: tf.Tensor
    shift: tf.Tensor
    strength: tf.Tensor
    is_played: tf.Tensor

    def back(self) -> tf.Tensor:
        """Returns the distances from the note back to the places that the next note may play, as `is_played`."""
        return self.distance[..., tf.newaxis] - AHEAD

    def pack(self) -> tf.Tensor:
        """Returns the alignments as integers, int64 `[..., ALIGNMENTS]`; 0 for none."""
        flags = tf.reduce_sum(tf.where(self.is_played, _FLAGS, 0), axis=-1)
        packed = self.distance + (self.shift + _SHIFT_ZERO) * _SHIFT + self.strength * _STRENGTH + flags * _PLAYED
        return tf.where(self.strength > 0, packed, 0)


def unpack(packed: tf.Tensor) -> Alignments:
    """Returns the alignments that `Alignments.pack` returned as integers."""
    played = packed[..., tf.newaxis] // (_PLAYED * _FLAGS) % 2 > 0
    strength = packed // _STRENGTH % (_PLAYED // _STRENGTH)
    shift = tf.where(strength > 0, packed // _SHIFT % (_STRENGTH // _SHIFT) - _SHIFT_ZERO, 0)
    return Alignments(packed % _SHIFT, shift, strength, played)


def find_hits(before: Alignments, pitch: tf.Tensor, pitch_back: PitchBack) -> tf.Tensor:
    """Finds the places that notes of known pitch play, at most one for each alignment: bool as `is_played`.

    Args:
        before: the alignments at the note before each note.
        pitch: of each note, int64 `[...]`.
        pitch_back: counts from each note.
    """
    back = before.back() + 1
    shape = tf.shape(back)
    there = tf.reshape(pitch_back(tf.reshape(tf.maximum(back, 1), _flat(shape))), shape)
    is_same = there + before.shift[..., tf.newaxis] == pitch[..., tf.newaxis, tf.newaxis]
    is_hit = is_same & ~before.is_played & (back > 0) & (before.strength > 0)[..., tf.newaxis]
    rank = tf.where(is_hit, _RANK, _LAST_RANK)
    return is_hit & (rank == tf.reduce_min(rank, axis=-1, keepdims=True))


def hit_distance(before: Alignments, hits: tf.Tensor) -> tf.Tensor:
    """Returns how far back from the notes the places are that they play, int64 `[..., ALIGNMENTS]`; 0 for none."""
    return tf.reduce_sum(tf.where(hits, before.back() + 1, 0), axis=-1)


def align(
    before: Alignments, hits: tf.Tensor, pitch: tf.Tensor, distance: tf.Tensor, pitch_back: PitchBack
) -> Alignments:
    """Returns the alignments at notes.

    Args:
        before: the alignments at the note before each note.
        hits: what `find_hits` returned.
        pitch: of each note, int64 `[...]`.
        distance: back to the matches of each note, int64 `[..., MATCHES]`; 0 where there is none.
        pitch_back: counts from each note.
    """
    strength = tf.where(tf.reduce_any(hits, axis=-1), tf.minimum(before.strength + 1, STRONGEST), before.strength // 2)
    is_played = (before.is_played | hits)[..., 1:]
    is_played = tf.concat([is_played, tf.zeros_like(is_played[..., :1])], axis=-1)
    # The most recent match of the longest context.
    match, length = tf.zeros_like(distance[..., :1]), tf.zeros_like(distance[..., :1])
    for context, notes in enumerate(TRANSPOSED, start=len(SAME_PITCHES)):
        found = distance[..., context : context + 1]
        match, length = tf.where(found > 0, found, match), tf.where(found > 0, tf.constant(notes, tf.int64), length)
    is_match = match > 0
    shift = pitch[..., tf.newaxis] - pitch_back(tf.maximum(match, 1))
    is_near = is_match & (strength > 0) & (before.shift == shift) & (tf.abs(before.distance - match) <= _NEARBY)
    is_corrected = is_near & (before.distance != match)
    # Without an alignment nearby, the match replaces the weaker one, if it is longer than that is strong.
    is_first_weaker = strength[..., :1] <= strength[..., 1:]
    is_weaker = tf.concat([is_first_weaker, ~is_first_weaker], axis=-1)
    is_new = is_match & ~tf.reduce_any(is_near, axis=-1, keepdims=True) & is_weaker & (strength < length)
    is_moved = is_corrected | is_new
    after = Alignments(
        tf.where(is_moved, match, before.distance),
        tf.where(is_new, shift, before.shift),
        tf.where(is_near, tf.maximum(strength, length), tf.where(is_new, length, strength)),
        tf.where(is_moved[..., tf.newaxis], _BEFORE_A_MATCH, is_played),
    )
    return _sort(after)


def return_to(alignments: Alignments, distance: tf.Tensor) -> Alignments:
    """Aligns notes with places at distances back from them, int64 `[...]`, as if they had played the passages before.

    The new alignment replaces the weaker one. 0 changes nothing.
    """
    is_new = (distance > 0)[..., tf.newaxis] & _IS_WEAKER
    return _sort(
        Alignments(
            tf.where(is_new, distance[..., tf.newaxis], alignments.distance),
            tf.where(is_new, tf.zeros_like(alignments.shift), alignments.shift),
            tf.where(is_new, tf.fill(tf.shape(is_new), tf.constant(STRONGEST, tf.int64)), alignments.strength),
            tf.where(is_new[..., tf.newaxis], _BEFORE_A_MATCH, alignments.is_played),
        )
    )


def find_alignments(
    pitch: NDArray[np.integer], offsets: NDArray[np.int64], matches: NDArray[np.uint16]
) -> NDArray[np.uint32]:
    """Returns the packed alignments at each note, `[notes, ALIGNMENTS]`.

    Args:
        pitch: of all notes, performance after performance, `[notes]`.
        offsets: `[performances + 1]`, as in `trainer.data.note_table.NoteTable`.
        matches: what `trainer.data.matches.find_matches` returns for them.
    """
    alignments = np.zeros((len(pitch), ALIGNMENTS), np.uint32)
    if not len(pitch):
        return alignments
    lengths = np.diff(offsets)
    # The performances go on together, note by note; the shorter ones leave.
    first = offsets[:-1][np.argsort(-lengths, kind="stable")]
    playing = len(lengths) - np.searchsorted(np.sort(lengths), np.arange(lengths.max()), side="right")
    with tf.device("CPU:0"):
        packed = _scan(*map(tf.constant, (pitch.astype(np.uint8), matches[:, :CONTEXTS], first, playing)))
    rows = np.concatenate([first[:count] + number for number, count in enumerate(playing.tolist())])
    alignments[rows] = packed.numpy()
    return alignments


@tf.function(
    autograph=False,
    input_signature=[
        tf.TensorSpec([None], tf.uint8),
        tf.TensorSpec([None, CONTEXTS], tf.uint16),
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None], tf.int64),
    ],
)
def _scan(pitches: tf.Tensor, matches: tf.Tensor, first: tf.Tensor, playing: tf.Tensor) -> tf.Tensor:
    """Returns the packed alignments at the first note of every performance, then at the second, and so on.

    Args:
        pitches: of all notes.
        matches: the distance to the most recent match of each note for each context.
        first: row of each performance's first note, those of the longest performances first.
        playing: how many performances have a note, for each number of a note.
    """

    def add_note(
        number: tf.Tensor, before: Alignments, packed: tf.TensorArray
    ) -> tuple[tf.Tensor, Alignments, tf.TensorArray]:
        count = playing[number]
        rows, before = first[:count] + number, tf.nest.map_structure(lambda part: part[:count], before)
        pitch = tf.cast(tf.gather(pitches, rows), tf.int64)

        def pitch_back(back: tf.Tensor) -> tf.Tensor:
            return tf.cast(tf.gather(pitches, tf.maximum(rows[:, tf.newaxis] - back, 0)), tf.int64)

        hits = find_hits(before, pitch, pitch_back)
        after = align(before, hits, pitch, tf.cast(tf.gather(matches, rows), tf.int64), pitch_back)
        return number + 1, after, packed.write(tf.cast(number, tf.int32), tf.cast(after.pack(), tf.uint32))

    notes = tf.size(playing, tf.int64)
    before = unpack(tf.zeros([tf.size(first), ALIGNMENTS], tf.int64))
    packed = tf.TensorArray(tf.uint32, tf.size(playing), infer_shape=False, element_shape=[None, ALIGNMENTS])
    _, _, packed = tf.while_loop(
        lambda number, *_: number < notes,
        add_note,
        (tf.constant(0, tf.int64), before, packed),
        shape_invariants=(
            tf.TensorShape([]),
            tf.nest.map_structure(lambda part: tf.TensorShape([None, *part.shape[1:]]), before),
            tf.TensorShape(None),
        ),
        parallel_iterations=1,
    )
    return packed.concat()


def _sort(alignments: Alignments) -> Alignments:
    """Puts the stronger alignment first, and drops what is lost: too weak, too far back, or the same as the other."""
    strength = tf.where(alignments.distance <= FARTHEST, alignments.strength, 0)
    is_swapped = strength[..., :1] < strength[..., 1:]
    distance, shift, strength = (
        tf.where(is_swapped, tf.concat([part[..., 1:], part[..., :1]], axis=-1), part)
        for part in (alignments.distance, alignments.shift, strength)
    )
    is_played = alignments.is_played
    other_first = tf.concat([is_played[..., 1:, :], is_played[..., :1, :]], axis=-2)
    is_played = tf.where(is_swapped[..., tf.newaxis], other_first, is_played)
    is_other = (distance[..., :1] != distance[..., 1:]) | (shift[..., :1] != shift[..., 1:])
    strength = tf.concat([strength[..., :1], tf.where(is_other, strength[..., 1:], 0)], axis=-1)
    is_kept = strength > 0
    return Alignments(
        tf.where(is_kept, distance, 0),
        tf.where(is_kept, shift, 0),
        strength,
        is_played & is_kept[..., tf.newaxis],
    )


def _flat(shape: tf.Tensor) -> tf.Tensor:
    """Returns the shape with the last two dimensions as one."""
    return tf.concat([shape[:-2], [ALIGNMENTS * PLACES]], axis=0)
