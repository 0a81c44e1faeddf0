"""Runs whose processes are killed, asked to end, or left without room on the disk end like one that never was."""

import itertools
import shutil
import signal
import subprocess

import numpy as np
import pytest

from tests.factories import TINY
from tests.faults.runs import PEER_LOST, Fault, Run, assert_alike, moments, strike
from tests.processes import REPOSITORY, on_busy_machine
from tests.trainer.runs import TRAIN, ended, run_all, started, weights, workers
from tests.tuning.runs import free_address
from trainer.distribution.cluster import Cluster
from trainer.distribution.rendezvous import wait_for_workers

TRAIN_STEPS = 120
RANDOM = ["--dropout=0.2", "--transpose=3", "--layers=1"]
# Much to write, and much to remember.
BUSY = [
    *TINY["base"], *RANDOM, f"--steps={TRAIN_STEPS}", "--ema=0.9", "--accumulation_steps=2", "--log_every=5",
    "--checkpoint_every=7", "--evaluate_every=60",
]  # fmt: skip
BEATS = {moment.name: moment for moment in moments(TRAIN_STEPS)}
LEAVE_SECONDS = 5.0  # for a run to end after it is asked to
LEAVE_SECONDS_BUSY = 15.0  # while other tests run

CHECKPOINT = r"/checkpoints/\d+\.tmp-\w+ .*/checkpoints/\d+"  # the rename that makes it one


def refused(run: Run, fault: Fault) -> str:
    """What the chief says, in one line, when its disk is full."""
    chief, *others = run.ends(fault)
    assert chief.process.returncode == 2, chief.lines
    assert all(other.process.returncode == PEER_LOST for other in others), [other.lines for other in others]
    said = [line for line in chief.lines if line.startswith("trainer: ")]
    assert len(said) == 1, chief.lines
    assert said[0] == chief.lines[-1], chief.lines
    assert "Traceback" not in " ".join(chief.lines)
    assert str(run.workdir) in said[0]
    assert not run.is_finished
    return said[0]


def killed(run: Run, fault: Fault) -> None:
    """Has the chief die by a fault."""
    chief, *others = run.ends(fault)
    assert chief.process.returncode == -signal.SIGKILL, chief.lines
    assert all(other.process.returncode == PEER_LOST for other in others), [other.lines for other in others]


# The short form.


def test_a_run_on_one_host_survives_a_kill_a_full_disk_and_sigterm(dataset, tmp_path, choose):
    flags = [*TINY["base"], *RANDOM, "--steps=60", "--checkpoint_every=7", "--log_every=5", "--evaluate_every=60"]
    untouched = Run(dataset, tmp_path / "untouched", flags).completed()
    run = Run(dataset, tmp_path / "run", flags)
    # The second checkpoint is never renamed: what is not finished is nothing.
    killed(run, Fault("killed", "os.rename", CHECKPOINT, 2))
    assert run.newest_checkpoint == 7
    line = refused(run, Fault("nearly_full", "os.mkdir", r"/checkpoints/\d+\.tmp-", 2))
    assert "cannot be written (" in line
    assert " MB are free; the last checkpoint, " in line
    assert "/checkpoints/00000014, is unchanged. Make room, then repeat the command" in line
    assert run.newest_checkpoint == 14
    blow = strike(run, BEATS["training"]._replace(seconds=0.1), signal.SIGTERM, [0], choose)
    assert blow.hit
    assert blow.seconds < on_busy_machine(LEAVE_SECONDS_BUSY)
    assert run.newest_checkpoint > 14
    assert_alike(run.completed(), untouched)


def test_two_hosts_end_like_one_host_although_one_is_killed(dataset, tmp_path, choose):
    flags = [
        *TINY["tutorial"], "--dropout=0.2", "--precision=float64", "--steps=240", "--checkpoint_every=20",
        "--log_every=30",
    ]  # fmt: skip
    untouched = Run(dataset, tmp_path / "untouched", flags).completed()
    run = Run(dataset, tmp_path / "run", flags, workers=2)
    assert strike(run, BEATS["training"]._replace(seconds=0.1), signal.SIGKILL, [choose.randrange(2)], choose).hit
    assert 0 < run.newest_checkpoint < 240
    run.completed()
    one, two = (weights(workdir) for workdir in (untouched.workdir, run.workdir))
    assert one.keys() == two.keys()
    for name, values in one.items():
        # Two sums of a half are not the sum of the whole to the last bit.
        assert np.linalg.norm(two[name] - values) <= 1e-9 * np.linalg.norm(values), name


