"""Structure indicators: fitness against a search of all path families, and pieces whose form is known."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sostenuto.music.notes import Notes
from trainer.evaluation import structure
from trainer.workdir.form_formats import SPANS


def best_fitness(similarity, start, length) -> float:
    """The fitness of a segment after its definition, by trying all families of paths."""
    frames = len(similarity)

    @functools.cache
    def paths(row, column):
        """Paths from a pair of frames to the segment's last frame, as (last row, score, pairs)."""
        own = float(similarity[row, start + column])
        ends = [(row, own, 1)] if column == length - 1 else []
        for down, right in ((1, 1), (1, 2), (2, 1)):
            if row + down < frames and column + right < length:
                ends += [(end, own + score, pairs + 1) for end, score, pairs in paths(row + down, column + right)]
        return ends

    @functools.cache
    def families(row):
        """The best family of the rows from this one on, as (score, pairs, rows covered)."""
        if row >= frames:
            return 0.0, 0, 0
        found = [families(row + 1)]
        for end, score, pairs in paths(row, 0):
            more = families(end + 1)
            found.append((score + more[0], pairs + more[1], end - row + 1 + more[2]))
        return max(found)

    score, pairs, covered = families(0)
    normal_score, coverage = (score - length) / pairs, (covered - length) / frames
    total = normal_score + coverage
    return 2 * normal_score * coverage / total if total else 0.0


@given(st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.7, 1.0]))
@settings(max_examples=60)
def test_fitness_is_that_of_the_best_of_all_path_families(frames, seed, similar):
    random = np.random.default_rng(seed)
    similarity = np.where(random.random((frames, frames)) < similar, random.random((frames, frames)), -2)
    np.fill_diagonal(similarity, 1)
    for length in range(1, frames + 1):
        expected = [best_fitness(similarity, start, length) for start in range(frames - length + 1)]
        assert structure.fitness(similarity, length) == pytest.approx(expected, abs=1e-3)


def piece(pitch, *, notes_per_second=4) -> Notes:
    """Notes of equal lengths, one after the other."""
    step_us = np.full(len(pitch), round(1_000_000 / notes_per_second))
    duration_us = step_us.copy()
    step_us[:1] = 0
    return Notes(np.asarray(pitch, np.int64), step_us, duration_us, np.full(len(pitch), 70))


def random_piece(seconds, seed=0) -> Notes:
    return piece(np.random.default_rng(seed).integers(40, 90, 4 * seconds))


def phrases(*names, seconds=10) -> Notes:
    """Phrases that are random, but the same wherever they have the same name."""
    random = np.random.default_rng(7)
    by_name = {name: random.integers(40, 90, 4 * seconds) for name in sorted({*names})}
    return piece(np.concatenate([by_name[name] for name in names]))


def test_a_phrase_that_returns_has_a_higher_indicator_of_its_length_than_music_that_never_repeats():
    returning = structure.structure_indicators(phrases(*"abacadaea"))
    unique = structure.structure_indicators(phrases(*"abcdefghi"))
    assert returning["middle"] > 0.45
    assert returning["middle"] > 1.5 * unique["middle"]
    assert unique["long"] < 0.25


def test_a_long_part_that_returns_has_a_high_long_indicator():
    returning = structure.structure_indicators(phrases(*"abcdeabcde"))
    assert returning["long"] > 0.45
    assert returning["long"] > 2.5 * structure.structure_indicators(random_piece(100))["long"]


@pytest.mark.parametrize(("semitones", "tempo"), [(5, 1), (0, 1.4), (-4, 0.7)])
def test_a_return_in_another_key_and_tempo_counts(semitones, tempo):
    random = np.random.default_rng(3)
    theme, between = random.integers(45, 80, 160), random.integers(40, 90, 120)
    pitch = np.concatenate([theme, between, theme + semitones])
    step_us = np.repeat([250_000, round(250_000 / tempo)], [280, 160])
    step_us[0] = 0
    returning = Notes(pitch, step_us, np.full(440, 200_000), np.full(440, 70))
    unique = structure.structure_indicators(random_piece(110))
    assert structure.structure_indicators(returning)["long"] > 2 * unique["long"]


def test_one_chord_throughout_is_nothing_but_repetition():
    indicators = structure.structure_indicators(piece([60, 64, 67] * 80))
    assert all(indicators[span] > 0.5 for span in SPANS)


@pytest.mark.parametrize("seconds", [1, 2])
def test_a_piece_shorter_than_any_segment_has_none(seconds):
    assert structure.structure_indicators(random_piece(seconds)) == dict.fromkeys(SPANS, 0)


def test_a_piece_of_ten_seconds_has_no_long_segment():
    indicators = structure.structure_indicators(random_piece(10))
    assert indicators["short"] > 0
    assert indicators["long"] == 0


def test_chroma_is_the_time_that_each_pitch_class_sounds_around_a_second():
    notes = Notes.from_onsets([60, 74], np.array([0, 1_000_000]), np.array([1_000_000, 4_000_000]), [70, 70])
    frames = structure.chroma(notes)
    assert frames.shape == (4, 12)
    assert frames[:, 0] == pytest.approx([1, 0.5, 0, 0])
    assert frames[:, 2] == pytest.approx([0.5, 1.5, 2, 1.5])
    assert not frames[:, [1, *range(3, 12)]].any()


def test_only_the_first_ten_minutes_of_endless_music_count():
    endless = piece([60, 62, 64], notes_per_second=0.001)
    assert endless.seconds == 3000
    assert len(structure.chroma(endless)) == 600
