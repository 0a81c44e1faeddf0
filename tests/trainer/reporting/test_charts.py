"""Charts of a run's page: curves and distributions."""

import json

import numpy as np
import pytest

from tests.factories import comparison, reports, write_run
from tests.pages import Page
from tests.trainer.report_pages import read_page, rows
from trainer.reporting.load import load_report
from trainer.reporting.page import render


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


@pytest.fixture
def repeating(dataset, tmp_path):
    """The page of a run whose performer plays a theme again after a minute, and whose model does not."""
    document = comparison()
    theme = ["0f0000000000", "000f00000000", "00000f000000", "0000000f0000"] * 8
    other = ["".join("f" if at == second * 5 % 12 else "0" for at in range(12)) for second in range(32)]
    document["pictures"] = {
        "real": {"primer_seconds": 10.5, "chroma": [*theme, *other, *theme], "repeats": [[64.0, 95.0, 0.0, 31.0]]},
        "generated": {"primer_seconds": 10.5, "chroma": other, "repeats": []},
    }
    document["repeated_notes"]["513-2048"] = {
        "generated": {"mean": 0.015, "max": 0.1},
        "real": {"mean": 0.09, "max": 0.3},
    }
    return render(load_report(str(write_run(tmp_path / "w", dataset, generated_test=document)))), document


def test_repetition_stands_by_distance_and_structure_by_length(repeating):
    text, document = repeating
    page = Page(text)
    repetition, structure = (series_of(page, title) for title in ("Repetition, share", "Structure, highest"))
    assert repetition["generated"]["at"] == [
        f"{name} notes back" for name in ("1 to 32", "33 to 128", "129 to 512", "513 to 2048", "2049+")
    ]
    assert repetition["generated"]["values"][3] == "1.5%"
    assert repetition["real continuations"]["values"][3] == "9.0%"
    assert structure["generated"]["values"] == [
        f"{by_kind['generated']['mean']:.3f}" for by_kind in document["structure"].values()
    ]
    (row,) = [row for row in rows(text, "Repetition and copies") if row[0] == "repeated, 513-2048 notes back"]
    assert row[1:] == ["1.5%", "10.0%", "9.0%", "30.0%"]


def test_pictures_say_and_draw_what_returns(repeating):
    text, document = repeating
    page = Page(text)
    told = [found["aria-label"] for found in page.all("svg") if "Self-similarity" in found.get("aria-label", "")]
    assert told == [
        "Self-similarity of the performer's piece, 96 s: 1 run of pitches returns, the longest for 31 s, the farthest "
        "after 64 s.",
        "Self-similarity of the model's piece, 32 s: 0 runs of pitches return.",
    ]
    (line,) = [found["d"] for found in page.all("path") if found.get("class") == "repeat"]
    assert line == "M64 0L95 31M0 64L31 95"
    # The darkest points of the performer's picture: the theme's seconds are on the diagonal of its return.
    darkest = [found["d"] for found in page.all("path") if "class" not in found][3]
    assert "M0 0.5h1" in darkest
    assert document["primers"][document["pictured"]] in page.words


def test_music_from_silence_has_no_seam(dataset, tmp_path):
    document = comparison()
    document["primer_notes"] = 0
    for picture in document["pictures"].values():
        picture["primer_seconds"] = 0.0
    text = render(load_report(str(write_run(tmp_path / "w", dataset, generated_test=document))))
    assert 'class="seam"' not in text
    assert "Dashed lines" not in text
    assert "and what the model played from silence. This performer" in Page(text).words
