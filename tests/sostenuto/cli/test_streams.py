"""Output that cannot be written, and an interruption while modules are imported: a status, and no traceback."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sostenuto.cli.main import COMMANDS
from tests.factories import melody
from tests.processes import REPOSITORY

COMMAND = """
import logging, os, signal, sys, time
from sostenuto import cli
from sostenuto.errors import UserError

def main(operands):
    match operands:
        case ["print"]:
            print("not flushed")
        case ["exit"]:
            print("not flushed")
            raise SystemExit(7)
        case ["log"]:
            logging.getLogger(__name__).info("progress")
        case ["mistake"]:
            raise UserError("wrong")
        case ["end"]:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        case ["bug"]:
            raise ZeroDivisionError
        case ["dropped"]:
            class Part:
                def __del__(self):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0)
            Part()
            time.sleep(60)
        case ["caught"]:
            for _ in range(2):
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(60)
                except BaseException:
                    pass
        case ["file"]:
            with open("/dev/full", "w") as file:
                file.write("x" * 100_000)

if __name__ == "__main__":
    cli.run(main, usage="[CASE]", operands=True)
"""

NO_SPACE = "output: cannot be written (No space left on device)\n"


@contextlib.contextmanager
def closed_pipe() -> Iterator[int]:
    """A pipe whose reader is gone, as after `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextlib.contextmanager
def full_device() -> Iterator[int]:
    with open("/dev/full", "w") as file:
        yield file.fileno()


def run(*arguments: str, stdout: int | None = None, stderr: int | None = None, path: str = "") -> tuple[int, str, str]:
    """Runs `python ARGUMENTS`; returns the status and what went to streams that are not given."""
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), path])},
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE if stderr is None else stderr,
        text=True,
        check=False,
        timeout=120,
    )
    return process.returncode, process.stdout or "", process.stderr or ""


@pytest.fixture
def command(tmp_path):
    (tmp_path / "command.py").write_text(COMMAND)
    return lambda case, **streams: run("-m", "command", case, path=str(tmp_path), **streams)


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("module", [entry.module for entry in COMMANDS.values()] + ["sostenuto.cli.main"])
def test_help_into_nothing_is_quiet(module, option):
    with closed_pipe() as pipe:
        assert run("-m", module, option, stdout=pipe) == (128 + signal.SIGPIPE, "", "")


@pytest.mark.parametrize("module", [entry.module for entry in COMMANDS.values()] + ["sostenuto.cli.main"])
def test_help_on_a_full_device_is_one_line(module):
    with full_device() as device:
        assert run("-m", module, "--help", stdout=device) == (2, "", f"{module}: {NO_SPACE}")


def test_a_result_without_a_reader_ends_quietly(tmp_path):
    (tmp_path / "one.mid").write_bytes(melody([60, 62]))
    arguments = ["-m", "sostenuto.inspect", str(tmp_path / "one.mid")]
    with closed_pipe() as pipe:
        assert run(*arguments, stdout=pipe) == (141, "", "")
    with full_device() as device:
        assert run(*arguments, stdout=device) == (2, "", f"sostenuto.inspect: {NO_SPACE}")


@pytest.mark.parametrize("case", ["print", "exit"])
def test_buffered_output_is_flushed(command, case):
    """Python itself would end with 120, and two lines about an ignored exception."""
    with closed_pipe() as pipe:
        assert command(case, stdout=pipe) == (141, "", "")
    with full_device() as device:
        assert command(case, stdout=device) == (2, "", f"command: {NO_SPACE}")


@pytest.mark.parametrize(
    ("case", "closed", "full"), [("log", 141, 2), ("mistake", 2, 2), ("bug", 1, 1), ("--zzz", 2, 2)]
)
def test_the_status_remains_where_stderr_cannot_be_written(command, case, closed, full):
    with closed_pipe() as pipe:
        assert command(case, stderr=pipe) == (closed, "", "")
    with full_device() as device:
        assert command(case, stderr=device) == (full, "", "")


def test_a_full_disk_is_one_line(command):
    assert command("file") == (2, "", f"command: {NO_SPACE}")


# Sends Ctrl-C at the n-th import after the first one, which takes effect on import.
INTERRUPT = """
import os, signal, sys
left = int(os.environ["AT_IMPORT"])
def listen(event, arguments):
    global left
    if event == "import":
        left -= signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(listen)
"""


@pytest.mark.parametrize("at", [1, 40, 120])
@pytest.mark.parametrize("module", [entry.module for entry in COMMANDS.values()] + ["sostenuto.cli.main"])
def test_ctrl_c_at_any_import_of_a_command_is_one_line(module, at, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    monkeypatch.setenv("AT_IMPORT", str(at))
    status, _, stderr = run("-m", module, "--help", path=str(tmp_path))
    assert (status, stderr) == (130, f"{module}: interrupted\n")


@pytest.mark.parametrize("case", ["dropped", "caught"])
def test_no_ctrl_c_is_lost(command, case):
    """Python drops an exception in a destructor, and a library may catch it; the next one ends the command."""
    assert command(case) == (130, "", "command: interrupted\n")


def test_a_terminated_command_is_silent(command):
    assert command("end") == (128 + signal.SIGTERM, "", "")


def test_a_bug_has_its_traceback(command):
    status, _, stderr = command("bug")
    assert status == 1
    assert stderr.startswith("Traceback ")
    assert stderr.endswith("ZeroDivisionError\n")
