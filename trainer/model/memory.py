"""The memory of a performance that is read or generated note by note: its last notes, and what they repeat.

They are those that `trainer.data.matches.find_matches` and `trainer.data.alignments.find_alignments` find in whole
performances. Codes and distances of matches are integers in float32, which holds them exactly: TensorFlow would compare
32-bit integers on the host of a GPU.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.music.notes import Notes
from trainer.data.alignments import (
    ALIGNMENTS,
    FARTHEST,
    PitchBack,
    align,
    find_alignments,
    find_hits,
    return_to,
    unpack,
)
from trainer.data.matches import (
    CODES,
    CONTEXTS,
    LONGEST_CONTEXT,
    MEMORY_LENGTH,
    PITCH_CODES,
    SAME_PITCHES,
    TRANSPOSED,
    contexts,
    find_matches,
)
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.data.recall import PitchRecall, TimeRecall, recall_pitches, time_places

_CONTEXT_LENGTHS: Final = np.array(SAME_PITCHES + TRANSPOSED)
NEAREST_RETURN: Final = 32
"""The shortest distance back to a passage to which the music returns."""

_NO_CODE: Final = -1.0  # code of a context with too few notes, which matches nothing


class Memory(NamedTuple):
    """The last `MEMORY_LENGTH` notes of performances, as rings: note n is in slot n modulo `MEMORY_LENGTH`.

    Attributes:
        notes: their pitch, step and duration, int64 `[batch, 3, MEMORY_LENGTH]`; times in microseconds.
        codes: codes of the contexts that end at each note, float32 `[batch, CONTEXTS, MEMORY_LENGTH]`.
        links: distance from each note to its most recent match for each context, or 0, of the same shape.
        alignments: at the last note, packed, int64 `[batch, ALIGNMENTS]`.
        count: number of notes of each performance so far, int64 `[batch]`.
    """

    notes: tf.Tensor
    codes: tf.Tensor
    links: tf.Tensor
    alignments: tf.Tensor
    count: tf.Tensor


def empty_memory(batch: int | tf.Tensor) -> Memory:
    """Returns the memory of `batch` performances before their first note."""
    contexts = tf.zeros([batch, CONTEXTS, MEMORY_LENGTH])
    notes = tf.zeros([batch, 3, MEMORY_LENGTH], tf.int64)
    alignments = tf.zeros([batch, ALIGNMENTS], tf.int64)
    return Memory(notes, contexts + _NO_CODE, contexts, alignments, tf.zeros([batch], tf.int64))


def read_memory(performances: Sequence[Notes]) -> Memory:
    """Returns the memory after whole performances, one a row."""
    memories = [_read(performance) for performance in performances]
    return tf.nest.map_structure(lambda *parts: tf.constant(np.stack(parts)), *memories)


class NoteMatches(NamedTuple):
    """The matches of a note, and its places in alignments. All but the last are float32 `[batch, CONTEXTS]`.

    Attributes:
        code: code of the context; `_NO_CODE` where the performance has too few notes.
        nearest: distance to the most recent match; 0 where there is none.
        second: distance to the match before it; 0 where there is none.
        hits: the places of the alignments before it that it plays, as `trainer.data.alignments.find_hits` returns them.
    """

    code: tf.Tensor
    nearest: tf.Tensor
    second: tf.Tensor
    hits: tf.Tensor

    def distance(self) -> tf.Tensor:
        """Returns the distances as `find_matches` does, int64 `[batch, MATCHES]`."""
        return tf.cast(tf.concat([self.nearest, self.second], axis=-1), tf.int64)


def match_pitch(memory: Memory, pitch: tf.Tensor) -> NoteMatches:
    """Finds the matches of a note of this pitch, int64 `[batch]`, after the remembered notes."""
    code = _codes(memory, pitch)
    slot = memory.count % MEMORY_LENGTH
    column = tf.range(MEMORY_LENGTH, dtype=tf.float32)
    back = tf.cast(slot, tf.float32)[:, tf.newaxis] - column
    back = tf.where(back > 0, back, back + MEMORY_LENGTH)[:, tf.newaxis]
    distances = tf.where(memory.codes == code[..., tf.newaxis], back, float(MEMORY_LENGTH))
    # XLA compiles a minimum over rows of a matrix to faster code than one over a vector.
    side = int(MEMORY_LENGTH**0.5)
    distances = tf.reshape(distances, [-1, CONTEXTS, side, side])
    nearest = tf.reduce_min(tf.reduce_min(distances, axis=-2), axis=-1)
    is_match = (nearest < MEMORY_LENGTH) & (code >= 0)
    nearest = tf.where(is_match, nearest, 0)
    match_slot = (slot[:, tf.newaxis] - tf.cast(nearest, tf.int64)) % MEMORY_LENGTH
    link = tf.gather(memory.links, match_slot, batch_dims=2)
    second = nearest + link
    hits = find_hits(unpack(memory.alignments), pitch, _pitch_back(memory))
    return NoteMatches(code, nearest, tf.where(is_match & (link > 0) & (second < MEMORY_LENGTH), second, 0), hits)


def remember(
    memory: Memory | tuple[()],
    note: NoteTensors,
    matches: NoteMatches | None = None,
    returns: tf.Tensor | None = None,
) -> tuple[Memory, PitchRecall] | tuple[tuple[()], tuple[()]]:
    """Adds a note, int32 `[batch]` each, and returns the candidates for the pitch after it.

    `START_PITCH` is not a note: the memory stays as it was, and there are no candidates. Without a memory, it returns
    empty tuples.

    Args:
        memory: of the notes before.
        note: the note.
        matches: those of the note, if they are known.
        returns: where the music returns to an earlier passage after the note, as in `NextNoteModel.decode_step`.
    """
    if not isinstance(memory, Memory):
        return (), ()
    is_note = note.pitch != START_PITCH
    pitch = tf.where(is_note, tf.cast(note.pitch, tf.int64), 0)
    matches = matches or match_pitch(memory, pitch)
    slot = memory.count % MEMORY_LENGTH
    fields = tf.stack([pitch, *(tf.cast(field, tf.int64) for field in note[1:3])], axis=-1)
    # Always true. Without it, XLA could write before it reads, and copies the memory instead of writing in place.
    is_read = matches.second >= 0
    distance = matches.distance()
    alignments = align(unpack(memory.alignments), matches.hits, pitch, distance, _pitch_back(memory))
    if returns is not None:
        alignments = return_to(alignments, _return_distance(memory.count, returns))
    # The next note overwrites what is written for START_PITCH, because the count stays.
    after = Memory(
        _write(memory.notes, slot, tf.where(is_read[:, :1], fields, 0)),
        _write(memory.codes, slot, tf.where(is_read, matches.code, 0)),
        _write(memory.links, slot, tf.where(is_read, matches.nearest, 0)),
        tf.where(is_note[:, tf.newaxis], alignments.pack(), memory.alignments),
        memory.count + tf.cast(is_note, tf.int64),
    )
    is_note = is_note[:, tf.newaxis]
    recall = recall_pitches(
        tf.where(is_note, distance, 0),
        unpack(tf.where(is_note, after.alignments, 0)),
        lambda back: tf.gather(after.notes[:, 0], (slot[:, tf.newaxis] - back) % MEMORY_LENGTH, batch_dims=1),
    )
    return after, recall


def recall_times(memory: Memory, matches: NoteMatches) -> TimeRecall:
    """Returns the times of the matches of a note that follows the remembered notes."""
    distance, strength = time_places(matches.distance(), unpack(memory.alignments), matches.hits)
    slot = (memory.count[:, tf.newaxis] - distance) % MEMORY_LENGTH
    step_us, duration_us = (
        tf.where(distance > 0, tf.gather(memory.notes[:, field], slot, batch_dims=1), 0) for field in (1, 2)
    )
    return TimeRecall(step_us, duration_us, distance, strength)


def _pitch_back(memory: Memory) -> PitchBack:
    """Returns a function that counts from the note after the remembered ones."""
    return lambda back: tf.gather(
        memory.notes[:, 0], (memory.count[:, tf.newaxis] - back) % MEMORY_LENGTH, batch_dims=1
    )


def _codes(memory: Memory, pitch: tf.Tensor) -> tf.Tensor:
    """Returns the codes of the contexts that end with a pitch, float32 `[batch, CONTEXTS]`."""
    back = tf.range(1, LONGEST_CONTEXT, dtype=tf.int64)
    pitches = tf.concat([pitch[:, tf.newaxis], _pitch_back(memory)(back[tf.newaxis])], axis=-1)
    table = tf.constant(PITCH_CODES)
    codes = []
    for lengths, columns in ((SAME_PITCHES, pitches), (TRANSPOSED, (pitches - pitches[:, :1]) % 256)):
        numbers = tf.gather(table, columns)
        codes += [tf.reduce_sum(numbers[:, :length], axis=-1) % CODES for length in lengths]
    code = tf.cast(tf.stack(codes, axis=-1), tf.float32)
    return tf.where(memory.count[:, tf.newaxis] >= _CONTEXT_LENGTHS - 1, code, _NO_CODE)


def _return_distance(count: tf.Tensor, returns: tf.Tensor) -> tf.Tensor:
    """Returns how far back from the note after `count` notes the music returns, int64 `[batch]`; 0 for nowhere."""
    farther = tf.minimum(count, FARTHEST) - NEAREST_RETURN
    # To the power of 1.5, because music returns to what it played lately more often than to what is far back.
    distance = NEAREST_RETURN + tf.cast(
        returns * tf.sqrt(tf.maximum(returns, 0)) * tf.cast(farther, returns.dtype), tf.int64
    )
    return tf.where((returns >= 0) & (farther >= 0), distance, 0)


def _write(rings: tf.Tensor, slot: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Writes values `[batch, n]` into rings `[batch, n, MEMORY_LENGTH]` at a slot of each row, int64 `[batch]`."""
    batch, rows = tf.shape(values, tf.int64)[0], values.shape[-1]
    row, number = tf.meshgrid(tf.range(batch), tf.range(rows, dtype=tf.int64), indexing="ij")
    index = tf.stack([row, number, tf.repeat(slot[:, tf.newaxis], rows, axis=1)], axis=-1)
    return tf.tensor_scatter_nd_update(rings, index, values)


def _read(notes: Notes) -> Memory:
    """Returns the memory after a performance, without the batch's axis, in NumPy."""
    pitch, number = notes.pitch.astype(np.int64), np.arange(len(notes))
    fields = np.stack([pitch, notes.step_us, notes.duration_us])
    codes = np.stack([np.where(number >= length - 1, code, _NO_CODE) for length, code in contexts(pitch)])
    offsets = np.array([0, len(notes)])
    matches = find_matches(pitch, offsets)
    links = matches[:, :CONTEXTS].T
    alignments = np.zeros(ALIGNMENTS, np.int64)
    if len(notes):
        alignments[:] = find_alignments(pitch, offsets, matches)[-1]
    last = number[-MEMORY_LENGTH:]
    rings = []
    for values, empty, dtype in ((fields, 0, np.int64), (codes, _NO_CODE, np.float32), (links, 0, np.float32)):
        ring = np.full([len(values), MEMORY_LENGTH], empty, dtype)
        ring[:, last % MEMORY_LENGTH] = values[:, last]
        rings.append(ring)
    notes_ring, codes_ring, links_ring = rings
    return Memory(notes_ring, codes_ring, links_ring, alignments, np.array(len(notes), np.int64))
