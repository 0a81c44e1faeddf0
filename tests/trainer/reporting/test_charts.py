"""Charts of a run's page: curves and distributions."""

import json

import numpy as np
import pytest

from tests.factories import comparison, reports, write_run
from tests.pages import Page
from tests.trainer.report_pages import read_page, rows


def series_of(page: Page, title: str) -> dict[str, dict]:
    """What a chart tells who points at it, by name."""
    chart = next(
        found for found in page.all("svg") if found.get("data-series") and found["aria-label"].startswith(title)
    )
    return {one["name"]: one for one in json.loads(chart["data-series"])}


def test_curves_tell_the_values_of_their_points(text):
    total = series_of(Page(text), "Total, nats/note")
    assert total["validation"]["at"] == ["train_step 50", "train_step 100", "train_step 150", "train_step 200"]
    assert total["validation"]["values"] == ["9.000", "8.500", "8.200", "8.100"]
    assert total["validation"]["y"] == sorted(total["validation"]["y"])  # less is lower down
    gaps = np.diff(total["validation"]["x"])
    assert gaps == pytest.approx(np.full(3, gaps[0]), abs=0.2)
    assert len(total["training"]["x"]) == 20
    assert [row[:2] for row in rows(text, "Validation scores")][1] == ["50", "9.000"]


def test_a_long_run_is_thinned_to_what_can_be_seen_and_keeps_its_end(dataset, tmp_path):
    lines = [{**reports()[index % 20], "train_step": index + 1} for index in range(3000)]
    training = series_of(read_page(write_run(tmp_path / "w", dataset, lines=lines)), "Loss")["training"]
    assert 200 <= len(training["x"]) <= 400
    assert training["at"][-1] == "train_step 3,000"


def test_a_run_of_plain_times_has_their_errors_as_curves(dataset, tmp_path):
    lines = [{key: value for key, value in line.items() if "val" not in key} for line in reports()]
    for line in lines:
        line["step_mse"], line["duration_mse"] = line.pop("step_nll"), line.pop("duration_nll")
    page = read_page(write_run(tmp_path / "w", dataset, lines=lines))
    assert series_of(page, "Step, squared error")["training"]["values"][-1] == "2.250"
    assert not [found for found in page.all("svg") if (found.get("aria-label") or "").startswith("Total")]


def test_distributions_show_the_shares_of_each_kind_of_music(text):
    document = comparison()
    music = series_of(Page(text), "Distribution of pitch class")
    counts = np.array(document["counts"]["generated"]["pitch_class"])
    assert music["generated"]["values"] == [f"{share:.1%}" for share in counts / counts.sum()]
    assert music["generated"]["at"] == ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
    named = f"{document['copied_run']['generated']['max']:,}"
    assert rows(text, "Repetition and copies")[-1][2] == named
