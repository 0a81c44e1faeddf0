"""Runs and searches in a bucket, killed at any request, resume with an empty disk as if nothing had happened.

The short form of this is tests/trainer/workdir/test_remote.py.
"""

import json
import pathlib
import re
import signal

import numpy as np
import pytest

from tests.factories import TINY
from tests.gcs_server import GcsServer
from tests.processes import run_python
from tests.trainer.runs import TRAIN, ended, metrics, run_all, started, train, weights, workers
from tests.trainer.workdir.test_remote import get_directory, put_directory
from tests.tuning.runs import START, free_address

pytestmark = pytest.mark.usefixtures("kills")  # minutes

W = "gs://bucket/w"
FLAGS = [
    *TINY["base"], "--layers=1", "--dropout=0.2", "--transpose=3", "--steps=60", "--checkpoint_every=7",
    "--max_to_keep=2", "--log_every=5", "--evaluate_every=20",
]  # fmt: skip
PRIMERLESS = ["--num_notes=20", "--num_samples=2", "--seed=5", "--quiet"]


@pytest.fixture
def bucket(gcs, dataset):
    """The server, with the dataset in its bucket."""
    put_directory(gcs, dataset, "gs://bucket/data")
    return gcs


@pytest.fixture
def empty_disk(tmp_path_factory, monkeypatch):
    """Gives the processes that are started next a machine that has nothing of any run."""
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("machine")))


def killed_at_a_request(gcs: GcsServer, request: int, *commands: list[str]) -> list[int]:
    """Runs processes; the first is killed as the n-th request reaches the bucket. Returns their statuses."""
    heard = 0

    def listen(method, path):
        nonlocal heard
        heard += 1
        if heard == request:
            processes[0].kill()

    with started(*commands) as processes:
        gcs.before = listen
        statuses = [process.returncode for process in ended(processes)]
    gcs.before = lambda method, path: None
    return statuses


def of_another_machine(gcs: GcsServer) -> None:
    """What a machine that is gone leaves, as others see it once it was silent for long."""
    if ".lock" in gcs.names(f"{W}/"):
        gcs.put(f"{W}/.lock", json.dumps({"host": "elsewhere", "renewed": 1.7e9}).encode())


def assert_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    for directory in ("checkpoints", "best"):
        left, right = weights(one, directory), weights(other, directory)
        assert left.keys() == right.keys()
        assert [name for name in left if not np.array_equal(left[name], right[name])] == []
    assert metrics(one) == metrics(other)
    assert (one / "result.json").read_bytes() == (other / "result.json").read_bytes()


def test_a_run_that_is_killed_at_random_requests_is_that_of_a_disk_and_so_are_its_scores_and_music(
    bucket, dataset, tmp_path, empty_disk, choose
):
    assert train(dataset, tmp_path / "w", *FLAGS).returncode == 0
    command = [*TRAIN, "--data=gs://bucket/data", f"--workdir={W}", *FLAGS]
    bucket.error_rate = 0.1
    kills = 0
    while kills < 3:
        empty_disk()
        request = choose.randrange(20, 110)
        (status,) = killed_at_a_request(bucket, request, command)
        print(f"request {request}: {status}, {[name for name in bucket.names(W) if name.endswith('checkpoint.json')]}")
        kills += status == -signal.SIGKILL
        if not status:
            break
        of_another_machine(bucket)
    empty_disk()
    (process,) = run_all([command])
    assert process.returncode == 0, process.stderr
    assert kills
    assert bucket.faults > 10
    assert_same_run(get_directory(bucket.contents(f"{W}/"), tmp_path / "fetched"), tmp_path / "w")

    assert run_python("-m", "trainer.evaluate", f"--data={dataset}", f"--workdir={tmp_path / 'w'}").returncode == 0
    there = run_python("-m", "trainer.evaluate", "--data=gs://bucket/data", f"--workdir={W}")
    assert there.returncode == 0, there.stderr
    assert bucket.get(f"{W}/evaluation-test.json") == (tmp_path / "w" / "evaluation-test.json").read_bytes()

    bucket.put("gs://bucket/music/sample-007.mid", b"of an earlier call")
    bucket.put("gs://bucket/music/samples.json", b'{"files": ["sample-007.mid"]}')
    here = run_python(
        "-m", "trainer.generate", f"--workdir={tmp_path / 'w'}", f"--output={tmp_path / 'o'}", *PRIMERLESS
    )
    assert here.returncode == 0, here.stderr
    primer = tmp_path / "o" / "sample-000.mid"
    bucket.put("gs://bucket/primer.mid", primer.read_bytes())
    for flags, directory in (([], "music"), (["--primer=gs://bucket/primer.mid"], "more")):
        there = run_python(
            "-m", "trainer.generate", f"--workdir={W}", f"--output=gs://bucket/{directory}", *PRIMERLESS, *flags
        )
        assert there.returncode == 0, there.stderr
    music = bucket.contents("gs://bucket/music/")
    assert music.keys() == {path.name for path in (tmp_path / "o").iterdir()}
    assert [name for name in music if name.endswith((".mid", ".png")) and music[name] != (tmp_path / "o" / name).read_bytes()] == []  # fmt: skip  # noqa: E501
    assert json.loads(music["samples.json"])["workdir"] == W
    assert json.loads(bucket.get("gs://bucket/more/samples.json"))["primer"] == "gs://bucket/primer.mid"


