import numpy as np
import pytest

from sostenuto.errors import UserError
from sostenuto.music.notes import PITCHES, Notes
from tests.factories import regular_notes
from trainer.generation.controls import Controls, allowed_pitches, change_tempo

ALL = (0, PITCHES - 1)


def pitch_classes(key):
    return {int(pitch) % 12 for pitch in np.flatnonzero(allowed_pitches(Controls(key=key), ALL))}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("C major", {0, 2, 4, 5, 7, 9, 11}),
        ("A minor", {9, 11, 0, 2, 4, 5, 6, 7, 8}),
        ("D minor", {2, 4, 5, 7, 9, 10, 11, 0, 1}),
        ("d MINOR", {2, 4, 5, 7, 9, 10, 11, 0, 1}),
        ("F# major", {6, 8, 10, 11, 1, 3, 5}),
        ("Gb major", {6, 8, 10, 11, 1, 3, 5}),
        ("Cb major", {11, 1, 3, 4, 6, 8, 10}),
    ],
)
def test_a_key_permits_its_scale_and_in_minor_the_raised_degrees_too(key, expected):
    assert pitch_classes(key) == expected


@pytest.mark.parametrize(
    ("range", "expected"),
    [("C2-C7", (36, 96)), ("36-96", (36, 96)), ("Bb3-f#4", (58, 66)), ("C-1-G9", ALL), ("C-1-0", (0, 0))],
)
def test_a_range_permits_all_from_its_lowest_to_its_highest_note(range, expected):
    allowed = np.flatnonzero(allowed_pitches(Controls(range=range), ALL))
    np.testing.assert_array_equal(allowed, np.arange(expected[0], expected[1] + 1))


def test_key_range_and_the_models_range_act_together():
    allowed = allowed_pitches(Controls(key="C major", range="B3-C5"), (61, 90))
    assert np.flatnonzero(allowed).tolist() == [62, 64, 65, 67, 69, 71, 72]


@pytest.mark.parametrize(
    ("controls", "got"),
    [
        ({"key": "C major", "range": "C#4-C#4"}, "key=C major, range=C#4-C#4"),
        ({"range": "C-1-F0"}, "range=C-1-F0"),
    ],
)
def test_an_empty_intersection_is_an_error_with_a_remedy(controls, got):
    with pytest.raises(UserError, match=rf"^{got}: got no pitch, expected .* A0-C8\. Pass another key or range$"):
        allowed_pitches(Controls(**controls), (21, 108))


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("key", ["H minor", "D", "minor", "Dminor", "C-sharp major", "D dorian", "", 3], "as in D minor or Bb major"),
        ("range", ["C2", "C7-C2", "C2-H7", "1-128", "Cb-1-C4", "", "-", (36, 96)], "as in C2-C7 or 36-96"),
        ("density", [-1, 101, np.nan, "many", None, True], "a number at least 0 and at most 100"),
        ("tempo", [0, 11, np.inf, "fast", None], r"a number at least 0\.1 and at most 10"),
        ("avoid_repeats", [-1, 1001, 8.0, None], "an integer at least 0 and at most 1,000"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_control_and_what_was_expected(name, values, expected):
    for value in values:
        with pytest.raises(UserError, match=f"^{name}: got .*, expected .*{expected}$") as error:
            Controls(**{name: value})
        assert len(str(error.value).splitlines()) == 1


def test_numbers_of_numpy_become_those_of_python():
    controls = Controls(density=np.float32(8), avoid_repeats=np.int64(3))
    assert (type(controls.density), type(controls.avoid_repeats)) == (float, int)


def test_a_tempo_divides_times_without_adding_up_errors():
    notes = regular_notes(500, seed=1)
    faster = change_tempo(notes, 1.3)
    np.testing.assert_allclose(faster.onset_us, notes.onset_us / 1.3, atol=0.5)
    np.testing.assert_allclose(faster.duration_us, notes.duration_us / 1.3, atol=0.5)
    np.testing.assert_array_equal(faster.pitch, notes.pitch)
    assert change_tempo(notes, 1.0) == notes


def test_the_longest_and_shortest_times_stay_valid_at_any_tempo():
    extremes = Notes(np.array([60, 60]), np.array([0, 2**31 - 1]), np.array([1, 2**31 - 1]), np.array([64, 64]))
    slow, fast = (change_tempo(extremes, tempo) for tempo in (0.1, 10))
    assert slow.step_us.tolist() == [0, 2**31 - 1]
    assert fast.duration_us.tolist() == [1, 214_748_365]
