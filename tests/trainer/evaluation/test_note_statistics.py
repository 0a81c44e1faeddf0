"""Simple statistics of music, by composer."""

import pytest

from sostenuto.music.notes import Notes
from tests.factories import regular_notes
from trainer.evaluation.note_statistics import STATISTICS, measure, measure_composers


def test_statistics_are_of_pitches_and_of_times_as_heard():
    notes = Notes([60, 64, 60, 60], [0, 10_000, 490_000, 500_000], [100_000] * 4, [50, 70, 50, 70])
    named = measure(notes)
    assert named["pitch"] == 61
    assert named["velocity"] == 60
    assert named["notes/s"] == pytest.approx(3)
    assert named["in chords"] == pytest.approx(1 / 3)
    assert named["repeated pitch"] == pytest.approx(1 / 3)
    assert named["duration, s"] == pytest.approx(0.1)
    assert named["pitch-class entropy"] == pytest.approx(0.8113, abs=1e-4)


def test_each_composer_has_the_means_of_their_continuations():
    generated, real = ([regular_notes(40, seed + part) for part in range(4)] for seed in (0, 10))
    found = measure_composers(generated, real, ["Bach", "", "Liszt", "Liszt"])
    assert {name: statistics.continuations for name, statistics in found.items()} == {"Liszt": 2, "Bach": 1}
    assert list(found) == ["Liszt", "Bach"]
    assert found["Bach"].means["pitch"] == {"generated": generated[0].pitch.mean(), "real": real[0].pitch.mean()}
    for title in STATISTICS:
        mean = (measure(real[2])[title] + measure(real[3])[title]) / 2
        assert found["Liszt"].means[title]["real"] == pytest.approx(mean)


def test_without_composers_or_notes_there_are_none():
    notes = [regular_notes(40, 0)]
    assert measure_composers(notes, notes, [""]) is None
    assert measure_composers([notes[0][:1]], notes, ["Bach"]) is None
