"""Preprocessing on a real Dask cluster: the bytes of one at home, and one line for whatever goes wrong."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import distributed
import pytest

from beam_preprocess.commit import UNFINISHED_NAME
from sostenuto.data.manifest import MANIFEST_NAME
from tests.engines.dask import DaskCluster, dask_cluster, kill, link_requirements
from tests.factories import melody, read_files, write_files
from tests.processes import REPOSITORY, on_busy_machine

FILES = {f"{index % 5}/{index}.mid": melody(range(30, 35 + index % 40)) for index in range(120)}
SHARDS = 10  # of each split
END_SECONDS = 120


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("corpus"), {**FILES, "broken.mid": b"MThd, dear diary"})


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return link_requirements(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def at_home(corpus, tmp_path_factory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("home") / "dataset"
    status, error = Launcher(corpus, output).end()
    assert status == 0, error
    return read_files(output)


@pytest.fixture(scope="module")
def cluster(site, tmp_path_factory) -> Iterator[DaskCluster]:
    """Two workers that lack the project, for tests that leave them as they are."""
    with dask_cluster(tmp_path_factory.mktemp("dask") / "cluster", site, workers=2) as cluster:
        yield cluster


class Launcher:
    """The command `sostenuto preprocess` in a process of its own."""

    def __init__(self, corpus: Path, output: Path | str, *beam_args: str, cwd: Path = REPOSITORY, **environment: str):
        self.output = Path(output)
        command = [sys.executable, "-m", "beam_preprocess", f"--input={corpus}", f"--output={output}"]
        self._process = subprocess.Popen(
            [*command, f"--num_shards={SHARDS}", "--", *beam_args],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits for a moment of the run."""
        deadline = time.monotonic() + on_busy_machine(END_SECONDS)
        while not condition():
            assert self._process.poll() is None, self.end()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def read_line(self) -> str:
        """Returns the next line that stderr gets."""
        assert self._process.stderr is not None
        return self._process.stderr.readline()

    def written_shards(self) -> int:
        """Returns how many shards have been begun."""
        return len(list(self.output.glob("*.tfrecord*")))

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Returns the exit status and what stderr got."""
        _, error = self._process.communicate(timeout=on_busy_machine(END_SECONDS))
        return self._process.returncode, error


def launch(cluster: DaskCluster, corpus: Path, output: Path | str, *flags: str, **options) -> Launcher:
    return Launcher(
        corpus, output, "--runner=dask", f"--dask_scheduler_file={cluster.scheduler_file}", *flags, **options
    )


def assert_one_line(error: str, *words: str) -> None:
    """The last line has the words, and none is of a traceback or of Dask's own."""
    last = error.splitlines()[-1]
    assert all(word in last for word in words), error
    assert "Traceback" not in error
    assert "distributed" not in error


def assert_nothing_left(output: Path) -> None:
    """Neither a dataset nor the mark of an unfinished one."""
    assert not {MANIFEST_NAME, UNFINISHED_NAME} & {path.name for path in output.glob("*")}


def client_of(cluster: DaskCluster) -> distributed.Client:
    return distributed.Client(scheduler_file=str(cluster.scheduler_file), set_as_default=False)


def test_workers_without_the_project_write_what_one_machine_writes(cluster, corpus, at_home, tmp_path):
    launcher = launch(cluster, corpus, tmp_path / "dataset")
    status, error = launcher.end()
    assert status == 0, error
    assert read_files(tmp_path / "dataset") == at_home
    assert "has 2 workers" in error
    with client_of(cluster) as client:
        assert all(client.run(lambda dask_worker: dask_worker.state.executed_count).values())


def test_each_shard_is_a_task(cluster, corpus, tmp_path):
    """So that a cluster has as much to do in parallel as there are shards, and not the hundredth part."""
    with client_of(cluster) as client:
        before = sum(client.run(lambda dask_worker: dask_worker.state.executed_count).values())
        assert launch(cluster, corpus, tmp_path / "dataset").end()[0] == 0
        executed = sum(client.run(lambda dask_worker: dask_worker.state.executed_count).values()) - before
    shards = len(list((tmp_path / "dataset").glob("*.tfrecord")))
    assert shards == 3 * SHARDS
    assert shards <= executed <= 2 * shards  # Dask counts the name of a result as a task, too.


def test_paths_may_be_relative(cluster, corpus, at_home, tmp_path):
    """Workers have other working directories."""
    status, error = launch(cluster, Path(os.path.relpath(corpus, tmp_path)), "dataset", cwd=tmp_path).end()
    assert status == 0, error
    assert read_files(tmp_path / "dataset") == at_home


def test_a_directory_that_workers_cannot_see(cluster, corpus, tmp_path):
    # Each process has its own.
    status, error = launch(cluster, corpus, "/proc/self/cwd/dataset", cwd=tmp_path).end()
    assert status == 2, error
    assert_one_line(error, "/proc/self/cwd/dataset", "cannot see it", "gs://")
    assert not (tmp_path / "dataset").exists()


def test_sigterm_cancels_the_job(cluster, corpus, at_home, tmp_path):
    launcher = launch(cluster, corpus, tmp_path / "dataset")
    launcher.wait_until(lambda: launcher.written_shards() > 1)
    launcher.signal(signal.SIGTERM)
    status, error = launcher.end()
    assert status == 143, error
    assert "Traceback" not in error
    assert_nothing_left(tmp_path / "dataset")
    status, error = launch(cluster, corpus, tmp_path / "dataset").end()
    assert status == 0, error
    assert read_files(tmp_path / "dataset") == at_home


