"""Exclusive access to a directory: a local lock, or an object in a bucket that names its holder."""

import json
import os
import pickle
import subprocess
import sys
import time

import pytest

from sostenuto.errors import HeldError, LostError
from sostenuto.storage import lease
from sostenuto.storage.lease import Lease, hold
from tests.processes import REPOSITORY

HOLD = (
    "import sys; from sostenuto.storage.lease import hold; "
    "one = hold(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
)
LOCK = "gs://bucket/w/.lock"


@pytest.fixture
def quick(monkeypatch):
    """A lease that is renewed and expires in fractions of a second."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.5)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)


@pytest.fixture(params=["here", "bucket"])
def directory(request, tmp_path, gcs):
    return str(tmp_path) if request.param == "here" else "gs://bucket/w"


def of_another_machine(gcs, *, renewed=None, **fields):
    """An object as a process of another machine leaves it."""
    holder = {"host": "elsewhere", "pid": 7, "started": "1", "processes": "another", "pod": "", **fields}
    gcs.put(LOCK, json.dumps({**holder, "renewed": time.time() if renewed is None else renewed}).encode())


def test_another_process_is_rejected_until_the_first_has_ended(directory):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, directory], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(HeldError) as error:
            hold(directory)
        assert str(error.value) == f"process {process.pid} on {os.uname().nodename}"
        # It cannot release the directory.
        process.kill()
    start = time.monotonic()
    hold(directory).close()
    assert time.monotonic() - start < 5


def test_a_released_directory_can_be_held_again(directory):
    for _ in range(2):
        held = hold(directory)
        held.check_held()
        with pytest.raises(HeldError):
            hold(directory)
        held.close()


def test_a_closed_lease_leaves_nothing(gcs):
    Lease("gs://bucket/w").close()
    assert gcs.names("gs://bucket/") == []


def test_a_holder_elsewhere_that_renews_keeps_it(gcs, quick, capsys):
    of_another_machine(gcs)
    looks = []

    def renew(method, path):
        looks.append(path)
        if len(looks) == 8:
            of_another_machine(gcs)

    gcs.before = renew
    with pytest.raises(HeldError, match="process 7 on elsewhere"):
        Lease("gs://bucket/w")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gs://bucket/w: ")
    assert "process 7 on elsewhere. Waiting up to " in line


def test_a_holder_elsewhere_that_does_not_renew_loses_it(gcs, quick):
    of_another_machine(gcs)
    start = time.monotonic()
    Lease("gs://bucket/w").close()
    assert 0.5 < time.monotonic() - start < 10


@pytest.mark.parametrize(
    "gone",
    [
        {"renewed": 1.7e9},  # long ago
        {"pod": os.uname().nodename},  # started again in a pod of that name
    ],
    ids=lambda gone: next(iter(gone)),
)
def test_a_holder_that_has_ended_is_not_waited_for(gcs, monkeypatch, gone):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    of_another_machine(gcs, **gone)
    start = time.monotonic()
    Lease("gs://bucket/w").close()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("content", [b"", b"no JSON", b"[]", b'{"renewed": "soon"}'])
def test_an_invalid_lease_is_waited_for_like_any_other(gcs, quick, content):
    gcs.put(LOCK, content)
    start = time.monotonic()
    Lease("gs://bucket/w").close()
    assert time.monotonic() - start > 0.5


def test_a_lease_is_renewed_and_its_loss_is_noticed(gcs, quick):
    held = Lease("gs://bucket/w")
    first = gcs.generation(LOCK)
    until = time.monotonic() + 30
    while gcs.generation(LOCK) == first:
        assert time.monotonic() < until
    held.check_held()
    of_another_machine(gcs)
    theirs = gcs.get(LOCK)
    with pytest.raises(LostError, match="gs://bucket/w: process 7 on elsewhere has taken it over"):
        while time.monotonic() < until:
            held.check_held()
    # Closing does not remove the other one.
    held.close()
    assert gcs.get(LOCK) == theirs


def test_a_bucket_that_fails_now_and_then_changes_nothing(gcs, quick):
    gcs.error_rate = 0.3
    for _ in range(3):
        held = Lease("gs://bucket/w")
        for _ in range(5):
            held.check_held(now=True)
        held.close()
        assert gcs.names("gs://bucket/w/") == []
    assert gcs.faults


def test_a_released_directory_has_no_lock_and_another_process_may_take_it_at_once(tmp_path):
    first = hold(str(tmp_path))
    with (tmp_path / ".lock").open("rb"):  # as another process that is about to lock it
        first.close()
        assert os.listdir(tmp_path) == []
        second = hold(str(tmp_path))
        with pytest.raises(HeldError, match=f"process {os.getpid()} on "):
            hold(str(tmp_path))
        second.close()


def test_a_worker_checks_the_lease_of_the_process_that_sent_it(directory):
    held = hold(directory)
    sent = pickle.loads(pickle.dumps(held))
    sent.check_held()
    held.close()
    with pytest.raises(LostError, match=f"{directory}: its .lock is gone"):
        sent.check_held()
    other = hold(directory)
    with pytest.raises(LostError, match=rf"process {os.getpid()} on .* has taken it over"):
        sent.check_held()
    other.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"host": 3, "pid": "\\u0000", "processes": [], "renewed": 1e999}',
        json.dumps({"pid": "1\0", "started": "1", "processes": lease._process_namespace()}).encode(),
    ],
)
def test_a_damaged_lock_of_a_bucket_expires_like_any_other(gcs, monkeypatch, content):
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.02)
    gcs.put(LOCK, content)
    hold("gs://bucket/w").close()
    assert gcs.names("gs://bucket/w/") == []
