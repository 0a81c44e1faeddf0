"""Repetition by distance, and the runs that repeat, against a search of all places."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sostenuto.music.notes import Notes
from trainer.evaluation.repetition import NGRAM, Repeat, find_repeats, repeated_notes
from trainer.workdir.form_formats import DISTANCES


def melody(pitch) -> Notes:
    step_us = np.full(len(pitch), 200_000)
    step_us[:1] = 0
    return Notes(np.asarray(pitch, np.int64), step_us, np.full(len(pitch), 150_000), np.full(len(pitch), 70))


def nearest_places(pitch) -> list[int | None]:
    """For each note, the least distance at which any eight notes around it occurred before, by trying all."""
    found = []
    for note in range(len(pitch)):
        starts = [start for start in range(note - NGRAM + 1, note + 1) if 0 <= start <= len(pitch) - NGRAM]
        distances = [
            distance
            for start in starts
            for distance in range(1, start + 1)
            if pitch[start : start + NGRAM] == pitch[start - distance : start - distance + NGRAM]
        ]
        found.append(min(distances, default=None))
    return found


pieces = st.one_of(
    st.lists(st.integers(60, 61), max_size=60),
    st.tuples(st.lists(st.integers(0, 127), max_size=20), st.lists(st.integers(60, 70), max_size=40)).map(
        lambda parts: [*parts[0], *parts[1], *parts[0]]
    ),
)


@given(pieces, st.integers(0, 60))
def test_each_note_counts_at_the_nearest_place_that_any_match_of_it_has(pitch, first):
    bounds = [0, 32, 128, 512, 2048, np.inf]
    places = nearest_places(pitch)[first:]
    expected = [
        sum(place is not None and low < place <= high for place in places) / max(len(places), 1)
        for low, high in itertools.pairwise(bounds)
    ]
    assert list(repeated_notes(melody(pitch), first).values()) == pytest.approx(expected)


@given(pieces)
def test_the_runs_cover_exactly_the_notes_that_repeat(pitch):
    runs = find_repeats(melody(pitch))
    for run in runs:
        own, earlier = (pitch[run.first - back : run.last + 1 - back] for back in (0, run.distance))
        assert own == earlier
        assert len(own) >= NGRAM
    covered = {note for run in runs for note in range(run.first, run.last + 1)}
    assert covered == {note for note, place in enumerate(nearest_places(pitch)) if place is not None}


@pytest.mark.parametrize(("between", "distance"), [(0, "1-32"), (12, "1-32"), (13, "33-128"), (600, "513-2048"),
                                                   (3000, "2049+")])  # fmt: skip
def test_a_theme_that_comes_back_counts_by_how_far_back_it_was(between, distance):
    theme = list(range(40, 60))
    random = np.random.default_rng(0)
    piece = melody([*theme, *random.integers(70, 128, between), *theme])
    shares = repeated_notes(piece)
    assert shares == {name: pytest.approx(20 / len(piece) if name == distance else 0) for name in DISTANCES}
    assert find_repeats(piece) == [Repeat(20 + between, 39 + between, 20 + between)]


def test_a_theme_of_the_primer_that_comes_back_counts_and_the_primer_itself_does_not():
    theme = list(range(40, 60))
    assert repeated_notes(melody([*theme, *theme]), 20)["1-32"] == 1
    assert repeated_notes(melody([*theme, *theme, *range(90, 110)]), 40) == dict.fromkeys(DISTANCES, 0)


def test_a_trill_repeats_what_is_two_notes_back_from_its_third_note_on():
    assert repeated_notes(melody([60, 62] * 10))["1-32"] == pytest.approx(18 / 20)


@pytest.mark.parametrize("pitch", [[], [60], [60] * 7])
def test_music_shorter_than_a_match_has_no_repetition(pitch):
    assert repeated_notes(melody(pitch)) == dict.fromkeys(DISTANCES, 0)
    assert find_repeats(melody(pitch)) == []