def test_a_fine_tuned_run_survives_a_kill_although_its_source_is_gone(dataset, tmp_path, choose):
    tiny = [*TINY["tutorial"], "--dropout=0.2", "--checkpoint_every=20", "--log_every=30"]
    source = Run(dataset, tmp_path / "source", [*tiny, "--steps=20"]).completed()
    flags = [*tiny, f"--init_from={source.workdir}", "--freeze=lstm_0", "--steps=240"]
    untouched = Run(dataset, tmp_path / "untouched", flags).completed()
    run = Run(dataset, tmp_path / "run", flags)
    assert strike(run, BEATS["training"]._replace(seconds=0.1), signal.SIGKILL, [0], choose).hit
    assert 0 < run.newest_checkpoint < 240
    shutil.rmtree(source.workdir)
    assert_alike(run.completed(), untouched)


# The full form: make faults.


@pytest.fixture(scope="module")
def untouched(kills, dataset, tmp_path_factory):
    """For each number of workers a run that was left in peace."""
    runs: dict[int, Run] = {}

    def of(workers: int) -> Run:
        if workers not in runs:
            directory = tmp_path_factory.mktemp("untouched")
            runs[workers] = Run(dataset, directory / "run", BUSY, workers).completed()
        return runs[workers]

    return of


def storm(workers, signals, strikes, dataset, directory, choose, untouched):
    """Strikes runs of several workers at all moments in turn, in random order; returns the strikes that hit."""
    blows = []
    targets = [[0]] if workers == 1 else [[0], [1], [0, 1]]
    aims = list(itertools.product(BEATS, targets))
    choose.shuffle(aims)
    for number in itertools.count():
        run = Run(dataset, directory / f"{workers}-{number}", BUSY, workers)
        while not run.is_finished and len(blows) < strikes:
            moment, who = aims[0]
            aims = [*aims[1:], aims[0]]
            blow = strike(run, BEATS[moment], choose.choice(signals), who, choose)
            if blow.hit:
                blows.append(blow)
        if not run.is_finished:
            run.completed()
        assert_alike(run, untouched(workers))
        if len(blows) >= strikes:
            break
    return blows


