"""Every command with a fault: what it is given, how it is struck, and what has to come of it all the same."""

import collections
import contextlib
import functools
import hashlib
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sostenuto.data.manifest import Manifest
from sostenuto.music.midi import read_midi
from tests.factories import TINY, melody, write_files
from tests.faults.runs import Fault, with_fault
from tests.processes import REPOSITORY
from tests.trainer.runs import metrics, train

OUTPUT = "output"  # name of every output's directory, which a page names too
PATIENCE = 900  # seconds for what takes ten on a free machine
SMALL = [*TINY["base"], "--layers=1", "--log_every=5", "--evaluate_every=10", "--checkpoint_every=10"]
STUDY = {
    "preset": "base", "units": 8, "head_units": 8, "layers": 1, "seq_length": 16, "batch_size": 8, "warmup_steps": 2,
    "pitch_embedding": 8, "time_embedding": 8, "velocity_embedding": 8, "steps": 4,
}  # fmt: skip

ENDS = {0: "done", 2: "refused in one line", 75: "to be tried again", -signal.SIGKILL: "killed"}

outcomes: collections.Counter[tuple[str, str, str]] = collections.Counter()
"""Number of strikes by kind, command and end, for the summary of `make faults`."""


class Stage:
    """Inputs of the commands, each made when it is first asked for."""

    def __init__(self, directory: pathlib.Path, dataset: pathlib.Path) -> None:
        self.directory, self.dataset = directory, dataset

    @functools.cached_property
    def corpus(self) -> pathlib.Path:
        files = {f"{index % 3}/{index}.mid": melody(range(40, 50 + index)) for index in range(24)}
        return write_files(self.directory / "corpus", files)

    @functools.cached_property
    def workdir(self) -> pathlib.Path:
        """A finished run."""
        process = train(self.dataset, self.directory / "workdir", *SMALL, "--steps=10", cwd=REPOSITORY)
        assert process.returncode == 0, process.stderr
        return self.directory / "workdir"

    @functools.cached_property
    def study(self) -> list[str]:
        (self.directory / "start.json").write_text(json.dumps(STUDY))
        (self.directory / "space.yaml").write_text("units: 8\nstep_weight: [0.5, 1.0]\n")
        return [f"--config={self.directory / 'start.json'}", f"--space={self.directory / 'space.yaml'}"]


class Command(NamedTuple):
    """A command, its flags for an output, whether it needs a finished run there, and what counts of its output."""

    module: str
    flags: Callable[[Stage, str], Sequence[str]]
    in_workdir: bool
    result: Callable[[pathlib.Path], Any]


def _bytes(pattern: str) -> Callable[[pathlib.Path], dict[str, bytes]]:
    """Returns what reads the files of an output, without the output's own path, which a page names."""
    own = rb"(gs:/)?/[^ \"'<>&]{0,200}/" + OUTPUT.encode()
    return lambda directory: {
        path.name: re.sub(own, b"", path.read_bytes()) for path in sorted(directory.glob(pattern))
    }


def _run(directory: pathlib.Path) -> tuple:
    return metrics(directory), json.loads((directory / "result.json").read_text())


def _study(directory: pathlib.Path) -> list:
    trials = json.loads((directory / "trials.json").read_text())["trials"]
    return [(trial["trial"], trial["state"], trial["values"], trial["score"]) for trial in trials]


COMMANDS = {
    "preprocess": Command(
        "beam_preprocess",
        lambda stage, out: [f"--input={stage.corpus}", f"--output={out}", "--num_shards=2"],
        False,
        _bytes("*"),
    ),
    "train": Command(
        "trainer",
        lambda stage, out: [f"--data={stage.dataset}", f"--workdir={out}", *SMALL, "--steps=30"],
        False,
        _run,
    ),
    "tune": Command(
        "tuning",
        lambda stage, out: [
            f"--data={stage.dataset}", f"--workdir={out}", *stage.study, "--max_trials=2", "--train_steps=10",
            "--nostop_weak",
        ],
        False,
        _study,
    ),
    "evaluate": Command(
        "trainer.evaluate",
        lambda stage, out: [f"--data={stage.dataset}", f"--workdir={out}"],
        True,
        _bytes("evaluation-*.json"),
    ),
    "generate": Command(
        "trainer.generate",
        lambda stage, out: [
            f"--workdir={stage.workdir}", f"--output={out}", "--num_notes=20", "--num_samples=2", "--seed=5",
        ],
        False,
        _bytes("*.mid"),
    ),
    "report": Command(
        "trainer.report",
        lambda stage, out: [f"--data={stage.dataset}", f"--workdir={out}"],
        True,
        _bytes("report.html"),
    ),
}  # fmt: skip


