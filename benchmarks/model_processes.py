"""What benchmarks share that measure each model in a process of its own. It does not load TensorFlow."""

import argparse
import concurrent.futures
import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

FIELDS = ("total", "pitch", "step", "duration")


def require_dataset(parser: argparse.ArgumentParser, data: Path) -> None:
    """Ends the program if a directory has no dataset."""
    if not (data / "dataset.json").exists():
        parser.error(f"{data}: no dataset, expected what beam_preprocess writes")


@contextlib.contextmanager
def fresh_processes() -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Gives a pool that starts a process for each call: devices and determinism are settings of a whole process.

    The processes share a cache of note tables, which is empty at first.
    """
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name
        with concurrent.futures.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
        ) as processes:
            yield processes


def show(cells: tuple[str, ...]) -> None:
    """Prints a line of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)
