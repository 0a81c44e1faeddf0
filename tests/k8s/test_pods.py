"""The pods as processes of this machine: given what their manifests say, they do their work and end as Jobs expect.

The overlay is that of a cluster of one's own, edited as a user would: STORE is a directory here. Names of pods lead to
ports of this machine, and more flags make the model tiny.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.k8s.cluster import Object, Pods, arguments, edited, environment, pods_of, render
from tests.k8s.conftest import MANY
from tests.processes import REPOSITORY
from tests.trainer.runs import ended, wait_for_report

TINY = [
    "--units=8", "--layers=1", "--head_units=8", "--pitch_embedding=8", "--time_embedding=8", "--velocity_embedding=8",
    "--seq_length=16", "--batch_size=8", "--warmup_steps=2",
]  # fmt: skip
# Without scores, which take longer than all the rest.
UNSCORED = ["--evaluate_every=0", "--monitor=loss", "--log_every=5", "--steps=100000"]


@dataclasses.dataclass
class Node:
    """Where pods of a rendering run.

    Attributes:
        objects: the rendering.
        store: the directory that STORE names.
    """

    objects: list[Object]
    store: pathlib.Path

    def __post_init__(self) -> None:
        self._ports: dict[str, int] = {}

    def pods(self, name: str) -> Pods:
        return pods_of(self.objects, name)

    @contextlib.contextmanager
    def started(self, *pods: tuple[str, int], flags=(), init: bool = False) -> Iterator[list[subprocess.Popen]]:
        """Starts pods, each named by its Job and its index; those that still run on leaving are killed."""
        with contextlib.ExitStack() as stack:
            processes = []
            for name, index in pods:
                processes.append(self._start(self.pods(name), index, flags, init))
                stack.callback(_ended_with, processes[-1])
            yield processes

    def _start(self, pods: Pods, index: int, flags, init: bool) -> subprocess.Popen:
        container = pods.containers[0] if init else pods.container
        variables = environment(pods, container, self.objects, index)
        # Its own home is of the image; here caches go where those of all tests go.
        del variables["HOME"]
        given = [self._here(argument) for argument in arguments(pods, container, self.objects, index)]
        return subprocess.Popen(
            [sys.executable, *given, *flags],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _here(self, argument: str) -> str:
        """An argument with ports of this machine in place of the pods' addresses."""
        # The chief listens at all addresses of its pod; the Service leads to the same port.
        argument = argument.replace("0.0.0.0:8000", "tune-chief:8000")
        return re.sub(r"(?:train-many-[0-9]+\.train-many|tune-chief):[0-9]+", self._address, argument)

    def _address(self, match: re.Match[str]) -> str:
        if match[0] not in self._ports:
            with socket.socket() as one:
                one.bind(("localhost", 0))
                self._ports[match[0]] = one.getsockname()[1]
        return f"localhost:{self._ports[match[0]]}"


def _ended_with(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def node(tmp_path_factory, dataset):
    directory = tmp_path_factory.mktemp("node")
    settings = {"STORE": directory / "store", "INPUT": directory / "store" / "midi", "MAX_TRIALS": 1, "TRAIN_STEPS": 4}
    overlay = edited(directory, "local", jobs=MANY, **settings)
    shutil.copytree(dataset, directory / "store" / "dataset")
    return Node(render(overlay), directory / "store")


def test_workers_train_until_one_is_evicted(node):
    """It saves, and all of them leave with statuses for which the Job starts them again, without end."""
    workdir = node.store / "runs" / "first"
    with node.started(("train-many", 0), ("train-many", 1), flags=[*TINY, *UNSCORED]) as processes:
        wait_for_report(workdir, 10, processes)
        processes[1].send_signal(signal.SIGTERM)
        chief, worker = ended(processes)
    (saved,) = (workdir / "checkpoints").iterdir()
    assert f"SIGTERM: saved at train_step {int(saved.name):,}" in worker.stderr
    pods = node.pods("train-many")
    assert [pods.action(one.returncode) for one in (chief, worker)] == ["Ignore", "Ignore"], chief.stderr
    assert (chief.returncode, worker.returncode) == (75, 143)


def test_chief_and_workers_search(node):
    """Workers come before their chief, as pods do; each is known by its index."""
    flags = [f"--fix={flag[2:]}" for flag in TINY]
    with node.started(("tune-worker", 0), ("tune-worker", 1), ("tune-chief", 0), flags=flags) as processes:
        ends = ended(processes)
    for process, name in zip(ends, ("tune-worker", "tune-worker", "tune-chief"), strict=True):
        assert process.returncode == 0, process.stderr
        assert node.pods(name).action(process.returncode) == "Complete"
    study = node.store / "studies" / "first"
    assert (study / "best_config.json").exists()
    (trial,) = json.loads((study / "trials.json").read_text())["trials"]
    assert (trial["state"], trial["worker"] in ("tuner0", "tuner1")) == ("completed", True)


@pytest.mark.parametrize("name", ["train-many", "tune-worker", "tune-chief", "preprocess"])
def test_bad_input_fails_the_job_at_once(node, name):
    flags = {"preprocess": ["--num_shards=-1"]}.get(name, ["--preset=enormous"])
    with node.started((name, 0), flags=flags) as processes:
        (process,) = ended(processes)
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert node.pods(name).action(process.returncode) == "FailJob"


def test_pods_wait_for_the_dataset(node, tmp_path):
    with node.started(("train-many", 0), init=True) as processes:
        (process,) = ended(processes)
    assert process.returncode == 0, process.stderr
    without = Node(render(edited(tmp_path, "local", STORE=tmp_path / "store")), tmp_path / "store")
    with without.started(("train", 0), init=True) as processes:
        assert f"waiting for {tmp_path}/store/dataset: " in processes[0].stderr.readline()
        processes[0].terminate()
        (process,) = ended(processes)
    assert process.returncode == 143, process.stderr


def test_the_pod_for_files_ends_at_sigterm(node):
    pods = node.pods("files")
    with subprocess.Popen([sys.executable, *pods.container["args"]]) as process:
        time.sleep(0.5)
        assert process.poll() is None
        process.terminate()
        assert process.wait(10) == 0