class Struck:
    """A command that is run, with or without a fault, until it has left what it leaves when nothing happens."""

    def __init__(self, name: str, stage: Stage, choose: random.Random, directory: pathlib.Path) -> None:
        self.name, self.stage, self.choose, self.directory = name, stage, choose, directory
        self.command = COMMANDS[name]
        self.events, self.seconds, self.expected = self._untouched()

    def _untouched(self) -> tuple[int, float, Any]:
        """Runs it in peace: the number of its file operations, its time and its result."""
        out, count = self.fresh("untouched"), self.directory / "events"
        start = time.monotonic()
        process = self.run(out, Fault(f"counted:{count}", "write", re.escape(str(out)), 0))
        assert process.returncode == 0, process.stderr
        return int(count.read_text()), time.monotonic() - start, self.command.result(out)

    def fresh(self, name: str) -> pathlib.Path:
        """Returns a directory as the command finds it at first."""
        out = self.directory / name / OUTPUT
        out.parent.mkdir(exist_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        if self.command.in_workdir:
            shutil.copytree(self.stage.workdir, out)
        return out

    def arguments(self, out: object, fault: Fault | None = None) -> list[str]:
        flags = self.command.flags(self.stage, str(out))
        if fault:
            return with_fault(fault, self.command.module, flags)
        return [sys.executable, "-m", self.command.module, *flags]

    def run(
        self, out: object, fault: Fault | None = None, before: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Runs it to its end; `before` is a program that runs it in turn."""
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            [*before, *self.arguments(out, fault)], cwd=REPOSITORY, env=environment, capture_output=True, text=True,
            check=False, timeout=PATIENCE,
        )  # fmt: skip

    def event(self) -> int:
        """Chooses one of its file operations."""
        return self.choose.randint(1, max(self.events, 1))

    def fault(self, kind: str, out: pathlib.Path) -> Fault:
        """Returns a fault at one of its file operations."""
        return Fault(kind, "write", re.escape(str(out)), self.event())

    def kill_at_a_time(self, out: pathlib.Path) -> int:
        """Kills it after a random part of the time that it takes; returns its status."""
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        with subprocess.Popen(
            self.arguments(out), cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.choose.uniform(0.2, 1.0) * self.seconds)
            process.kill()
        return process.returncode

    def record(self, kind: str, detail: object, status: int) -> None:
        """Counts and prints a strike."""
        end = ENDS.get(status, f"STATUS {status}")
        outcomes[kind, self.name, end] += 1
        print(f"{self.name}: {kind} ({detail}): {end}", flush=True)

    def complete(self, out: pathlib.Path) -> None:
        """Gives the same command again, which has to lead to the same result."""
        process = self.run(out)
        assert process.returncode == 0, (self.name, process.stderr)
        assert self.command.result(out) == self.expected, self.name


def assert_refused(process: subprocess.CompletedProcess[str], *, statuses: Sequence[int] = (0, 2)) -> None:
    """Checks that a command did what it was asked to, or said in one line why not."""
    assert process.returncode in statuses, (process.returncode, process.stderr)
    assert "Traceback" not in process.stderr, process.stderr
    if process.returncode:
        last = process.stderr.splitlines()[-1]
        assert re.match(r"(beam_preprocess|trainer|tuning)\S*: ", last), process.stderr


def assert_whole(directory: pathlib.Path) -> None:
    """Checks that each file that bears its own name is complete."""
    for path in directory.rglob("*") if directory.exists() else ():
        name = path.relative_to(directory).as_posix()
        if ".tmp" in name or not path.is_file():
            continue
        if path.name == "dataset.json":
            manifest = Manifest.load(str(path.parent))
            for shard in itertools.chain(*(split.shards for split in manifest.splits.values())):
                data = (path.parent / shard.file).read_bytes()
                assert hashlib.sha256(data).hexdigest() == shard.sha256
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
        elif path.suffix == ".mid":
            read_midi(path.read_bytes(), path.name)
