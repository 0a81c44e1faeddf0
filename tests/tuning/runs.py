"""Searches as processes, and what they leave."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.processes import REPOSITORY, on_busy_machine

# Trials of some seconds, most of them for tracing.
START = {
    "preset": "base", "units": 8, "head_units": 8, "layers": 1, "seq_length": 16, "batch_size": 8, "warmup_steps": 2,
    "pitch_embedding": 8, "time_embedding": 8, "velocity_embedding": 8, "steps": 4,
}  # fmt: skip

_PATIENCE = 180  # seconds for what takes some ten on a free machine


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return f"localhost:{one.getsockname()[1]}"


class Search:
    """A search in a directory of its own, whose processes may be started as often as it takes.

    Args:
        data: the dataset.
        directory: for the workdir, the base config, the space and what the processes say.
        flags: of all processes.
        space: the content of a file for --space.
    """

    def __init__(self, data, directory: pathlib.Path, *flags: str, space: str = "") -> None:
        directory.mkdir(exist_ok=True)
        self.workdir = directory / "workdir"
        self._directory = directory
        start = directory / "start.json"
        start.write_text(json.dumps(START))
        self.flags = [f"--data={data}", f"--workdir={self.workdir}", f"--config={start}", *flags]
        if space:
            (directory / "space.yaml").write_text(space)
            self.flags.append(f"--space={directory / 'space.yaml'}")

    def said(self, name: str = "alone") -> list[str]:
        """The lines that the processes of a name have written to stderr."""
        return (self._directory / f"{name}.log").read_text().splitlines()

    @contextlib.contextmanager
    def started(self, *flags: str, name: str = "alone") -> Iterator[subprocess.Popen]:
        """A process; on leaving, it is there no more."""
        with (
            open(self._directory / f"{name}.log", "ab") as log,
            subprocess.Popen(
                [sys.executable, "-m", "tuning", *self.flags, *flags],
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdout=subprocess.DEVNULL,
                stderr=log,
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def ends(self, *flags: str, name: str = "alone") -> int:
        """Runs a process to its end; returns its status."""
        with self.started(*flags, name=name) as process:
            return process.wait(_PATIENCE)

    @property
    def study(self) -> dict[str, Any]:
        """What study.json says."""
        path = self.workdir / "study.json"
        return json.loads(path.read_text()) if path.exists() else {"trials": []}

    @property
    def is_over(self) -> bool:
        """Whether all trials of the study have ended."""
        study = self.study
        ended = [trial for trial in study["trials"] if trial["state"] not in ("queued", "running")]
        return bool(ended) and len(ended) == study["settings"]["max_trials"]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """What trials.json says of the trials."""
        return json.loads((self.workdir / "trials.json").read_text())["trials"]

    def reports(self, trial: str) -> list[str]:
        """The lines of a trial's metrics.jsonl; speed in them tells those of one process from those of another."""
        path = self.workdir / "trials" / trial / "metrics.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    def has_checkpoint(self, trial: str) -> bool:
        checkpoints = self.workdir / "trials" / trial / "checkpoints"
        return any(path.name.isdigit() for path in checkpoints.glob("*"))  # not 00000007.tmp-…, which is incomplete


def wait_until(holds: Callable[[], Any], what: str, processes=()) -> Any:
    """Waits until something holds, while none of the processes ends; returns it."""
    until = time.monotonic() + on_busy_machine(_PATIENCE)
    while not (found := holds()):
        assert time.monotonic() < until, f"{what} did not come"
        assert all(process.poll() is None for process in processes), f"a process ended before {what} came"
        time.sleep(0.01)
    return found
