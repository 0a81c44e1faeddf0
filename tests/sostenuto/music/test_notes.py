import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sostenuto.music.notes import MAX_TICK, Notes, merge_overlapping_notes, note_name, note_number, ticks
from tests.factories import random_notes


def test_ticks_round_half_up_and_stop_at_ten_seconds():
    microseconds = np.array([0, 4_999, 5_000, 14_999, 15_000, 9_994_999, 9_995_000, 10_005_000, 2**31 - 1])
    assert ticks(microseconds).tolist() == [0, 0, 1, 1, 2, 999, 1000, MAX_TICK, MAX_TICK]


def test_note_names_use_middle_c_as_c4_and_sharps():
    assert [note_name(pitch) for pitch in (0, 21, 60, 78, 108, 127)] == ["C-1", "A0", "C4", "F#5", "C8", "G9"]


def test_the_number_of_a_note_is_that_of_its_name_in_any_spelling():
    assert [note_number(note_name(pitch)) for pitch in range(128)] == [*range(128)]
    assert [note_number(name) for name in ("bb3", "Cb4", "B#3", "E#4", "Gb5")] == [58, 59, 60, 65, 78]


@pytest.mark.parametrize("name", ["", "C", "H4", "C##4", "60", "Cb-1", "G#9", "C4 ", "C٤"])
def test_a_text_that_names_no_note_is_refused(name):
    with pytest.raises(ValueError, match="expected a name from C-1 to G9"):
        note_number(name)


def test_note_name_of_no_pitch_is_refused():
    with pytest.raises(ValueError, match="128"):
        note_name(128)


def test_notes_are_sorted_by_onset_pitch_offset_velocity():
    notes = Notes.from_onsets(
        pitch=[64, 60, 60, 60, 62],
        onset_us=[100, 100, 100, 100, 50],
        offset_us=[200, 300, 200, 200, 900],
        velocity=[1, 2, 4, 3, 5],
    )
    assert notes.velocity.tolist() == [5, 3, 4, 2, 1]
    assert notes.step_us.tolist() == [0, 50, 0, 0, 0]
    assert notes.duration_us.tolist() == [850, 100, 100, 200, 100]


@given(
    st.lists(
        st.tuples(st.integers(0, 127), st.integers(0, 10**9), st.integers(1, 10**9), st.integers(1, 127)),
        min_size=1,
        max_size=30,
    ),
    st.randoms(),
)
def test_the_order_in_which_notes_arrive_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    results = []
    for pitch, onset, duration, velocity in (map(np.array, zip(*order, strict=True)) for order in (rows, shuffled)):
        results.append(Notes.from_onsets(pitch, onset, onset + duration, velocity))
    assert results[0] == results[1]
    assert sorted(results[0].onset_us) == sorted(row[1] - min(row[1] for row in rows) for row in rows)
    assert np.array_equal(results[0].offset_us - results[0].onset_us, results[0].duration_us)


def test_a_slice_starts_at_time_zero_and_leaves_the_original_unchanged():
    notes = random_notes(0, 50)
    part = notes[10:20]
    assert len(part) == 10
    assert part.step_us[0] == 0
    assert part.step_us[1:].tolist() == notes.step_us[11:20].tolist()
    assert part.onset_us.tolist() == (notes.onset_us[10:20] - notes.onset_us[10]).tolist()
    assert notes == random_notes(0, 50)


def test_only_slices_forward_are_taken():
    notes = random_notes(0, 5)
    with pytest.raises(TypeError, match="slice"):
        notes[0]
    with pytest.raises(ValueError, match="times"):
        notes[::-1]


def test_seconds_is_the_end_of_the_last_sounding_note():
    held_bass = Notes.from_onsets([30, 60], [1_000_000, 2_000_000], [9_500_000, 2_100_000], [64, 64])
    assert held_bass.seconds == 8.5
    assert Notes.empty().seconds == 0.0


def test_empty_notes_have_every_array():
    empty = Notes.empty()
    assert len(empty) == 0
    assert empty.onset_us.shape == empty.offset_us.shape == (0,)
    assert empty[:3] == Notes.from_onsets([], [], [], [])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([128], [0], [1], [1]), "pitch: got 128"),
        (([60], [0], [0], [1]), "duration_us: got 0"),
        (([60], [0], [1], [0]), "velocity: got 0"),
        (([60, 60], [0, -1], [1, 1], [1, 1]), "step_us: got -1"),
        (([60], [7], [1], [1]), "first step: got 7"),
        (([60], [0], [2**31], [1]), "duration_us: got 2147483648"),
        (([60], [0, 1], [1], [1]), "shape"),
        (([60], [0], [1.5], [1]), "expected integers"),
        (([[60]], [0], [1], [1]), "shape"),
    ],
)
def test_an_invalid_note_is_rejected_by_name(arrays, message):
    with pytest.raises(ValueError, match=message):
        Notes(*map(np.array, arrays))


def test_the_types_are_small_and_settled():
    notes = Notes(*map(np.array, ([60], [0], [1], [64])))
    assert [array.dtype for array in (notes.pitch, notes.step_us, notes.duration_us, notes.velocity)] == [
        np.uint8,
        np.int64,
        np.int64,
        np.uint8,
    ]


@pytest.mark.parametrize(
    ("notes", "keys"),
    [
        ([(60, 0, 4, 64), (60, 3, 6, 80)], [(60, 0, 3, 64), (60, 3, 6, 80)]),
        ([(60, 0, 4, 64), (60, 0, 2, 80)], [(60, 0, 4, 80)]),
        ([(60, 0, 4, 64), (60, 2, 3, 64), (60, 2, 9, 1)], [(60, 0, 2, 64), (60, 2, 9, 64)]),
        ([(62, 0, 4, 64), (60, 0, 9, 64), (60, 9, 10, 1)], [(60, 0, 9, 64), (62, 0, 4, 64), (60, 9, 10, 1)]),
        ([(60, 0.5, 1.5, 64), (60, 0.25, 0.75, 64)], [(60, 0.25, 0.5, 64), (60, 0.5, 1.5, 64)]),
        ([], []),
    ],
    ids=["struck again", "struck together", "both", "not met", "fractions", "nothing"],
)
def test_notes_that_meet_on_one_key_are_joined(notes, keys):
    columns = zip(*notes, strict=True) if notes else ([], [], [], [])
    joined = merge_overlapping_notes(*map(list, columns))
    assert list(zip(*(values.tolist() for values in joined), strict=True)) == keys
