"""The model card says what a workdir knows, and nothing that it does not."""

import dataclasses
import json
import shutil

import pytest

from sostenuto.data.manifest import Manifest
from tests.factories import CONFIG, evaluation, reports, write_run
from trainer.reporting import model_card
from trainer.workdir.formats import ExportInfo, WeightSource
from trainer.workdir.layout import update_run

EXPORTED = ExportInfo(200, (40, 90), CONFIG)


def rows(card: str) -> dict[str, list[str]]:
    """The rows of all tables by their first cell."""
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in lines}


def test_a_card_has_the_model_the_data_and_the_scores(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, evaluation_test=evaluation(total=7.5))
    card = model_card.text(str(directory), EXPORTED)
    found = rows(card)
    assert found["parameters"] == ["4,321"]
    assert found["path when training began"] == [f"`{dataset}`"]
    manifest = Manifest.load(dataset)
    assert found["train"][:2] == [str(manifest.performances("train")), str(manifest.notes("train"))]
    assert found["licence"][0].startswith("not recorded")
    assert found["validation, while training"][0] == f"{reports()[-1]['val_nats']:.3f}"
    assert "| test | 7.500 (7.400 to 7.600) | 2.500 |" in card
    assert "The test split has not been scored" not in card
    assert "pitches 40 to 90 (E2 to F#6)" in card
    assert "tensorflow 2.21.0" in card
    assert "silence = {" in card


def test_a_card_names_the_weights_that_the_run_started_with_and_what_it_left_alone(dataset, tmp_path):
    directory = str(write_run(tmp_path / "w", dataset))
    assert not {"started from", "frozen"} & rows(model_card.text(directory, EXPORTED)).keys()
    update_run(directory, {"init_from": WeightSource("/runs/a", 1500, "5e" * 32)})
    config = CONFIG.replace(init_from="runs/a", freeze="lstm_0")
    found = rows(model_card.text(directory, ExportInfo(200, (40, 90), config)))
    assert found["started from"] == [f"`/runs/a`, train_step 1,500, weights `{'5e' * 32}`"]
    assert found["frozen"] == ["`lstm_0`"]


def test_a_card_of_one_performance_has_no_interval(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, evaluation_test=evaluation() | {"confidence_95": None})
    assert "| test | 7.500 (one performance: no interval) | 2.500 |" in model_card.text(str(directory), EXPORTED)


def test_a_card_names_the_licence_that_the_dataset_records(dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "licensed")
    document = json.loads((copy / "dataset.json").read_text())
    document["options"]["licence"] = "CC BY | SA"
    (copy / "dataset.json").write_text(json.dumps(document))
    card = model_card.text(str(write_run(tmp_path / "w", copy)), EXPORTED)
    assert rows(card)["licence"] == ["CC BY \\| SA"]


@pytest.mark.parametrize("change", [{"train_step": 100}, {"dataset": "5e" * 32}])
def test_a_card_has_no_score_of_other_weights_or_another_dataset(dataset, tmp_path, change):
    directory = write_run(tmp_path / "w", dataset, evaluation_test=evaluation(total=7.5) | change)
    card = model_card.text(str(directory), EXPORTED)
    assert "7.500" not in card
    assert "The test split has not been scored" in card


def test_equal_runs_have_equal_cards_wherever_they_are_and_however_fast(dataset, tmp_path):
    cards = []
    for name, speed in (("one", 1.0), ("other", 2.0)):
        lines = [{**line, "notes_per_second": speed} for line in reports()]
        cards.append(model_card.text(str(write_run(tmp_path / name, dataset, lines=lines)), EXPORTED))
    assert cards[0] == cards[1]


def test_a_card_without_the_records_of_a_run_says_so(tmp_path):
    card = model_card.text(str(tmp_path), dataclasses.replace(EXPORTED, pitch_range=(0, 127)))
    assert rows(card)["parameters"] == rows(card)["fingerprint"] == ["not recorded"]
    assert "any MIDI pitch" in card
    assert "These weights have not been scored." in card


def test_evaluation_writes_the_card_again_where_there_is_an_export(dataset, tmp_path):
    moved = tmp_path / "a|b"
    shutil.copytree(dataset, moved)
    directory = write_run(tmp_path / "w", moved)
    manifest = Manifest.load(moved)
    assert model_card.refresh(str(directory), manifest) is None
    (directory / "export").mkdir()
    EXPORTED.save(str(directory / "export" / "export.json"))
    path = model_card.refresh(str(directory), manifest)
    assert path == str(directory / "export" / "README.md")
    before = (directory / "export" / "README.md").read_text()
    assert "a\\|b" in before
    (directory / "evaluation-test.json").write_text(json.dumps({**evaluation(), "dataset": manifest.sha256}))
    shutil.rmtree(moved)  # The dataset is where --data says, and no longer where the run found it.
    model_card.refresh(str(directory), manifest)
    after = (directory / "export" / "README.md").read_text()
    assert "| test | 7.500 (" in after
    assert "| train | 4 | 228 |" in after
    assert {path.name for path in (directory / "export").iterdir()} == {"export.json", "README.md"}
