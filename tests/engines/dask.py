"""A Dask cluster of processes on loopback."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from distutils.core import run_setup  # setuptools', as everywhere since Python 3.12
from pathlib import Path

from tests import bare_site
from tests.processes import REPOSITORY, on_busy_machine

START_SECONDS = 60


class DaskCluster:
    """A scheduler and its workers, each a process whose Python imports from the given site only.

    Attributes:
        scheduler_file: names the scheduler's address.
        scheduler: the scheduler's process.
        workers: the workers' processes.
    """

    def __init__(self, directory: Path, site: Path) -> None:
        self.scheduler_file = directory / "scheduler.json"
        self.workers: list[subprocess.Popen] = []
        self._directory, self._site = directory, site
        self.scheduler = self._start("dask_scheduler", "--host=127.0.0.1", "--port=0")
        self._wait_for(self.scheduler_file)

    def add_workers(self, number: int) -> None:
        """Starts workers without nannies, so that a kill is one; those on other machines would restart theirs."""
        self.workers += [
            self._start("dask_worker", "--nthreads=1", "--no-nanny", f"--local-directory={self._directory}")
            for _ in range(number)
        ]

    def log(self) -> str:
        """Returns what scheduler and workers have printed."""
        return "\n".join(path.read_text() for path in sorted(self._directory.glob("*.log")))

    def stop(self) -> None:
        """Kills all processes."""
        for process in (*self.workers, self.scheduler):
            kill(process)

    def _start(self, program: str, *flags: str) -> subprocess.Popen:
        number = len(list(self._directory.glob("*.log")))
        with (self._directory / f"{number}-{program}.log").open("wb") as log:
            return subprocess.Popen(
                [
                    sys.executable, "-S", "-m", f"distributed.cli.{program}",
                    f"--scheduler-file={self.scheduler_file}", "--no-dashboard", *flags,
                ],
                cwd=self._directory,
                env={**os.environ, "PYTHONPATH": str(self._site)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + on_busy_machine(START_SECONDS)
        while not path.exists():
            assert self.scheduler.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)


def kill(process: subprocess.Popen) -> None:
    """Kills a process, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def dask_cluster(directory: Path, site: Path, *, workers: int) -> Iterator[DaskCluster]:
    """Yields a cluster in a new directory."""
    directory.mkdir(parents=True)
    cluster = DaskCluster(directory, site)
    try:
        cluster.add_workers(workers)
        yield cluster
    finally:
        cluster.stop()


def link_requirements(site: Path) -> Path:
    """Links Beam, Dask and what the project requires into a directory, without the project itself."""
    setup = run_setup(str(REPOSITORY / "setup.py"), stop_after="init")
    bare_site.link([*setup.install_requires, *setup.extras_require["dask"]], site)
    return site
