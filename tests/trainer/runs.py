"""Training runs as processes, and what they leave."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from tests.processes import REPOSITORY, on_busy_machine

# A process of its own for each run: devices and determinism are settings of a whole TensorFlow process.
TRAIN = [sys.executable, "-m", "trainer"]

_PATIENCE = 180  # seconds for what takes some ten on a free machine


def train(data, workdir, *flags, **options):
    command = [*TRAIN, f"--data={data}", f"--workdir={workdir}", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@contextlib.contextmanager
def started(*commands: list[str]) -> Iterator[list[subprocess.Popen]]:
    """Starts processes side by side; those that still run on leaving are killed."""
    processes = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def workers(count: int, data, workdir, *flags: str) -> list[list[str]]:
    """The commands of workers that train together on this machine, the chief's first."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        addresses = ",".join(f"localhost:{one.getsockname()[1]}" for one in sockets)
    common = [*TRAIN, f"--data={data}", f"--workdir={workdir}", *flags, f"--workers={addresses}"]
    return [[*common, f"--worker_index={index}"] for index in range(count)]


def ended(processes: list[subprocess.Popen]) -> list[subprocess.CompletedProcess[str]]:
    """Waits for processes; returns their status and output."""
    until = time.monotonic() + on_busy_machine(_PATIENCE)
    return [
        subprocess.CompletedProcess(process.args, stdout=output[0], stderr=output[1], returncode=process.returncode)
        for process in processes
        for output in [process.communicate(timeout=max(until - time.monotonic(), 1))]
    ]


def run_all(commands: list[list[str]]) -> list[subprocess.CompletedProcess[str]]:
    """Runs processes side by side; returns their status and output."""
    with started(*commands) as processes:
        return ended(processes)


def wait_for_report(workdir, train_step: int, processes: list[subprocess.Popen]) -> None:
    """Waits until a run has reported that train_step or a later one."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    until = time.monotonic() + on_busy_machine(_PATIENCE)
    while not path.exists() or not any(line["train_step"] >= train_step for line in metrics(workdir)):
        assert time.monotonic() < until, "no report"
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def weights(workdir, directory: str = "checkpoints") -> dict[str, np.ndarray]:
    """All that is trained, from the newest checkpoint: weights, their averages, the optimizer's variables."""
    import tensorflow as tf

    newest = max((pathlib.Path(workdir) / directory).iterdir(), key=lambda path: path.name)
    reader = tf.train.load_checkpoint(str(newest / "variables"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith(("model/", "ema/", "optimizer/"))
    }


def metrics(workdir) -> list[dict]:
    """The reports of a run but for its speed; a line that is being written is left out."""
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    for line in lines:
        del line["notes_per_second"]
        line.pop("seconds", None)
    return lines


def files(directory) -> set[str]:
    return {str(path.relative_to(directory)) for path in pathlib.Path(directory).rglob("*") if path.is_file()}
