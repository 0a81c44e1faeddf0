"""The batch scripts in slurm/, on Debian's Slurm with four nodes: same results, whatever happens to the job."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.engines import slurm as engine
from tests.engines.slurm import Slurm, wait_until
from tests.factories import TINY
from tests.processes import REPOSITORY
from tests.trainer.runs import metrics, run_all, weights, workers

pytestmark = pytest.mark.skipif(bool(engine.missing()), reason=engine.missing())

STEPS = 600
FLAGS = [*TINY["base"], "--dropout=0.2", f"--steps={STEPS}", "--log_every=10", "--evaluate_every=100"]
FLAGS.append("--checkpoint_every=50")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to submit from, with the batch scripts and a site's file."""
    directory = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPOSITORY / "slurm", directory / "slurm", ignore=shutil.ignore_patterns("site.sh"))
    (directory / "slurm" / "site.sh").write_text(f"python=({sys.executable})\nexport PYTHONPATH={REPOSITORY}\n")
    return directory


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(tmp_path_factory.mktemp("slurm") / "engine") as cluster:
        yield cluster


@pytest.fixture
def submit(slurm: Slurm, clone: Path) -> Callable[..., str]:
    """A function that submits a script with options of sbatch and arguments; returns the job's number."""

    def submit(script: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
        small = ("--nodes=2", "--cpus-per-task=1", "--mem=1500M", "--time=10")
        return slurm.call(
            "sbatch", "--parsable", *small, *options, f"slurm/{script}.sbatch", *arguments, cwd=clone
        ).stdout.strip()

    return submit


@pytest.fixture(scope="module")
def expected(dataset, tmp_path_factory):
    """The workdir of the same two workers without Slurm."""
    workdir = tmp_path_factory.mktemp("expected") / "w"
    for process in run_all(workers(2, dataset, workdir, *FLAGS)):
        assert process.returncode == 0, process.stderr
    return workdir


def assert_same(workdir: Path, expected: Path) -> None:
    """Asserts that two runs reached the same weights, losses and scores, bit for bit."""
    assert metrics(workdir) == metrics(expected)
    found, wanted = weights(workdir), weights(expected)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def wait_for_report(slurm: Slurm, job: str, workdir: Path, train_step: int) -> None:
    """Waits until a job's run has reported a train_step."""
    wait_until(
        lambda: (workdir / "metrics.jsonl").exists() and metrics(workdir)[-1:][0:1] != []
        and metrics(workdir)[-1]["train_step"] >= train_step,
        120,
        lambda: f"no report of train_step {train_step}\n{slurm.output(job)}\n{slurm.logs()}",
    )  # fmt: skip


def test_two_jobs_share_their_nodes_and_each_equals_a_run_without_slurm(slurm, submit, dataset, expected, tmp_path):
    jobs = {}
    for name in "ab":
        job = submit("train", f"--data={dataset}", f"--workdir={tmp_path / name}", *FLAGS, options=("--nodelist=n[1-2]",))
        jobs[job] = tmp_path / name
    for job, workdir in jobs.items():
        slurm.wait(job, "COMPLETED")
        assert slurm.field(job, "Restarts") == "0"
        assert_same(workdir, expected)
