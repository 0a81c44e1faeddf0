"""Preprocessing on Prism, which speaks the protocol of Flink's and Spark's job servers, with a pool of workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beam_preprocess.commit import UNFINISHED_NAME
from sostenuto.data.manifest import MANIFEST_NAME
from tests.engines.prism import Server, free_port, job_server, prism_program, worker_pool
from tests.factories import melody, read_files, write_files
from tests.processes import REPOSITORY, on_busy_machine, run_python

FILES = {f"{index % 5}/{index}.mid": melody(range(30, 35 + index % 40)) for index in range(60)}
END_SECONDS = 120


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("corpus"), {**FILES, "broken.mid": b"MThd, dear diary"})


@pytest.fixture(scope="module")
def at_home(corpus, tmp_path_factory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("home") / "dataset"
    command = ["-m", "beam_preprocess", f"--input={corpus}", f"--output={output}", "--num_shards=10"]
    assert run_python(*command).returncode == 0
    return read_files(output)


@pytest.fixture(scope="module")
def prism(tmp_path_factory):
    with job_server(prism_program(), tmp_path_factory.mktemp("prism")) as server:
        yield server


def start(corpus: Path, output: Path, server: str, *beam_args: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "beam_preprocess", f"--input={corpus}", f"--output={output}", "--num_shards=10"]
    return subprocess.Popen(
        [*command, "--", "--runner=PortableRunner", f"--job_endpoint={server}", *beam_args],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
    )


def in_pool(pool: Server) -> list[str]:
    return ["--environment_type=EXTERNAL", f"--environment_config={pool.address}"]


def end(launcher: subprocess.Popen) -> tuple[int, str]:
    """Returns the exit status and what stderr got."""
    _, error = launcher.communicate(timeout=on_busy_machine(END_SECONDS))
    return launcher.returncode, error


def wait_for_shards(launcher: subprocess.Popen, output: Path, number: int) -> None:
    deadline = time.monotonic() + on_busy_machine(END_SECONDS)
    while len(list(output.glob("*.tfrecord*"))) < number:
        assert launcher.poll() is None, end(launcher)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_nothing_left(output: Path) -> None:
    """Neither a dataset nor the mark of an unfinished one."""
    assert not {MANIFEST_NAME, UNFINISHED_NAME} & {path.name for path in output.glob("*")}


def test_workers_of_a_pool_write_what_one_machine_writes(prism, corpus, at_home, tmp_path):
    with worker_pool(tmp_path) as pool:
        status, error = end(start(corpus, tmp_path / "dataset", prism.address, *in_pool(pool)))
    assert status == 0, error
    assert read_files(tmp_path / "dataset") == at_home
    # The pool has the project: nothing is packed.
    assert error == "loading Apache Beam\n"


def test_the_launcher_may_be_the_worker(prism, corpus, at_home, tmp_path):
    status, error = end(start(corpus, tmp_path / "dataset", prism.address, "--environment_type=LOOPBACK"))
    assert status == 0, error
    assert read_files(tmp_path / "dataset") == at_home


def test_the_pool_is_killed(prism, corpus, at_home, tmp_path):
    output = tmp_path / "dataset"
    with worker_pool(tmp_path) as pool:
        launcher = start(corpus, output, prism.address, *in_pool(pool))
        wait_for_shards(launcher, output, 2)
        pool.kill()
        status, error = end(launcher)
    assert status == 1, error
    assert "Traceback" not in error
    assert f"the job server at {prism.address}: the job failed: " in error.splitlines()[-1]
    assert_nothing_left(output)
    with worker_pool(tmp_path) as pool:
        assert end(start(corpus, output, prism.address, *in_pool(pool)))[0] == 0
    assert read_files(output) == at_home


def test_no_pool_at_the_address(corpus, tmp_path):
    """Prism itself ends then."""
    flags = ["--environment_type=EXTERNAL", f"--environment_config=localhost:{free_port()}"]
    with job_server(prism_program(), tmp_path) as server:
        status, error = end(start(corpus, tmp_path / "dataset", server.address, *flags))
    assert status == 75, error
    assert f"the job server at {server.address}: " in error.splitlines()[-1]
    assert "Traceback" not in error


def test_a_workers_error_is_the_launchers(prism, tmp_path):
    broken = {f"{index}.mid": b"Dear diary" for index in range(30)}
    corpus = write_files(tmp_path / "corpus", {**FILES, **broken})
    with worker_pool(tmp_path) as pool:
        status, error = end(start(corpus, tmp_path / "dataset", prism.address, *in_pool(pool)))
    assert status == 2, error
    assert "30 of 90 files were rejected" in error.splitlines()[-1]
    assert "Traceback" not in error


def test_no_job_server_at_the_address(corpus, tmp_path):
    address = f"localhost:{free_port()}"
    status, error = end(start(corpus, tmp_path / "dataset", address, "--job_server_timeout=2"))
    assert status == 75, error
    assert f"the job server at {address}: " in error.splitlines()[-1]
    assert "Traceback" not in error


def test_the_job_server_is_killed(corpus, tmp_path):
    output = tmp_path / "dataset"
    with worker_pool(tmp_path) as pool, job_server(prism_program(), tmp_path) as server:
        launcher = start(corpus, output, server.address, *in_pool(pool))
        wait_for_shards(launcher, output, 2)
        server.kill()
        status, error = end(launcher)
    assert status == 75, error
    assert f"the job server at {server.address}: " in error.splitlines()[-1]
    assert "Traceback" not in error
    assert_nothing_left(output)


def test_sigterm_cancels_the_job(prism, corpus, tmp_path):
    output = tmp_path / "dataset"
    with worker_pool(tmp_path) as pool:
        launcher = start(corpus, output, prism.address, *in_pool(pool))
        wait_for_shards(launcher, output, 2)
        launcher.send_signal(signal.SIGTERM)
        status, error = end(launcher)
    assert status == 143, error
    assert "Traceback" not in error
    assert_nothing_left(output)
