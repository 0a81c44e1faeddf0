"""The batch scripts in slurm/ on a real Slurm with four nodes: the same results, whatever happens to a job."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sostenuto.music.midi import write_midi
from tests.engines import slurm as engine
from tests.engines.slurm import Slurm
from tests.factories import TINY, random_notes, read_files
from tests.processes import REPOSITORY, run_python, wait_until
from tests.trainer.runs import metrics, run_all, weights, workers
from tests.tuning.runs import Search

pytestmark = pytest.mark.skipif(bool(engine.missing()), reason=engine.missing())

# The preset that starts soonest; long enough to be disturbed.
FLAGS = [*TINY["tutorial"], "--dropout=0.2", "--steps=1200", "--log_every=40", "--checkpoint_every=100"]
MIDDLE = 240  # a reported train_step after which a job is disturbed
SMALL = ("--nodes=2", "--cpus-per-task=1", "--mem=1500M", "--time=20")

Submit = Callable[..., str]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(tmp_path_factory.mktemp("slurm") / "engine") as cluster:
        yield cluster


@pytest.fixture
def submit(slurm: Slurm, tmp_path: Path) -> Submit:
    """A function that submits a script from a copy of `slurm/`, whose site file sets `python`; returns the job."""

    def submit(script: str, *arguments: str, options: tuple[str, ...] = (), python: str = sys.executable) -> str:
        clone = tmp_path / "clone"
        shutil.copytree(
            REPOSITORY / "slurm", clone / "slurm", ignore=shutil.ignore_patterns("site.sh"), dirs_exist_ok=True
        )
        (clone / "slurm" / "site.sh").write_text(f"python=({python})\nexport PYTHONPATH={REPOSITORY}\n")
        command = ("sbatch", "--parsable", *SMALL, *options, f"slurm/{script}.sbatch", *arguments)
        return slurm.call(*command, cwd=clone).stdout.strip()

    return submit


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Binds processes that are started within to one core, as a task with one CPU: more would round differently."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def expected(dataset, tmp_path_factory) -> Path:
    """The workdir of the same two workers without Slurm."""
    workdir = tmp_path_factory.mktemp("expected") / "w"
    cores = itertools.cycle(sorted(os.sched_getaffinity(0)))
    commands = workers(2, dataset, workdir, *FLAGS)
    processes = run_all([["taskset", "--cpu-list", str(next(cores)), *command] for command in commands])
    for process in processes:
        assert process.returncode == 0, process.stderr
    return workdir


@pytest.fixture
def train(submit: Submit, dataset, tmp_path: Path) -> Submit:
    """A function that submits slurm/train.sbatch, with the workdir `tmp_path / "w"`."""

    def train(name: str = "w", **options) -> str:
        return submit("train", f"--data={dataset}", f"--workdir={tmp_path / name}", *FLAGS, **options)

    return train


def wait_for_report(slurm: Slurm, job: str, workdir: Path) -> None:
    """Waits until a job's run is in the middle."""
    file = workdir / "metrics.jsonl"
    wait_until(
        lambda: file.exists() and any(line["train_step"] >= MIDDLE for line in metrics(workdir)),
        120,
        lambda: f"no report of train_step {MIDDLE}: {slurm.output(job)}",
    )


def assert_same(workdir: Path, expected: Path) -> None:
    """Asserts that two runs reached the same weights by the same losses, bit for bit."""
    assert metrics(workdir) == metrics(expected)
    found, wanted = weights(workdir), weights(expected)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_completed(slurm: Slurm, job: str, workdir: Path, expected: Path, *, restarts: int) -> None:
    """Waits for a job's end, and asserts that its run equals the expected one."""
    slurm.wait(job, "COMPLETED")
    assert slurm.field(job, "Restarts") == str(restarts), slurm.output(job)
    assert_same(workdir, expected)


def test_two_jobs_on_the_same_nodes_each_train_as_without_slurm(slurm, train, expected, tmp_path):
    jobs = {name: train(name, options=("--nodelist=n[1-2]",)) for name in "ab"}
    for name, job in jobs.items():
        assert_completed(slurm, job, tmp_path / name, expected, restarts=0)
        assert json.loads((tmp_path / name / "run.json").read_text())["device"].endswith(", 1 core)")
    a, b = ({slurm.field(job, name) for name in ("StartTime", "EndTime")} for job in jobs.values())
    assert min(a) < max(b), "the jobs ran one after the other"
    assert min(b) < max(a), "the jobs ran one after the other"


def test_a_requeued_job_saves_and_resumes(slurm, train, expected, tmp_path):
    job = train()
    wait_for_report(slurm, job, tmp_path / "w")
    slurm.call("scontrol", "requeue", job)
    assert_completed(slurm, job, tmp_path / "w", expected, restarts=1)
    assert "SIGTERM: saved at train_step" in slurm.output(job)


def test_a_job_moves_from_a_node_that_is_drained_and_goes_down(slurm, train, expected, tmp_path):
    job = train()
    wait_for_report(slurm, job, tmp_path / "w")
    (first,) = slurm.call("scontrol", "show", "hostnames", slurm.field(job, "NodeList")).stdout.split()[:1]
    try:
        slurm.call("scontrol", "update", f"NodeName={first}", "State=DRAIN", "Reason=test")
        assert slurm.field(job, "JobState") == "RUNNING"
        slurm.call("scontrol", "update", f"NodeName={first}", "State=DOWN", "Reason=test")
        assert_completed(slurm, job, tmp_path / "w", expected, restarts=1)
        nodes = slurm.call("scontrol", "show", "hostnames", slurm.field(job, "NodeList")).stdout.split()
        assert first not in nodes
    finally:
        slurm.call("scontrol", "update", f"NodeName={first}", "State=RESUME")


