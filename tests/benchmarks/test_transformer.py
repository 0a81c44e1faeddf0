"""benchmarks/transformer.py, with small models."""

import importlib.util
import json
from types import ModuleType

import pytest

from tests.factories import write_dataset
from tests.processes import REPOSITORY, run_python


@pytest.fixture
def transformer(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return __import__("transformer")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    data = write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": [60, 40], "validation": [40, 23]})
    process = run_python("-m", "tests.benchmarks.transformer_run", str(data), check=True)
    return json.loads(process.stdout)


def test_the_transformer_has_as_many_weights_as_base(found):
    transformer, base = found["weights"]
    assert transformer == pytest.approx(base, rel=0.01)


def test_its_scores_do_not_depend_on_how_many_notes_it_reads_at_once(found):
    assert found["by_note"] < 1e-4
    assert found["by_chunk"] < 1e-4


def test_its_window_limits_what_it_attends_to(found):
    assert found["of_all"] > 1e-3


def test_each_model_is_trained_scored_and_played(found):
    (base,), (transformer, all_notes) = found["base"], found["transformer"]
    assert base[0] == "2xLSTM(48), without memory"
    assert transformer[0].startswith("2xTransformer(16) 8, attends to ")
    assert transformer[0].endswith(", with memory")
    assert len(base) == len(transformer) == len(all_notes)
    assert all(float(cell.replace(",", "")) > 0 for cell in (*base[1:], *transformer[1:], all_notes[-1]))
    total, *fields = map(float, base[2:6])
    assert total == pytest.approx(sum(fields), abs=2e-3)


def test_a_missing_package_is_named_with_the_command_that_installs_it(transformer, monkeypatch, capsys, tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["transformer.py", f"--data={tmp_path}"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        transformer.main()
    assert "python -m pip install keras-hub" in capsys.readouterr().err