def test_sigterm_leaves_all_in_the_bucket(bucket, empty_disk):
    command = [
        *TRAIN,
        "--data=gs://bucket/data",
        f"--workdir={W}",
        *FLAGS,
        "--steps=100000",
        "--checkpoint_every=100000",
    ]
    with started(command) as processes:
        while not processes[0].stderr.readline().startswith("train_step"):
            assert processes[0].poll() is None
        processes[0].terminate()
        (process,) = ended(processes)
    assert process.returncode == 128 + signal.SIGTERM
    saved = int(re.search(r"SIGTERM: saved at train_step ([\d,]+);", process.stderr)[1].replace(",", ""))
    assert f"checkpoints/{saved:08d}/checkpoint.json" in bucket.names(f"{W}/")
    assert ".lock" not in bucket.names(f"{W}/")


def test_two_hosts_with_nothing_but_a_bucket_end_like_one_of_a_disk(bucket, dataset, tmp_path, empty_disk, choose):
    flags = [*FLAGS, "--precision=float64"]
    assert train(dataset, tmp_path / "w", *flags).returncode == 0
    empty_disk()
    commands = workers(2, "gs://bucket/data", W, *flags)
    statuses = killed_at_a_request(bucket, choose.randrange(45, 90), *commands)
    assert statuses[0] in (-signal.SIGKILL, 0)
    of_another_machine(bucket)
    empty_disk()
    for process in run_all(workers(2, "gs://bucket/data", W, *flags)):
        assert process.returncode == 0, process.stderr
    fetched = get_directory(bucket.contents(f"{W}/"), tmp_path / "fetched")
    one, two = weights(tmp_path / "w"), weights(fetched)
    for name, values in one.items():
        assert np.linalg.norm(two[name] - values) <= 1e-9 * np.linalg.norm(values), name
    for theirs, ours in zip(metrics(fetched), metrics(tmp_path / "w"), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-9)


def test_a_chief_and_a_worker_search_in_a_bucket_though_both_are_killed(bucket, empty_disk):
    bucket.put("gs://bucket/start.json", json.dumps(START).encode())
    bucket.put("gs://bucket/space.yaml", b"units: 8\nseq_length: 16\n")
    address = free_address()
    command = [
        TRAIN[0], "-m", "tuning", "--data=gs://bucket/data", f"--workdir={W}", "--config=gs://bucket/start.json",
        "--space=gs://bucket/space.yaml", "--max_trials=2", "--train_steps=40", "--nostop_weak",
        f"--chief_address={address}",
    ]  # fmt: skip
    chief, worker = [*command, "--role=chief", "--retrain_best"], [*command, "--role=worker", "--worker_id=tuner0"]

    def in_the_middle(method, path):
        names = [name for name in bucket.names(f"{W}/trials/0001/") if name.startswith("checkpoints/")]
        if any(name.endswith("checkpoint.json") for name in names):
            bucket.before = lambda method, path: None
            for process in processes:
                process.kill()

    with started(chief, worker) as processes:
        bucket.before = in_the_middle
        assert [process.returncode for process in ended(processes)] == [-signal.SIGKILL] * 2
    reports = bucket.get(f"{W}/trials/0001/metrics.jsonl").splitlines()
    empty_disk()
    with started(chief, worker) as processes:
        again = ended(processes)
    assert [process.returncode for process in again] == [0, 0], [process.stderr for process in again]
    trials = json.loads(bucket.get(f"{W}/trials.json"))["trials"]
    assert [trial["state"] for trial in trials] == ["completed", "completed"]
    assert bucket.get(f"{W}/trials/0001/metrics.jsonl").splitlines()[0] == reports[0]
    assert "best/result.json" in bucket.names(f"{W}/")
    assert not [name for name in bucket.names(f"{W}/") if name.endswith(".lock")]