def test_a_job_whose_task_is_killed_resumes(slurm, train, expected, tmp_path):
    job = train()
    wait_for_report(slurm, job, tmp_path / "w")
    os.kill(slurm.processes(job, "trainer")[1], signal.SIGKILL)
    assert_completed(slurm, job, tmp_path / "w", expected, restarts=1)
    assert "status 137; requeued" in slurm.output(job)


def test_a_job_saves_ahead_of_its_time_limit_and_resumes(slurm, train, expected, tmp_path):
    job = train(options=("--signal=TERM@180",))
    wait_for_report(slurm, job, tmp_path / "w")
    # Slurm looks for limits every half minute, and the run would be finished by then.
    for process in slurm.processes(job, "trainer").values():
        os.kill(process, signal.SIGSTOP)
    hours, minutes, _ = map(int, slurm.field(job, "RunTime").split(":"))
    slurm.call("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + 3}")
    slurm.wait(job, "PENDING")
    slurm.call("scontrol", "update", f"JobId={job}", "TimeLimit=20")
    assert_completed(slurm, job, tmp_path / "w", expected, restarts=1)
    assert "SIGTERM: saved at train_step" in slurm.output(job)
    assert "status 143; requeued" in slurm.output(job)


def test_a_cancelled_job_saves_and_is_not_requeued(slurm, train, tmp_path):
    job = train(options=("--nodes=1",))
    wait_for_report(slurm, job, tmp_path / "w")
    slurm.call("scancel", job)
    slurm.wait(job, "CANCELLED")
    assert slurm.field(job, "Restarts") == "0"
    assert "SIGTERM: saved at train_step" in slurm.output(job)
    assert "requeued" not in slurm.output(job)


def test_bad_input_ends_a_job_with_2(slurm, submit, tmp_path):
    job = submit("train", f"--data={tmp_path / 'none'}", f"--workdir={tmp_path / 'w'}")
    slurm.wait(job, "FAILED")
    assert (slurm.field(job, "ExitCode"), slurm.field(job, "Restarts")) == ("2:0", "0")
    assert "none" in slurm.output(job)


def test_a_bug_on_one_node_ends_a_job_with_1_at_once(slurm, train):
    """The other worker would wait for it for 15 minutes, and its status is higher."""
    job = train(python=f"bash -c 'test $SLURM_PROCID = 0 && exec {sys.executable} \"$@\"' python")
    slurm.wait(job, "FAILED", 60)
    assert (slurm.field(job, "ExitCode"), slurm.field(job, "Restarts")) == ("1:0", "0")


def test_a_job_that_is_killed_again_and_again_ends(slurm, submit):
    job = submit("train", python="bash -c 'kill -9 $$'", options=("--nodes=1",))
    slurm.wait(job, "FAILED")
    assert (slurm.field(job, "ExitCode"), slurm.field(job, "Restarts")) == ("137:0", "3")
    assert "status 137 after 3 restarts" in slurm.output(job)


def test_a_search_that_is_requeued_finds_what_one_process_finds(slurm, submit, dataset, tmp_path):
    flags = ("--max_trials=2", "--train_steps=8")
    alone = Search(dataset, tmp_path / "alone", *flags)
    with one_core():
        assert alone.ends() == 0, alone.said()
    many = Search(dataset, tmp_path / "many", *flags)
    job = submit("tune", *many.flags)
    wait_until(lambda: many.has_checkpoint("0000"), 120, lambda: f"no checkpoint: {slurm.output(job)}")
    signal_steps(slurm, job)
    slurm.wait(job, "COMPLETED")
    assert slurm.field(job, "Restarts") == "1"
    assert {trial["worker"] for trial in many.trials} == {"tuner0", "tuner1"}
    assert [trial["scores"] for trial in many.trials] == [trial["scores"] for trial in alone.trials]


def test_preprocessing_that_is_requeued_writes_the_bytes_of_one_process(slurm, submit, tmp_path):
    midi = tmp_path / "midi"
    midi.mkdir()
    for index in range(20):
        write_midi(random_notes(index, 100), str(midi / f"{index:02}.mid"))
    run_python("-m", "beam_preprocess", f"--input={midi}", f"--output={tmp_path / 'one'}", "--num_shards=4", check=True)
    job = submit("preprocess", f"--input={midi}", f"--output={tmp_path / 'many'}", "--num_shards=4")
    wait_until(lambda: "has 2 workers" in slurm.output(job), 120, lambda: slurm.output(job))
    signal_steps(slurm, job)
    slurm.wait(job, "COMPLETED")
    assert slurm.field(job, "Restarts") == "1"
    assert read_files(tmp_path / "many") == read_files(tmp_path / "one")
    assert list((tmp_path / "clone").glob("dask-*")) == []


def signal_steps(slurm: Slurm, job: str) -> None:
    """Signals a job as Slurm does ahead of the time limit, and waits until the script has requeued it."""
    slurm.call("scancel", "--signal=TERM", job)
    slurm.wait(job, "PENDING")
    assert "status 143; requeued" in slurm.output(job)
