"""Compares a search with its bare training runs, and two workers with one.

    python benchmarks/tuning.py --data=DATASET | --corpus=DIR [--part=overhead] [--trials=6]

overhead: `python -m tuning`, start to exit, against a process that calls the trainer's loop with the same configs one
after the other and does nothing else. What the search adds is choosing, keeping the study, the report, and everything
that happens between two trials.

workers: a chief with two workers against a chief with one, from the chief's start to its exit. Each worker has a core
of its own, so that there is a device for both; on a machine with GPUs give each worker its own by CUDA_VISIBLE_DEVICES
instead of measuring here.

What is compared takes turns. A ratio is the median over the rounds, its range in brackets. Overhead is given in
processor time, too, which other work on the machine does not change.
"""

import argparse
import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# All trials have the same length and size, so that two workers can share them evenly.
SEARCHED = "step_weight: {low: 0.25, high: 4.0, sampling: log}\nseq_length: 128\nunits: 256\nduration_weight: 1.0\n"

PARTS = ("overhead", "workers")

BARE = """
import json, sys
from sostenuto.data.manifest import Manifest
from sostenuto.progress import silenced
from trainer.callbacks.standard import report_writers
from trainer.engine import loop
from trainer.presets import parse_config
data, workdir, configs = sys.argv[1:]
for index, values in enumerate(json.load(open(configs))):
    config = parse_config(json.dumps(values), "config")
    with silenced():
        loop.train(config, Manifest.load(data), f"{workdir}/{index}", callbacks=report_writers())
"""


def run(command: Sequence[str], *, core: int | None = None) -> subprocess.Popen:
    """Starts Python in the project, on one core if given."""
    cores = os.sched_getaffinity(0) if core is None else {core}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def seconds(command: Sequence[str]) -> tuple[float, float]:
    """Measures a command, start-up included: wall-clock and processor seconds."""
    started, worked = time.monotonic(), processor_seconds()
    with run(command) as process:
        if process.wait():
            raise SystemExit(f"{' '.join(command)}: ended with status {process.returncode}")
    return time.monotonic() - started, processor_seconds() - worked


def processor_seconds() -> float:
    """Returns the processor seconds of all child processes that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def search_flags(data: Path, directory: Path, trials: int, train_steps: int) -> list[str]:
    """Returns the command of a search, without its workdir and role."""
    space = directory / "space.yaml"
    space.write_text(SEARCHED)
    return [
        *(
            "-m",
            "tuning",
            f"--data={data}",
            f"--space={space}",
            f"--max_trials={trials}",
            f"--train_steps={train_steps}",
        ),
        *("--nostop_weak", "--quiet"),
    ]


def configs_of(workdir: Path) -> list[dict]:
    """Returns the configs of a study's trials."""
    trials = sorted(path for path in (workdir / "trials").iterdir())
    return [json.loads((trial / "config.json").read_text()) for trial in trials]


def with_workers(flags: Sequence[str], workdir: Path, cores: Sequence[int]) -> float:
    """Measures the seconds of a chief with one worker on each of the cores."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        address = f"--chief_address=localhost:{one.getsockname()[1]}"
    flags = [*flags, f"--workdir={workdir}", address]
    with contextlib.ExitStack() as stack:
        started = time.monotonic()
        chief = stack.enter_context(run([*flags, "--role=chief"]))
        for index, core in enumerate(cores):
            stack.enter_context(run([*flags, "--role=worker", f"--worker_id=tuner{index}"], core=core))
        if chief.wait():
            raise SystemExit(f"the chief ended with status {chief.returncode}")
        return time.monotonic() - started


def show(what: str, ours: list[float], theirs: list[float], ratios: list[float], goal: str) -> None:
    """Prints a line of the table."""
    ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} – {max(ratios):.3f})"
    print(
        f"| {what} | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f} | {ratio} | {goal} |", flush=True
    )


def main() -> None:
    """Runs both measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="a dataset of beam_preprocess")
    source.add_argument("--corpus", type=Path, help="a directory of MIDI files, to be preprocessed first")
    parser.add_argument("--trials", type=int, default=6, help="of each study (default: 6)")
    parser.add_argument("--train_steps", type=int, default=100, help="of each trial (default: 100)")
    parser.add_argument("--rounds", type=int, default=3, help="times that all is measured in turn (default: 3)")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one")
    flags = parser.parse_args()
    parts = flags.part or PARTS
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        data = flags.data.resolve() if flags.data else directory / "dataset"
        if flags.corpus:
            seconds(["-m", "beam_preprocess", f"--input={flags.corpus.resolve()}", f"--output={data}", "--quiet"])
        common = search_flags(data, directory, flags.trials, flags.train_steps)
        configs = directory / "configs.json"
        search: list[tuple[float, float]] = []
        bare: list[tuple[float, float]] = []
        one: list[float] = []
        two: list[float] = []
        for index in range(flags.rounds):
            if "overhead" in parts:
                workdir = directory / f"search{index}"
                search.append(seconds([*common, f"--workdir={workdir}"]))
                configs.write_text(json.dumps(configs_of(workdir)))
                bare.append(seconds(["-c", BARE, str(data), str(directory / f"bare{index}"), str(configs)]))
            if "workers" in parts and len(cores) > 1:
                one.append(with_workers(common, directory / f"one{index}", cores[:1]))
                two.append(with_workers(common, directory / f"two{index}", cores[:2]))
        of = f"{flags.trials} trials of {flags.train_steps} train_steps; {flags.rounds} rounds"
        print(f"{len(cores)} cores; {of}; seconds\n")
        print("| what | ours | theirs | ratio | goal |\n| --- | --- | --- | --- | --- |")
        if search:
            for kind, place in (("on the clock", 0), ("of the processor", 1)):
                ours, theirs = [times[place] for times in search], [times[place] for times in bare]
                ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
                show(f"a search; its training runs alone: {kind}", ours, theirs, ratios, "≤ 1.05")
        if two:
            show("two workers; one", two, one, [b / a for a, b in zip(two, one, strict=True)], "≥ 1.7")


if __name__ == "__main__":
    main()