def test_one_host_killed_at_random_moments(kills, dataset, tmp_path, choose, untouched):
    storm(1, [signal.SIGKILL], -(-kills // 3), dataset, tmp_path, choose, untouched)


def test_two_hosts_killed_at_random_moments(kills, dataset, tmp_path, choose, untouched):
    storm(2, [signal.SIGKILL], -(-2 * kills // 3), dataset, tmp_path, choose, untouched)


@pytest.mark.parametrize("workers", [1, 2])
def test_asked_to_end_at_random_moments(workers, kills, dataset, tmp_path, choose, untouched):
    asks = [signal.SIGTERM, signal.SIGINT]
    blows = storm(workers, asks, -(-kills // 3), dataset, tmp_path, choose, untouched)
    # Here the hosts share one machine's cores.
    assert max(blow.seconds for blow in blows) < on_busy_machine(LEAVE_SECONDS * workers)


def test_killed_between_each_temporary_file_and_its_rename(kills, dataset, tmp_path, untouched):
    run = Run(dataset, tmp_path / "run", BUSY)
    renames = {
        "config.json": r"/config\.json\.tmp",
        "run.json": r"/run\.json\.tmp",
        "a checkpoint": CHECKPOINT,
        "the best": r"/best/\d+\.tmp-\w+ ",
        "export.json": r"/export\.json\.tmp",
        "the export": r"/export\.tmp-\w+ \S+/export ",
        "result.json": r"/result\.json\.tmp",
    }
    for pattern in renames.values():
        killed(run, Fault("killed", "os.rename", pattern))
        if "best" in pattern:
            # Within the directory of weights, before it says what it holds.
            killed(run, Fault("killed", "open", r"/best/\d+\.tmp-\w+/checkpoint\.json w"))
    assert_alike(run.completed(), untouched(1))


def test_killed_while_a_checkpoint_takes_the_place_of_another(kills, dataset, tmp_path, untouched):
    """A run continues from an earlier checkpoint where later ones were damaged."""
    run = Run(dataset, tmp_path / "run", BUSY)
    killed(run, Fault("killed", "os.rename", CHECKPOINT, 4))
    for train_step in (14, 21):
        index = run.workdir / "checkpoints" / f"{train_step:08d}" / "variables.index"
        index.write_bytes(index.read_bytes()[:-1])
    killed(run, Fault("killed", "os.rename", r"/checkpoints/00000014\.tmp-\w+ "))
    assert run.newest_checkpoint == 21
    chief, *_ = run.completed().ends()
    assert chief.process.returncode == 0
    assert_alike(run, untouched(1))


FULL = {
    "config.json": Fault("full", "open", r"/config\.json\.tmp\S+ x"),
    "run.json": Fault("full", "open", r"/run\.json\.tmp\S+ x"),
    "metrics.jsonl": Fault("full", "open", r"/metrics\.jsonl a", 2),
    "the summaries": Fault("full", "open", r"/metrics\.jsonl None", 2),
    "a checkpoint": Fault("nearly_full", "os.mkdir", r"/checkpoints/\d+\.tmp-", 2),
    "the best": Fault("nearly_full", "os.mkdir", r"/best/\d+\.tmp-"),
    "the export's weights": Fault("nearly_full", "open", r"/best/\d+/checkpoint\.json r"),
    "the export": Fault("full", "open", r"/best/\d+/checkpoint\.json r"),
    "export.json": Fault("full", "open", r"/export\.json\.tmp\S+ x"),
    "result.json": Fault("full", "open", r"/result\.json\.tmp\S+ x"),
}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_is_full_at_each_file(workers, kills, dataset, tmp_path, untouched):
    run = Run(dataset, tmp_path / "run", BUSY, workers)
    # Two hosts take the same path; what is new there is that all must end.
    for name in FULL if workers == 1 else ("config.json", "metrics.jsonl", "a checkpoint", "the export"):
        print(f"full at {name}: {refused(run, FULL[name])}")
    assert_alike(run.completed(), untouched(workers))


@pytest.mark.parametrize("size", ["512k", "3m"])
def test_a_disk_that_is_full_indeed(size, kills, dataset, tmp_path, untouched):
    """One of that size; it goes with the process that mounted it, so that what it held is copied before."""
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    kept.mkdir()
    script = 'mount -t tmpfs -o size="$0" none "$1" || exit 99; "${@:3}"; status=$?; cp -a "$1/." "$2"; exit $status'
    command = [*TRAIN, f"--data={dataset}", f"--workdir={small}", *BUSY]
    process = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "bash", "-c", script, size, small, kept, *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in process.stderr or process.returncode == 99:
        pytest.skip(f"no disk can be mounted: {process.stderr}")
    assert process.returncode == 2, process.stderr
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("trainer: ")]
    print(f"{size}: {line}")
    assert "No space left on device" in line
    run = Run(dataset, kept, BUSY)
    assert run.newest_checkpoint or "there is no earlier checkpoint" in line
    assert_alike(run.completed(), untouched(1))


def test_base_as_shipped_is_gone_in_time_when_it_is_asked_to_end(kills, dataset, tmp_path, choose):
    run = Run(dataset, tmp_path / "run", ["--preset=base", "--steps=100000", "--log_every=5", "--checkpoint_every=20"])
    for number in (signal.SIGTERM, signal.SIGINT):
        blow = strike(run, BEATS["training"], number, [0], choose)
        assert blow.hit
        assert blow.seconds < on_busy_machine(LEAVE_SECONDS)


INJECTED = """
import runpy
import tensorflow as tf
from trainer.engine import measurements

def fail(*_):
    raise tf.errors.InternalError(None, None, "wrong number of rows")

measurements.Measurements.measure = fail
runpy.run_module("trainer", run_name="__main__", alter_sys=True)
"""

CONNECTS = """
import sys
from trainer.distribution import strategy
from trainer.distribution.cluster import Cluster

strategy._CONNECT_SECONDS = 3
strategy.create_strategy(["CPU:0"], Cluster(tuple(sys.argv[1:]), 0))
"""


def test_an_internal_error_of_its_own_ends_a_worker_with_1_and_the_other_with_75(kills, dataset, tmp_path):
    """With 75 for both, an orchestrator would start them again without end."""
    chief, worker = workers(2, dataset, tmp_path / "run", *BUSY)
    ends = run_all([chief, [worker[0], "-c", INJECTED, *worker[len(TRAIN) :]]])
    assert [process.returncode for process in ends] == [PEER_LOST, 1], [process.stderr for process in ends]
    assert "wrong number of rows" in ends[1].stderr


def test_a_chief_whose_worker_ends_while_tensorflow_connects_them_does_not_wait_for_an_hour(kills):
    addresses = (free_address(), "localhost:1")
    with started([TRAIN[0], "-c", CONNECTS, *addresses]) as processes:
        wait_for_workers(Cluster(addresses, 1), ["CPU:0"])
        (chief,) = ended(processes)
    assert chief.returncode == -signal.SIGALRM
