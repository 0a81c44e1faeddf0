"""benchmarks/memory.py, with small models."""

import json

import pytest

from tests.factories import write_dataset
from tests.processes import run_python


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    data = write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": [60, 40], "validation": [40, 23]})
    return json.loads(run_python("-m", "tests.benchmarks.memory_run", str(data), check=True).stdout)


def test_each_model_lacks_what_its_name_says(found):
    recalled = found["recalled"]
    whole = recalled["whole"]
    assert min(whole.values()) > 0
    assert recalled["matches alone"] == {**whole, "aligned": 0, "aligned_times": 0}
    assert recalled["alignments alone"] == {**whole, "matched": 0, "matched_times": 0}
    assert recalled["pitches alone"] == {**whole, "matched_times": 0, "aligned_times": 0}
    assert 0 < recalled["one alignment"]["aligned"] < whole["aligned"]
    assert 0 < recalled["alignments without slips"]["aligned"] < whole["aligned"]
    for name in ("no transposed matches", "the most recent matches alone"):
        assert 0 < recalled[name]["matched"] < whole["matched"]
        assert recalled[name]["aligned"] == whole["aligned"]
    assert recalled["heads alone"] == whole


def test_a_model_without_a_part_is_trained_and_scored(found):
    name, *nats = found["line"]
    assert name == "heads alone"
    total, *fields = map(float, nats)
    assert 0 < total == pytest.approx(sum(fields), abs=2e-3)
