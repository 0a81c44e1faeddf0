"""Runs of one or more worker processes, how they are struck, and whether two of them ended alike."""

import contextlib
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tests.processes import REPOSITORY, on_busy_machine
from tests.trainer.runs import TRAIN, metrics
from tests.trainer.runs import workers as workers_of

PEER_LOST = 75
GIVE_UP_SECONDS = 120  # a busy machine may need a while to start
LEAVE_SECONDS = 60  # within which a worker must have noticed that another one is gone


class Fault(NamedTuple):
    """Settings of tests.faults.faulty: see there."""

    kind: str
    event: str
    pattern: str
    count: int = 1


def with_fault(fault: Fault, module: str, flags: Sequence[str]) -> list[str]:
    """Returns the command of a module with a fault."""
    return [sys.executable, "-m", "tests.faults.faulty", *map(str, fault), module, *flags]


class Worker:
    """One process of a run.

    Attributes:
        lines: what it has said on stderr.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        # A pipe, not a file: on a full disk the last words would be lost.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(line.rstrip("\n") for line in iter(self.process.stderr.readline, ""))

    @property
    def is_there(self) -> bool:
        return self.process.poll() is None

    def has_said(self, text: str) -> bool:
        return any(line.startswith(text) for line in list(self.lines))

    def ended(self, within: float = GIVE_UP_SECONDS) -> int:
        """Waits for its end; returns its status."""
        status = self.process.wait(on_busy_machine(within))
        self._reader.join()
        return status

    def close(self) -> None:
        if self.is_there:
            self.process.kill()
        self.ended()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Run:
    """A run of several workers over one workdir, started until it finishes."""

    def __init__(self, data, workdir: pathlib.Path, flags: Sequence[str], workers: int = 1) -> None:
        self.workdir, self.size = workdir, workers
        self._data, self._flags = data, flags

    @contextlib.contextmanager
    def started(self, fault: Fault | None = None) -> Iterator[list[Worker]]:
        """All workers, started; the chief, which comes first, has the fault. On leaving, none of them is there."""
        if self.size > 1:
            commands = workers_of(self.size, self._data, self.workdir, *self._flags)
        else:
            commands = [[*TRAIN, f"--data={self._data}", f"--workdir={self.workdir}", *self._flags]]
        if fault is not None:
            commands[0][:] = with_fault(fault, "trainer", commands[0][len(TRAIN) :])
        with contextlib.ExitStack() as stack:
            workers = []
            for command in commands:
                workers.append(Worker(command))
                stack.callback(workers[-1].close)
            yield workers

    def ends(self, fault: Fault | None = None) -> list[Worker]:
        """Starts all workers and waits for the end of each."""
        with self.started(fault) as workers:
            for worker in workers:
                worker.ended()
        return workers

    def completed(self) -> "Run":
        """This run, finished."""
        for worker in self.ends():
            assert worker.process.returncode == 0, worker.lines
        return self

    @property
    def is_finished(self) -> bool:
        return (self.workdir / "result.json").exists()

    @property
    def newest_checkpoint(self) -> int:
        """The train_step of the newest checkpoint, 0 where there is none."""
        directory = self.workdir / "checkpoints"
        names = [path.name for path in directory.iterdir()] if directory.exists() else []
        return max((int(name) for name in names if name.isdigit()), default=0)


class Moment(NamedTuple):
    """A part of a run: from when `has_begun` holds, for a number of seconds."""

    name: str
    has_begun: Callable[[Run, list[Worker]], bool]
    seconds: float


def moments(train_steps: int) -> list[Moment]:
    """The parts of a run of a number of train_steps."""

    def said(text: str) -> Callable[[Run, list[Worker]], bool]:
        return lambda run, workers: workers[0].has_said(text)

    def saves(directory: str) -> Callable[[Run, list[Worker]], bool]:
        return lambda run, workers: any((run.workdir / directory).glob("*.tmp-*"))

    return [
        Moment("start", lambda run, workers: True, 4),
        Moment("tracing", said("training to"), 3),
        Moment("training", said("train_step"), 2),
        Moment("saving", saves("checkpoints"), 0.02),
        Moment("best", saves("best"), 0.02),
        Moment("ending", said(f"train_step {train_steps}:"), 1.5),
    ]


def wait_for(moment: Moment, run: Run, workers: list[Worker], choose: random.Random) -> None:
    """Waits until a random time within the moment, or until a worker has ended."""
    until = time.monotonic() + on_busy_machine(GIVE_UP_SECONDS)
    while all(worker.is_there for worker in workers) and not moment.has_begun(run, workers):
        assert time.monotonic() < until, f"{moment.name} did not come: {workers[0].lines}"
        time.sleep(0.002)
    time.sleep(choose.uniform(0, moment.seconds))


class Blow(NamedTuple):
    """A signal that was sent: how many processes it ended, and how many seconds that took."""

    hit: int
    seconds: float


def strike(run: Run, moment: Moment, number: signal.Signals, targets: Sequence[int], choose: random.Random) -> Blow:
    """Starts a run, sends some of its workers a signal at that moment, and checks how all of them leave."""
    with run.started() as workers:
        wait_for(moment, run, workers, choose)
        struck = [workers[index] for index in targets if workers[index].is_there]
        had_met = run.size == 1 or workers[0].has_said("training to")
        for worker in struck:
            worker.process.send_signal(number)
        start = time.monotonic()
        hit = 0
        for worker in struck:
            status = worker.ended(LEAVE_SECONDS)
            # It was done already, or another one that was struck left a moment before it.
            assert status in (-number, 128 + number, 0, PEER_LOST), (status, worker.lines)
            assert status or run.is_finished, worker.lines
            assert status != PEER_LOST or len(struck) > 1, worker.lines
            hit += status != 0
        seconds = time.monotonic() - start
        for worker in workers:
            if worker in struck:
                continue
            try:
                status = worker.ended(LEAVE_SECONDS if had_met else 10)
            except subprocess.TimeoutExpired:
                # Before all have met, one that is missing is waited for.
                assert not had_met, worker.lines
                assert "waiting for all" in worker.lines[-1]
                continue
            assert status == PEER_LOST or (status == 0 and run.is_finished), (status, worker.lines)
        all_seconds = time.monotonic() - start
        for said in filter(None, (re.search(r": saved at train_step ([\d,]+);", line) for line in workers[0].lines)):
            assert int(said[1].replace(",", "")) == run.newest_checkpoint
    print(
        f"{run.workdir.name}: {number.name} to {len(struck)} of {run.size} ({list(targets)}) at {moment.name}: "
        f"{hit} hit, gone after {seconds:.1f} s, all after {all_seconds:.1f} s, statuses "
        f"{[worker.process.returncode for worker in workers]}, checkpoint {run.newest_checkpoint}"
    )
    return Blow(hit, seconds)


def assert_alike(run: Run, untouched: Run) -> None:
    """Checks that a run left, to the bit, what the run that was never touched left."""
    assert metrics(run.workdir) == metrics(untouched.workdir)
    results = [json.loads((one.workdir / "result.json").read_text()) for one in (run, untouched)]
    assert results[0] == results[1]
    for name in (f"checkpoints/{results[0]['train_step']:08d}", f"best/{results[0]['best_train_step']:08d}"):
        ours, expected = (tensors(one.workdir / name / "variables") for one in (run, untouched))
        assert ours.keys() == expected.keys()
        assert [key for key in expected if not np.array_equal(ours[key], expected[key])] == [], name
    # TensorFlow numbers the weights of an export as it pleases.
    ours, expected = (tensors(one.workdir / "export" / "variables" / "variables") for one in (run, untouched))
    assert sorted(map(_content, ours.values())) == sorted(map(_content, expected.values()))
    # Nor is anything left of what was not finished.
    assert not [path for kind in ("checkpoints/*", "best/*", "export") for path in run.workdir.glob(f"{kind}.tmp-*")]


def tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """What a checkpoint of TensorFlow's holds, but for the text that describes it."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path))
    types = reader.get_variable_to_dtype_map()
    return {name: reader.get_tensor(name) for name, type in types.items() if type != tf.string}


def _content(tensor: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return tensor.shape, tensor.tobytes()
