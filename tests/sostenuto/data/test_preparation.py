"""Jobs that wait for a dataset: they say what they wait for, and stop when nobody writes it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sostenuto.data import preparation
from sostenuto.data.manifest import MANIFEST_NAME
from sostenuto.data.preparation import ALIVE_NAME, FAILED_NAME, announced
from sostenuto.errors import HeldError, TemporaryError, UserError
from tests.processes import REPOSITORY, on_busy_machine


class Waiting:
    """The command `sostenuto wait`."""

    def __init__(self, directory: Path, minutes: float, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sostenuto.wait", f"--data={directory}", f"--minutes={minutes}", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_line(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.readline()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> tuple[int, str]:
        _, error = self._process.communicate(timeout=on_busy_machine(60))
        return self._process.returncode, error

    def is_running(self) -> bool:
        return self._process.poll() is None


def test_it_ends_when_the_dataset_is_there(tmp_path):
    waiting = Waiting(tmp_path / "dataset", 60)
    assert f"waiting for {tmp_path}/dataset: 0 minutes so far; no sign of preprocessing yet" in waiting.read_line()
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / MANIFEST_NAME).write_text("{}")
    status, error = waiting.end()
    assert (status, error.rstrip().endswith(f"found {tmp_path}/dataset")) == (0, True)


def test_it_ends_when_nobody_writes_the_dataset(tmp_path):
    status, error = Waiting(tmp_path, 0.02).end()
    assert status == 2
    assert error.splitlines()[-1].endswith(
        f"{tmp_path}: no dataset, and no sign of life from sostenuto preprocess --announce for 0.02 minutes. Start it, "
        "then this job"
    )


def test_a_sign_of_life_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "RENEW_SECONDS", 0.2)
    with announced(str(tmp_path)):
        waiting = Waiting(tmp_path, 0.05)
        assert "it is being written" in waiting.read_line()
        time.sleep(6)  # Twice as long as it would wait without one.
        assert waiting.is_running()
    status, error = waiting.end()
    assert (status, "no sign of life" in error) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_ends_the_waiting(tmp_path):
    waiting = Waiting(tmp_path, 60)
    waiting.read_line()
    with pytest.raises(UserError), announced(str(tmp_path)):
        raise UserError("no such corpus:\n  nowhere")
    status, error = waiting.end()
    assert status == 2
    assert error.splitlines()[-1].endswith(
        f"{tmp_path}: preprocessing failed: no such corpus: nowhere. Start it again, then this job"
    )


def test_a_former_failure_may_be_taken_away(tmp_path):
    """Preprocessing and the jobs that wait for it may be started at once."""
    (tmp_path / FAILED_NAME).write_text(json.dumps({"reason": "no such corpus"}))
    waiting = Waiting(tmp_path, 60)
    assert "preprocessing failed, and has 5 minutes to start again: no such corpus" in waiting.read_line()
    with announced(str(tmp_path)):
        assert not (tmp_path / FAILED_NAME).exists()
        (tmp_path / MANIFEST_NAME).write_text("{}")
        assert waiting.end()[0] == 0


def test_a_former_failure_that_stays_is_one(tmp_path):
    (tmp_path / FAILED_NAME).write_text("{")
    status, error = Waiting(tmp_path, 0.02).end()
    assert status == 2
    assert "preprocessing failed: its reason cannot be read" in error


@pytest.mark.parametrize("error", [TemporaryError("later"), HeldError("another"), KeyboardInterrupt(), SystemExit(143)])
def test_an_interruption_is_no_failure(tmp_path, error):
    with pytest.raises(type(error)), announced(str(tmp_path)):
        assert json.loads((tmp_path / ALIVE_NAME).read_text())["pid"] == os.getpid()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_sigterm_ends_it(tmp_path):
    waiting = Waiting(tmp_path, 60)
    waiting.read_line()
    waiting.terminate()
    assert waiting.end() == (143, "")


def test_in_a_bucket(gcs):
    with pytest.raises(UserError), announced("gs://bucket/dataset"):
        raise UserError("no such corpus")
    assert json.loads(gcs.get("gs://bucket/dataset/failed.json")) == {"reason": "no such corpus"}
    with pytest.raises(UserError, match="gs://bucket/dataset: preprocessing failed: no such corpus"):
        preparation.wait("gs://bucket/dataset", minutes=0.01)


PROGRAM = """
import pathlib, sys, time
with open(sys.argv[1], "a") as file:
    file.write("started\\n")
time.sleep(600 if len(open(sys.argv[1]).readlines()) > 1 else 0)
"""


@pytest.mark.parametrize("how", ["dataset", "signal"])
def test_a_program_runs_meanwhile_and_again_when_it_ends(tmp_path, how):
    starts = tmp_path / "starts"
    waiting = Waiting(tmp_path / "dataset", 60, "--", "-c", PROGRAM, str(starts))
    deadline = time.monotonic() + on_busy_machine(60)
    while not starts.exists() or len(starts.read_text().splitlines()) < 2:
        assert waiting.is_running()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if how == "dataset":
        (tmp_path / "dataset").mkdir()
        (tmp_path / "dataset" / MANIFEST_NAME).write_text("{}")
    else:
        waiting.terminate()
    status, _ = waiting.end()
    assert status == (0 if how == "dataset" else 143)
    assert subprocess.run(["pgrep", "-f", str(starts)], stdout=subprocess.PIPE, check=False).stdout == b""
