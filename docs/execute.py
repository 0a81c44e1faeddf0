"""Executes docs/tour.ipynb and stores its outputs in it: `make tour`."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import nbformat
from nbclient import NotebookClient

NOTEBOOK: Final = Path(__file__).resolve().parent / "tour.ipynb"

_CELL_SECONDS: Final = 1800


def execute(
    notebook: nbformat.NotebookNode, directory: Path, parameters: Mapping[str, object] | None = None
) -> nbformat.NotebookNode:
    """Executes a notebook in a fresh kernel; returns a copy with what its cells put out.

    Args:
        notebook: what to execute; its outputs are left aside.
        directory: where the kernel works.
        parameters: values for names that the cell tagged "parameters" sets, in place of those.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    executed = copy.deepcopy(notebook)
    for cell in executed.cells:
        if parameters and "parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    # When a cell ran, and for how long, would be another change of the file each time.
    client = NotebookClient(
        executed,
        timeout=_CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(directory)}},
    )
    client.execute()
    return executed


if __name__ == "__main__":
    done = execute(nbformat.read(NOTEBOOK, nbformat.NO_CONVERT), NOTEBOOK.parent)
    # The kernel notes its Python's version, which says nothing about the notebook.
    done.metadata = {"kernelspec": done.metadata["kernelspec"], "language_info": {"name": "python"}}
    nbformat.write(done, NOTEBOOK)
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1e6:.2f} MB")
