import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.repeats import alignments_by_definition, repeating_pitches
from trainer.data.alignments import ALIGNMENTS, PLACES, STRONGEST, Alignments, find_alignments, unpack
from trainer.data.matches import MEMORY_LENGTH, find_matches

SEEDS = st.integers(0, 2**31 - 1)


def alignments_of(*pieces):
    pitch, offsets = np.concatenate(pieces), np.cumsum([0, *map(len, pieces)])
    packed = find_alignments(pitch, offsets, find_matches(pitch, offsets))
    return tf.nest.map_structure(np.asarray, unpack(tf.constant(packed.astype(np.int64))))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 150), min_size=1, max_size=4), SEEDS)
def test_alignments_follow_passages_as_defined(lengths, seed):
    pieces = [repeating_pitches(length, seed + number) for number, length in enumerate(lengths)]
    found = alignments_of(*pieces)
    expected = [at_note for piece in pieces for at_note in alignments_by_definition(piece)]
    numbers = [number for length in lengths for number in range(length)]
    for row, (number, at_note) in enumerate(zip(numbers, expected, strict=True)):
        for index in range(ALIGNMENTS):
            got = tuple(int(part[row, index]) for part in found[:3])
            if index >= len(at_note):
                assert got == (0, 0, 0)
                assert not found.is_played[row, index].any()
                continue
            one = at_note[index]
            assert got == (number - one.place, one.shift, one.strength)
            places = [place for place in range(one.place - 1, one.place + 4) if place not in one.played]
            assert [one.place - 1 + p for p in np.flatnonzero(~found.is_played[row, index])] == places


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 199), st.integers(0, 127))
def test_a_later_note_never_changes_an_earlier_alignment(seed, place, pitch):
    piece = repeating_pitches(200, seed)
    changed = piece.copy()
    changed[place] = pitch
    for before, after in zip(alignments_of(piece), alignments_of(changed), strict=True):
        np.testing.assert_array_equal(before[:place], after[:place])


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(-12, 12))
def test_a_transposed_piece_has_the_same_alignments(seed, semitones):
    piece = repeating_pitches(200, seed)
    for one, other in zip(alignments_of(piece), alignments_of(piece + semitones), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_alignment_goes_on_over_slips():
    random = np.random.default_rng(1)
    passage, between = random.integers(48, 84, 60), 100 + np.arange(40) % 5
    repeat = passage + 2
    repeat[20] = 30  # a wrong note
    repeat[[30, 31, 32]] = repeat[[32, 30, 31]]  # a chord in another order
    repeat = np.insert(np.delete(repeat, 40), 50, 31)  # a note left out, and one added
    found = alignments_of(np.concatenate([passage, between, repeat]))
    distance, shift, strength = (part[-60:, 0] for part in found[:3])
    np.testing.assert_array_equal(shift[6:], 2)
    assert set(distance[6:].tolist()) == {99, 100}  # after the note left out, 99
    assert strength[6:].min() >= 5
    assert strength[19] >= 18
    assert strength[33] > strength[29]


def test_an_alignment_ends_where_its_passage_does():
    random = np.random.default_rng(2)
    passage = random.integers(48, 84, 40)
    found = alignments_of(np.concatenate([passage, np.full(9, 20), passage, np.cumsum(np.arange(8))]))
    assert found.strength[88, 0] == STRONGEST
    np.testing.assert_array_equal(found.strength[89:94, 0], [15, 7, 3, 1, 0])


def test_passages_too_far_back_are_forgotten():
    passage = np.random.default_rng(3).integers(48, 84, 24)
    for between, is_remembered in ((MEMORY_LENGTH - 40, True), (MEMORY_LENGTH - 28, False)):
        piece = np.concatenate([passage, 100 + np.arange(between) % 5, passage])
        assert (alignments_of(piece).distance[-1, 0] == len(passage) + between) == is_remembered


def test_pieces_in_a_table_are_not_aligned_with_each_other():
    piece, other = repeating_pitches(80, 3), repeating_pitches(50, 4)
    table, alone = alignments_of(piece, np.zeros(0, np.int64), piece, other), alignments_of(piece)
    for part, expected in zip(table, alone, strict=True):
        np.testing.assert_array_equal(part[:80], expected)
        np.testing.assert_array_equal(part[80:160], expected)


@given(
    st.integers(1, MEMORY_LENGTH - PLACES),
    st.integers(-127, 127),
    st.integers(1, STRONGEST),
    st.integers(0, 2**PLACES - 1),
)
def test_packed_alignments_are_unpacked_as_they_were(distance, shift, strength, flags):
    numbers = (tf.constant([[number, 0]], tf.int64) for number in (distance, shift, strength))
    played = tf.constant([[[flags >> place & 1 == 1 for place in range(PLACES)], [False] * PLACES]])
    alignments = Alignments(*numbers, played)
    packed = alignments.pack()
    assert packed.numpy().max() < 2**32
    for part, expected in zip(unpack(packed), alignments, strict=True):
        np.testing.assert_array_equal(part, expected)
