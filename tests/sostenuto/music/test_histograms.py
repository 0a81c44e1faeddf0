import json
import math

import numpy as np
import pytest

from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import Notes
from tests.factories import random_notes

CHORD = Notes.from_onsets(
    pitch=[60, 64, 67], onset_us=[0, 0, 250_000], offset_us=[500_000, 12_000_000, 254_000], velocity=[10, 20, 20]
)


def test_histograms_count_values_on_the_tick_grid():
    histograms = Histograms.from_notes(CHORD)
    assert np.flatnonzero(histograms.pitch).tolist() == [60, 64, 67]
    assert {tick: int(histograms.step[tick]) for tick in np.flatnonzero(histograms.step)} == {0: 1, 25: 1}
    assert np.flatnonzero(histograms.duration).tolist() == [0, 50, 1000]
    assert histograms.velocity[[10, 20]].tolist() == [1, 2]


def test_the_first_note_of_a_performance_has_no_step():
    assert Histograms.from_notes(CHORD).step.sum() == len(CHORD) - 1
    assert Histograms.from_notes(CHORD[:1]).step.sum() == 0


def test_histograms_of_parts_add_up_to_those_of_the_whole():
    parts = [random_notes(seed) for seed in range(3)]
    total = sum(map(Histograms.from_notes, parts), Histograms.zeros())
    assert total.pitch.sum() == sum(map(len, parts))
    assert np.array_equal(total.pitch, np.bincount(np.concatenate([part.pitch for part in parts]), minlength=128))


def test_histograms_survive_json():
    histograms = Histograms.from_notes(random_notes(1))
    assert Histograms.from_json(json.loads(json.dumps(histograms.to_json()))) == histograms
    assert histograms != Histograms.zeros()


def test_histograms_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="pitch"):
        Histograms.from_json({"pitch": [1] * 129, "step": [], "duration": [], "velocity": []})
    with pytest.raises(ValueError, match="velocity"):
        Histograms.from_json({"pitch": [], "step": [], "duration": []})


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.975, 1.0])
def test_quantiles_agree_with_numpy(q):
    notes = random_notes(2, 500)
    histograms = Histograms.from_notes(notes)
    assert histograms.quantile("pitch", q) == np.quantile(notes.pitch, q, method="inverted_cdf")
    seconds = np.floor((notes.duration_us + 5_000) / 10_000) / 100
    assert histograms.quantile("duration", q) == pytest.approx(np.quantile(seconds, q, method="inverted_cdf"))


def test_quantile_without_notes_is_nan_and_bad_questions_are_refused():
    assert math.isnan(Histograms.zeros().quantile("step", 0.5))
    with pytest.raises(ValueError, match="tempo"):
        Histograms.zeros().quantile("tempo", 0.5)
    with pytest.raises(ValueError, match=r"1\.5"):
        Histograms.zeros().quantile("step", 1.5)
