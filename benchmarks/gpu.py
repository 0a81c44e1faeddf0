"""Checks and measures training on this machine's GPUs; prints one Markdown table, to be pasted into an issue.

    python benchmarks/gpu.py [--part=resume ...] [--rounds=3] [--small]

First correctness. cpu: 50 train_steps on a GPU and on the CPU reach the same weights, but for rounding. replicas: so do
one GPU and all of them. resume: a run that is killed and resumed ends with the same bits as one that is not. Then
speed. speed: notes per second, fraction of the peak of matrix products, memory and kernels, by preset and precision.
batch: larger batches on one GPU. scaling: more GPUs, with equal windows on each. generation: notes per second.

Each measurement runs in its own process. One that fails is a line of the table, and the exit status is 1. Without a GPU
the same code runs on the CPU with small models, and logical devices in place of several GPUs: that shows that the
benchmark works and measures nothing of interest. --small does so on a GPU. All of it takes about a quarter of an hour.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
PARTS = ("cpu", "replicas", "resume", "speed", "batch", "scaling", "generation")
COLUMNS = ("part", "what", "result", "expected", "ok")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
TIMEOUT_SECONDS = 900  # of one measurement: a collective that hangs must not stop the others


class Job(NamedTuple):
    """A measurement: a function of a module of this directory, which returns rows of `COLUMNS` without the part."""

    part: str
    what: str  # shown if it fails
    function: str  # MODULE.NAME
    arguments: dict[str, Any]


def jobs(gpus: int, small: bool, rounds: int) -> Iterator[Job]:
    """Yields the measurements for a number of GPUs."""
    presets = ("tutorial",) if small else ("tutorial", "base", "large")
    common: dict[str, Any] = {"small": small}
    timed = {**common, "rounds": rounds}
    for part in PARTS[:3]:
        yield Job(part, "base", f"gpu_parts.check_{part}", common)
    for preset in presets:
        for precision in PRECISIONS if gpus else PRECISIONS[:1]:
            arguments = {**timed, "preset": preset, "precision": precision}
            yield Job("speed", f"{preset}, {precision}", "gpu_parts.measure_speed", arguments)
    arguments = {**timed, "preset": presets[-1], "precision": "float32", "deterministic": False}
    yield Job("speed", f"{presets[-1]}, not deterministic", "gpu_parts.measure_speed", arguments)
    for preset in presets[-2:]:
        for part in ("batch", "scaling", "generation"):
            yield Job(part, preset, f"gpu_parts.measure_{part}", {**timed, "preset": preset})


def run_isolated(function: str, arguments: dict[str, Any], timeout: float = TIMEOUT_SECONDS) -> Any:
    """Calls a function in a new process and returns its result.

    Raises:
        RuntimeError: it failed, ended its process or took longer than `timeout` seconds; the message has one line.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, function, arguments))
    process.start()
    sender.close()  # so that the end of the process ends the wait
    try:
        if not receiver.poll(timeout):
            raise RuntimeError(f"no result within {timeout:g} seconds")
        error, result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process ended with status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if error:
        raise RuntimeError(error)
    return result


def _work(sender: Connection, function: str, arguments: dict[str, Any]) -> None:
    """Sends an error of one line, or None, and the function's result."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import trainer  # noqa: F401  # isort: skip  First, so that TensorFlow loads without messages.

        sender.send((None, call(function, arguments)))
    except BaseException as error:
        traceback.print_exc()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        sender.send((f"{type(error).__name__}: {lines[0] if lines else ''}"[:300], None))


def call(function: str, arguments: dict[str, Any]) -> Any:
    """Calls a function, given as MODULE.NAME."""
    module, _, name = function.rpartition(".")
    return getattr(__import__(module), name)(**arguments)


def run_jobs(selected: Iterator[Job], run: Callable[[str, dict[str, Any]], Any] = run_isolated) -> bool:
    """Prints a line for each result; returns whether all succeeded."""
    succeeded = True
    for job in selected:
        print(f"{job.part}: {job.what}", file=sys.stderr, flush=True)
        try:
            rows = run(job.function, job.arguments)
        except RuntimeError as error:
            rows = [(job.what, f"failed: {error}", "–", "NO")]
        for row in rows:
            show((job.part, *row))
            succeeded &= row[-1] != "NO"
    return succeeded


def show(cells: Sequence[str]) -> None:
    """Prints a line of the table."""
    print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |", flush=True)


def main(run: Callable[[str, dict[str, Any]], Any] = run_isolated) -> int:
    """Runs the selected parts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be given several times")
    parser.add_argument("--rounds", type=int, default=3, help="times that each speed is measured (default: 3)")
    parser.add_argument("--small", action="store_true", help="small models and few train_steps (always on a CPU)")
    flags = parser.parse_args()
    if flags.rounds < 1:
        parser.error(f"--rounds={flags.rounds}: expected at least 1")
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name  # location of the trainer's cached note table
        gpus, machine = run("gpu_parts.describe_machine", {})
        commit = subprocess.run(
            ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        print(f"{machine}; Sostenuto {commit or 'without git'}; {flags.rounds} rounds\n")
        show(COLUMNS)
        show(tuple("---" for _ in COLUMNS))
        selected = (
            job for job in jobs(gpus, flags.small or not gpus, flags.rounds) if job.part in (flags.part or PARTS)
        )
        return 0 if run_jobs(selected, run) else 1


if __name__ == "__main__":
    sys.exit(main())
