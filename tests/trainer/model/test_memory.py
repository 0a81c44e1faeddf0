import numpy as np
import pytest
import tensorflow as tf

from sostenuto.music.notes import Notes
from tests.trainer.data.repeats import repeating_pitches
from trainer.data.alignments import FARTHEST, PLACES, STRONGEST, unpack
from trainer.data.matches import MATCHES, MEMORY_LENGTH, find_matches
from trainer.data.note_table import notes_table
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.data.recall import TIMES, TimeRecall
from trainer.data.recall_table import RecallTable
from trainer.model.memory import NEAREST_RETURN, empty_memory, match_pitch, read_memory, recall_times, remember
from trainer.model.next_note import start_note

CUT = MEMORY_LENGTH + 20


def piece(length, seed):
    random = np.random.default_rng(seed)
    times = random.integers(1, 2_000_000, [2, length])
    times[0, [0, CUT % length]] = 0  # A part of a performance begins with a step of 0.
    return Notes(repeating_pitches(length, seed), *times, random.integers(1, 128, length))


@pytest.fixture(scope="module")
def play():
    """Plays pieces of one length from a memory; returns it, and what is found before and recalled after each note."""

    @tf.function(autograph=False, jit_compile=True)
    def play_notes(memory, notes):
        def add(index, memory, found, recalled):
            note = notes.map(lambda field: field[index])
            matches = match_pitch(memory, tf.cast(note.pitch, tf.int64))
            times = recall_times(memory, matches)
            memory, pitches = remember(memory, note, matches)
            row = tf.concat([*times, *pitches], axis=-1)
            return index + 1, memory, found.write(index, matches.distance()), recalled.write(index, row)

        length, batch = notes.pitch.shape
        arrays = [tf.TensorArray(tf.int64, length, element_shape=[batch, None]) for _ in range(2)]
        _, memory, found, recalled = tf.while_loop(
            lambda index, *_: index < length, add, (0, memory, *arrays), maximum_iterations=length
        )
        return memory, found.stack(), recalled.stack()

    def play_pieces(pieces, memory=None):
        fields = (np.stack([getattr(piece, field) for piece in pieces], axis=1) for field in NoteTensors._fields)
        notes = NoteTensors(*(tf.constant(field, tf.int32) for field in fields))
        return play_notes(memory or empty_memory(len(pieces)), notes)

    return play_pieces


def assert_same(one, other):
    """The same memories, but for what lies under the place that is written next."""
    one, other = (tf.nest.map_structure(np.array, memory) for memory in (one, other))
    for left, right in zip(one, other, strict=True):
        if left.ndim > 2:
            for row, count in enumerate(one.count):
                left[row, :, count % MEMORY_LENGTH] = right[row, :, count % MEMORY_LENGTH] = 0
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("length", [70, MEMORY_LENGTH + 300])
def test_note_by_note_the_memory_finds_and_recalls_what_the_whole_performance_does(play, length):
    pieces = [piece(length, seed) for seed in (1, 2)]
    memory, found, recalled = play(pieces)
    for row, notes in enumerate(pieces):
        matches = find_matches(notes.pitch, np.array([0, length]))
        np.testing.assert_array_equal(found[:, row], matches)
        pitches, times = RecallTable(notes_table([notes]))(tf.range(length, dtype=tf.int64), tf.ones([length], tf.bool))
        times_size = len(TimeRecall._fields) * TIMES
        np.testing.assert_array_equal(recalled[1:, row, :times_size], np.concatenate(times, axis=-1))
        np.testing.assert_array_equal(recalled[:-1, row, times_size:], np.concatenate(pitches, axis=-1))
        assert np.count_nonzero(matches) >= length // 4
        assert np.count_nonzero(pitches.strength) >= length // 4
    assert_same(memory, read_memory(pieces))


def test_a_memory_that_was_read_goes_on_as_one_that_was_played(play):
    pieces = [piece(MEMORY_LENGTH + 60, seed) for seed in (3, 4)]
    _, found, recalled = play(pieces)
    _, later_found, later_recalled = play([notes[CUT:] for notes in pieces], read_memory([p[:CUT] for p in pieces]))
    np.testing.assert_array_equal(later_found, found[CUT:])
    np.testing.assert_array_equal(later_recalled, recalled[CUT:])


def test_the_start_of_a_performance_is_not_remembered():
    memory, recall = remember(empty_memory(2), start_note(2))
    assert_same(memory, empty_memory(2))
    assert not recall.distance.numpy().any()
    notes = piece(30, 5)
    started = NoteTensors(*(tf.constant([value, 7], tf.int32) for value in (60, 0, 1000, 80)))
    after, recall = remember(read_memory([notes, notes]), started._replace(pitch=tf.constant([START_PITCH, 60])))
    np.testing.assert_array_equal(after.count, [30, 31])
    assert not recall.distance[0].numpy().any()


def test_music_that_returns_goes_on_with_an_earlier_passage():
    pieces = [piece(length, 9) for length in (200, 200, 20)]
    memory = read_memory([notes[:-1] for notes in pieces])
    last = NoteTensors(
        *(tf.constant([getattr(notes, field)[-1] for notes in pieces], tf.int32) for field in NoteTensors._fields)
    )
    plain, before = remember(memory, last)
    # The second stays where it is, and the third has no passage far enough back.
    after, recall = remember(memory, last, returns=tf.constant([0.5, -1, 0.5]))
    for row in (1, 2):
        np.testing.assert_array_equal(after.alignments[row], plain.alignments[row])
        np.testing.assert_array_equal(recall.pitch[row], before.pitch[row])
    distance = NEAREST_RETURN + int(0.5**1.5 * (199 - NEAREST_RETURN))
    passage = pieces[0].pitch[200 - distance : 203 - distance]
    alignments = unpack(after.alignments)
    assert (alignments.distance[0, 0], alignments.strength[0, 0]) == (distance, STRONGEST)
    np.testing.assert_array_equal(recall.pitch[0, MATCHES + 2 : MATCHES + PLACES], passage)
    np.testing.assert_array_equal(recall.strength[0, MATCHES : MATCHES + PLACES], [0, 0, *[STRONGEST] * 3])


@pytest.mark.parametrize("place", [0.0, 0.999999999])
def test_music_returns_to_what_it_remembers(place):
    for length in (NEAREST_RETURN + 2, MEMORY_LENGTH + 100):
        notes = piece(length, 10)
        last = NoteTensors(*(tf.constant([getattr(notes, field)[-1]], tf.int32) for field in NoteTensors._fields))
        after, recall = remember(read_memory([notes[:-1]]), last, returns=tf.constant([place]))
        distance = int(unpack(after.alignments).distance[0, 0])
        assert NEAREST_RETURN <= distance <= min(length - 1, FARTHEST)
        assert recall.pitch[0, MATCHES + 2] == notes.pitch[length - distance]


def test_performances_of_different_lengths_share_a_batch(play):
    short, long = piece(20, 6), piece(50, 7)
    memory = read_memory([short, long])
    tail = piece(25, 8)
    _, together, _ = play([tail, tail], memory)
    for row, heard in enumerate((short, long)):
        _, alone, _ = play([tail], read_memory([heard]))
        np.testing.assert_array_equal(together[:, row], alone[:, 0])
