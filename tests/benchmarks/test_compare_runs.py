"""benchmarks/compare_runs.py, without models."""

import sys

import numpy as np
import pytest

from sostenuto.errors import UserError
from tests.processes import REPOSITORY
from trainer.evaluation.statistics import NoteScores
from trainer.workdir.formats import RunInfo

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import compare_runs as benchmark


def test_the_gain_of_each_composer_is_that_of_its_own_notes():
    lengths, composers = np.array([3, 1, 5, 4]), ["Bach", "Bach", "Chopin", "Bach"]
    owners = np.repeat(np.array(composers), lengths - 1)
    zero = np.zeros(len(owners))
    pitch = np.random.default_rng(0).normal(2, 0.1, len(owners))
    # Each of Bach's notes costs a quarter of a nat less, each of Chopin's an eighth more.
    other = NoteScores(pitch + np.where(owners == "Bach", 0.25, -0.125), *[zero] * 6)
    rows = list(benchmark.compare(NoteScores(pitch, *[zero] * 6), other, lengths, composers, ["Bach", "Liszt"]))
    assert [row[0] for row in rows] == ["all", "the 2 below", "Bach", "Liszt"]
    everything, pooled, bach, liszt = (row[1:] for row in rows)
    mean = (5 * 0.25 - 4 * 0.125) / 9
    assert (everything[0], everything[3]) == ("4", f"{mean:+.4f}")
    assert pooled == bach
    assert (bach[0], bach[3], bach[4]) == ("3", "+0.2500", "+0.2500 to +0.2500")
    assert float(bach[2]) - float(bach[1]) == pytest.approx(0.25, abs=2e-3)
    assert liszt == ["0", "", "", "", ""]


def test_the_gain_by_place_is_that_of_the_notes_there(monkeypatch):
    monkeypatch.setattr(benchmark, "PLACES", (0, 2, 5))
    lengths = np.array([3, 1, 7])
    place = np.concatenate([np.arange(1, length) for length in lengths])
    zero = np.zeros(len(place))
    # A note costs a nat less in the first row's places, and two or three in those after them.
    other = NoteScores(1.0 + (place >= 2) + (place >= 5), *[zero] * 6)
    rows = list(benchmark.compare_places(NoteScores(zero, *[zero] * 6), other, lengths))
    assert [row[:2] + row[4:5] for row in rows] == [
        ["notes from 1 to 2", "2", "+1.0000"],
        ["notes from 3 to 5", "2", "+2.0000"],
        ["notes from 6", "1", "+3.0000"],
    ]


def test_runs_of_other_durations_are_refused_and_those_of_another_dataset_are_named(tmp_path, capsys):
    runs = {
        "first": RunInfo(dataset="5e", sustain="ignore"),
        "same": RunInfo(dataset="5e", sustain="ignore"),
        "other": RunInfo(dataset="77", sustain="ignore"),
        "pedal": RunInfo(dataset="77", sustain="extend"),
    }
    paths = {name: str(tmp_path / name) for name in runs}
    for name, run in runs.items():
        (tmp_path / name).mkdir()
        run.save(f"{paths[name]}/run.json")
    benchmark.check_comparable(paths["first"], paths["same"])
    assert capsys.readouterr().err == ""
    benchmark.check_comparable(paths["first"], paths["other"])
    assert capsys.readouterr().err.startswith(f"{paths['other']}: trained on another dataset")
    with pytest.raises(UserError, match="--sustain=extend, expected ignore"):
        benchmark.check_comparable(paths["first"], paths["pedal"])
