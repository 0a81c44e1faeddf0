import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.repeats import matches_by_definition, repeating_pitches
from trainer.data.matches import CONTEXTS, MATCHES, MEMORY_LENGTH, find_matches

SEEDS = st.integers(0, 2**31 - 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 150), min_size=1, max_size=4), SEEDS)
def test_matches_are_the_last_places_with_the_same_set_of_notes(lengths, seed):
    pieces = [repeating_pitches(length, seed + number) for number, length in enumerate(lengths)]
    found = find_matches(np.concatenate(pieces).astype(np.uint8), np.cumsum([0, *lengths]))
    np.testing.assert_array_equal(found, np.concatenate([matches_by_definition(piece) for piece in pieces]))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 199), st.integers(0, 127))
def test_a_later_note_never_changes_an_earlier_match(seed, place, pitch):
    piece = repeating_pitches(200, seed)
    changed = piece.copy()
    changed[place] = pitch
    offsets = np.array([0, 200])
    np.testing.assert_array_equal(find_matches(piece, offsets)[:place], find_matches(changed, offsets)[:place])


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(-12, 12))
def test_a_transposed_piece_has_the_same_matches(seed, semitones):
    piece, offsets = repeating_pitches(200, seed), np.array([0, 200])
    np.testing.assert_array_equal(find_matches(piece, offsets), find_matches(piece + semitones, offsets))


def test_places_too_far_back_are_forgotten():
    phrase = np.array([60, 64, 67, 72, 71, 69, 65, 62, 59, 55, 57, 53])
    for between, is_remembered in ((MEMORY_LENGTH - 13, True), (MEMORY_LENGTH - 12, False), (2**16, False)):
        # The notes between have pitches of their own.
        piece = np.concatenate([phrase, 100 + np.arange(between) % 5, phrase])
        last = find_matches(piece, np.array([0, len(piece)]))[-1]
        np.testing.assert_array_equal(last[:CONTEXTS], (len(phrase) + between) * is_remembered)
        assert not last[CONTEXTS:].any()


def test_pieces_in_a_table_do_not_match_each_other():
    piece = repeating_pitches(80, 3)
    both = find_matches(np.concatenate([piece, piece]), np.array([0, 80, 80, 160]))
    np.testing.assert_array_equal(both[80:], both[:80])
    assert both.shape == (160, MATCHES)
