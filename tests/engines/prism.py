"""Prism, Beam's portable runner in Go: its job server and a pool of Beam's workers, as processes on loopback."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.processes import REPOSITORY, on_busy_machine

START_SECONDS = 30
MODULE = "github.com/apache/beam/sdks/v2/go/cmd/prism"


def prism_program() -> Path:
    """Returns Prism of the installed Beam's version; builds it into a cache, in some minutes, if it is not there."""
    release = version("apache-beam")
    cache = Path(os.environ.get("SOSTENUTO_CLUSTER_CACHE") or Path.home() / ".cache" / "sostenuto" / "cluster")
    program = cache / f"prism-{release}" / "prism"
    if not program.exists():
        go = shutil.which("go")
        if go is None:
            pytest.skip("no go on the PATH, which builds Prism")
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [go, "install", f"{MODULE}@v{release}"],
            env={**os.environ, "GOBIN": str(program.parent)},
            check=True,
            capture_output=True,
        )
    return program


class Server:
    """A process that listens on a port of this machine."""

    def __init__(self, name: str, arguments: list[str], port: int, directory: Path) -> None:
        self.address, self._log = f"localhost:{port}", directory / f"{name}-{port}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                arguments,
                cwd=directory,
                # A worker pool starts its workers as `python`.
                env={
                    **os.environ,
                    "PYTHONPATH": str(REPOSITORY),
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + on_busy_machine(START_SECONDS)
        while not _listens(port):
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def log(self) -> str:
        """Returns what it has printed."""
        return self._log.read_text()

    def kill(self) -> None:
        """Kills it with its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("localhost", port)) == 0


def free_port() -> int:
    """Returns a port that no process of this machine listens on."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def job_server(program: Path, directory: Path) -> Iterator[Server]:
    """Yields Prism."""
    port = free_port()
    server = Server("prism", [str(program), f"-job_port={port}", "-serve_http=false"], port, directory)
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def worker_pool(directory: Path) -> Iterator[Server]:
    """Yields a pool of Beam's workers, started as docs/dataflow.md says."""
    port = free_port()
    command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    pool = Server("pool", command, port, directory)
    try:
        yield pool
    finally:
        pool.kill()
