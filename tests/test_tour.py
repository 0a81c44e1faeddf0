"""docs/tour.ipynb: its cells run, and its stored outputs are such as anyone may read."""

import os
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from tests.processes import REPOSITORY

tour = SimpleNamespace(**runpy.run_path(str(REPOSITORY / "docs" / "execute.py")))

SMALL = {"CHORALES": 5, "TRAIN_STEPS": 2, "NUM_NOTES": 16}

PLACES = re.compile(
    r"(?<![\w./])/(?:home|root|tmp|work|usr|opt|var|mnt|etc|Users|private)\b|~/|\b[A-Z]:\\|site-packages|\.venv"
)


@pytest.fixture(scope="module")
def stored() -> nbformat.NotebookNode:
    return nbformat.read(tour.NOTEBOOK, nbformat.NO_CONVERT)


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder docs/ of a clone, where a kernel can work and leaves the user's files alone."""
    for package in ("sostenuto", "beam_preprocess", "trainer", "demo"):
        (tmp_path / package).symlink_to(REPOSITORY / package)
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", os.path.expanduser("~/.cache/matplotlib")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "docs"
    directory.mkdir()
    return directory


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: nbformat.NotebookNode) -> str:
    """All that cells put out but pictures and sound."""
    found = []
    for cell in code(notebook):
        for output in cell.outputs:
            found += [output.get("text", ""), *output.get("traceback", [])]
            found += [str(data) for kind, data in output.get("data", {}).items() if kind != "image/png"]
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "", "\n".join(found))


def test_every_cell_runs(stored, docs):
    executed = tour.execute(stored, docs, SMALL)
    assert [output.get("name") for cell in code(executed) for output in cell.outputs].count("stderr") == 0
    words = texts(executed)
    assert "5 chorales, 2 train_steps, 16 notes" in words
    assert "first 4 of " in words  # A command that fails raises nothing in a notebook.
    assert "2 train_steps, ended by steps" in words
    assert "32 notes of the primer and 16 of the model" in words
    assert (docs.parent / "build" / "tour" / "played.mid").exists()
    kinds = [kind for cell in code(executed) for output in cell.outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 4
    assert words.count("<audio") == 2


def test_a_cell_that_raises_is_reported(docs):
    with pytest.raises(CellExecutionError, match="no such note"):
        tour.execute(new_notebook(cells=[new_code_cell("raise ValueError('no such note')")]), docs)


def test_the_stored_notebook_was_executed_from_top_to_bottom(stored):
    assert [cell.execution_count for cell in code(stored)] == list(range(1, len(code(stored)) + 1))
    assert texts(stored).count("<audio") == 2


def test_stored_outputs_name_no_place_of_the_machine_that_made_them(stored):
    assert not PLACES.findall(texts(stored))
    outputs = [output for cell in code(stored) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.parametrize("text", ["in /root/x.py", "'/tmp/y'", "(~/clone)", "C:\\Users", "a/site-packages/b"])
def test_places_of_a_machine_are_found(text):
    assert PLACES.search(text)
    assert not PLACES.search("build/tour/tmp/corpus, /job:localhost/replica:0, audio/wav, 3/4")


def test_the_stored_notebook_is_small_enough_to_be_read_on_a_page():
    assert tour.NOTEBOOK.stat().st_size < 1_500_000
