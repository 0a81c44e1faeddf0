"""What every test starts from: seeded randomness and a clean place in the environment."""

import collections
import functools
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from sostenuto import storage
from sostenuto.cli import console
from tests.gcs_server import GcsServer

# Reproducible, and without a deadline: the machine may be busy with other things.
hypothesis.settings.register_profile("sostenuto", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("sostenuto")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores SIGINT, and so would every command that a test starts and then interrupts. A
    # process that handles it starts others with the default action.
    signal.signal(signal.SIGINT, lambda *_: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--allowed-skips", help="fail if a test is skipped for a reason that no line of this file begins with"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Has one process run all tests of engines, one after the other: each has a cluster of many processes."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/engines" if nodeid.startswith("tests/engines/") else super()._split_scope(nodeid)

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--allowed-skips")
    if file and not hasattr(config, "workerinput"):  # pytest-xdist's workers report to the first process
        config.pluginmanager.register(SkipCheck(Path(file)))
    if config.getoption("durations") is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FileTimes(config.getoption("durations") or None))
    if not hasattr(config, "workerinput"):
        _keep_compiled_loops(config)


def _keep_compiled_loops(config: pytest.Config) -> None:
    """Has all processes of the session share what XLA compiles: a loop that samples notes takes it seconds."""
    directory = tempfile.mkdtemp(prefix="sostenuto-xla-")
    config.add_cleanup(functools.partial(shutil.rmtree, directory, ignore_errors=True))
    flags = os.environ.get("TF_XLA_FLAGS", "")
    os.environ["TF_XLA_FLAGS"] = f"{flags} --tf_xla_persistent_cache_directory={directory}".strip()


class SkipCheck:
    """Fails a session with tests that were skipped for other reasons than those of a file.

    Attributes:
        allowed: how the allowed reasons begin.
        unexpected: reasons by test, of all others.
    """

    def __init__(self, file: Path) -> None:
        lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
        self.allowed = tuple(filter(None, lines))
        self.unexpected: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._check(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._check(report)

    def _check(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if not reason.startswith(self.allowed):
                self.unexpected[report.nodeid] = reason

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for test, reason in self.unexpected.items():
            terminalreporter.write_line(
                f"{test}: skipped ({reason}). Install what it needs, or allow the skip.", red=True
            )


class FileTimes:
    """Lists the slowest files beside the slowest tests of pytest's `--durations`."""

    def __init__(self, count: int | None) -> None:
        """Lists `count` files, or all of them."""
        self._count = count
        self._seconds = collections.Counter[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid.partition("::")[0]] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section(f"slowest files, of {self._seconds.total():,.0f} s")
        for file, seconds in self._seconds.most_common(self._count):
            terminalreporter.write_line(f"{seconds:7.1f}s {file}")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _console() -> None:
    """Shows log lines as a command does."""
    console.configure_console()


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The directory of a real corpus, from the environment; the test is skipped where there is none."""
    path = os.environ.get("SOSTENUTO_CORPUS")
    if not path:
        pytest.skip("no real corpus: set SOSTENUTO_CORPUS to the directory of one in MAESTRO's layout")
    return Path(path)


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    """An empty Google Cloud Storage on loopback, with the bucket "bucket", for this process and its children."""
    with GcsServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server
        storage.close()