def test_a_job_that_is_cancelled_on_the_cluster(site, corpus, tmp_path):
    with dask_cluster(tmp_path / "cluster", site, workers=1) as cluster:
        launcher = launch(cluster, corpus, tmp_path / "dataset")
        launcher.wait_until(lambda: launcher.written_shards() > 1)
        with client_of(cluster) as client:
            client.restart(wait_for_workers=False)
        status, error = launcher.end()
    assert status == 75, error
    assert_one_line(error, "cancelled", "run the same command again")
    assert_nothing_left(tmp_path / "dataset")


def test_the_first_worker_is_waited_for(site, corpus, at_home, tmp_path):
    with dask_cluster(tmp_path / "cluster", site, workers=0) as cluster:
        launcher = launch(cluster, corpus, tmp_path / "dataset")
        assert "loading Apache Beam" in launcher.read_line()
        assert "has no worker: waiting for one" in launcher.read_line()
        cluster.add_workers(1)
        status, error = launcher.end()
    assert status == 0, error
    assert read_files(tmp_path / "dataset") == at_home


@pytest.mark.parametrize("replaced", [False, True], ids=["one", "all, which are replaced"])
def test_workers_are_killed(site, corpus, at_home, tmp_path, replaced):
    with dask_cluster(tmp_path / "cluster", site, workers=2) as cluster:
        launcher = launch(cluster, corpus, tmp_path / "dataset")
        launcher.wait_until(lambda: launcher.written_shards() > 3)
        for worker in cluster.workers if replaced else cluster.workers[:1]:
            kill(worker)
        if replaced:
            cluster.add_workers(1)
        status, error = launcher.end()
    assert status == 0, error
    assert read_files(tmp_path / "dataset") == at_home


def test_a_shard_that_kills_its_workers(site, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    with dask_cluster(tmp_path / "cluster", site, workers=1) as cluster:
        launcher = launch(cluster, corpus, tmp_path / "dataset")
        launcher.wait_until(lambda: launcher.written_shards() > 1)
        kill(cluster.workers[0])
        status, error = launcher.end()
    assert status == 2, error
    assert_one_line(error, "1 worker ended while writing the same shard", "more memory")
    assert_nothing_left(tmp_path / "dataset")


def test_the_scheduler_is_killed(site, corpus, at_home, tmp_path):
    output = tmp_path / "dataset"
    with dask_cluster(tmp_path / "first", site, workers=1) as cluster:
        launcher = launch(cluster, corpus, output)
        launcher.wait_until(lambda: launcher.written_shards() > 1)
        kill(cluster.scheduler)
        status, error = launcher.end()
    assert status == 75, error
    assert_one_line(error, "was lost", "run the same command again")
    assert_nothing_left(output)
    with dask_cluster(tmp_path / "second", site, workers=1) as cluster:
        assert launch(cluster, corpus, output).end()[0] == 0
    assert read_files(output) == at_home


def test_no_scheduler_at_the_address(corpus, tmp_path):
    flags = ["--dask_client_address=tcp://127.0.0.1:9", "--dask_connection_timeout=1"]
    status, error = Launcher(corpus, tmp_path / "dataset", "--runner=DaskRunner", *flags).end()
    assert status == 75, error
    assert_one_line(error, "tcp://127.0.0.1:9", "within 1 s", "--dask_client_address")
    assert not (tmp_path / "dataset").exists()


def test_no_scheduler_file(corpus, tmp_path):
    flags = [f"--dask_scheduler_file={tmp_path}/none.json", "--dask_connection_timeout=1"]
    status, error = Launcher(corpus, tmp_path / "dataset", "--runner=dask", *flags).end()
    assert status == 2, error
    assert_one_line(error, f"{tmp_path}/none.json", "no such file")


def test_workers_that_have_another_version(site, corpus, tmp_path):
    other = tmp_path / "site"
    shutil.copytree(site, other, symlinks=True)
    for package in ("sostenuto", "beam_preprocess"):
        shutil.copytree(REPOSITORY / package, other / package)
    with (other / "beam_preprocess" / "plan.py").open("a") as file:
        file.write("\nANOTHER = 1\n")
    with dask_cluster(tmp_path / "cluster", other, workers=1) as cluster:
        status, error = launch(cluster, corpus, tmp_path / "dataset").end()
    assert status == 2, error
    last = error.splitlines()[-1]
    assert_one_line(error, "has sostenuto 0.", ", this command has 0.")
    found, own = last.split("this command has")
    assert found.split("(")[1].split(")")[0] != own.split("(")[1].split(")")[0]
    assert_nothing_left(tmp_path / "dataset")


def test_a_machine_that_lacks_a_requirement(site, corpus, tmp_path):
    less = tmp_path / "site"
    shutil.copytree(site, less, symlinks=True)
    (less / "symusic").unlink()
    with dask_cluster(tmp_path / "cluster", less, workers=1) as cluster:
        status, error = launch(cluster, corpus, tmp_path / "dataset").end()
    assert status == 2, error
    assert_one_line(error, "symusic", "Install")
