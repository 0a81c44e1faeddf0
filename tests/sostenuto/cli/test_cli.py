import datetime
import json
import os
import signal
import subprocess

import pytest

from tests.processes import REPOSITORY, run_python

COMMAND = """
import logging
import sys
from absl import flags
from sostenuto import cli
from sostenuto.errors import GpuError, LostError, UnavailableError, UserError

COUNT = flags.DEFINE_integer("count", 1, "how many")

def main():
    if COUNT.value == 2:
        raise UserError("two is given,\\n   expected one")
    if COUNT.value == 3:
        return 7
    if COUNT.value == 4:
        raise KeyboardInterrupt
    if COUNT.value == 5:
        raise UnavailableError("the bucket does not answer")
    if COUNT.value == 6:
        raise ZeroDivisionError
    if COUNT.value == 8:
        raise LostError("another process has taken it over")
    if COUNT.value == 9:
        raise GpuError("GPU: it failed")
    logging.getLogger(__name__).info("counting", extra={"figures": {"count": COUNT.value}})
    cli.print_result("done")

if __name__ == "__main__":
    cli.run(main, usage="[--count=N]")
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "command.py").write_text(COMMAND)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_python("-m", "command", *arguments, PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(tmp_path)]))

    return run


def test_help_is_no_error_and_shows_the_flags_of_the_command(run):
    process = run("--help")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("usage: python -m command [--count=N]")
    for flag in ("--count=N ", "--[no]quiet ", "--[no]log_json ", "--version ", "--help ", "--help_json "):
        assert flag in process.stdout


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--cuont=1", "cuont"),
        ("--count=many", "many"),
        ("count", "unexpected argument 'count'"),
        ("--count=2", "two is given, expected one"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, argument, message):
    process = run(argument)
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert line.startswith("command: ")
    assert message in line


def test_the_status_is_that_of_the_command(run):
    assert (run().returncode, run().stdout) == (0, "done\n")
    assert run("--count=3").returncode == 7
    assert run("--count=4").returncode == 128 + signal.SIGINT
    assert run("--count=6").returncode == 1


def test_an_unavailable_bucket_has_the_status_for_another_try(run):
    process = run("--count=5")
    assert (process.returncode, process.stderr) == (75, "command: the bucket does not answer\n")


def test_a_process_whose_directory_was_taken_over_has_the_status_for_another_try(run):
    process = run("--count=8")
    assert (process.returncode, process.stderr) == (75, "command: another process has taken it over\n")


def test_a_gpus_failure_has_a_status_of_its_own(run):
    """Neither that of bad input nor that for another try: restarts may help, but not without end."""
    process = run("--count=9")
    assert (process.returncode, process.stderr) == (71, "command: GPU: it failed\n")


def test_quiet_leaves_nothing_but_errors(run):
    assert (run().stdout, run().stderr) == ("done\n", "counting\n")
    process = run("--quiet")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert run("--quiet", "--count=2").stderr == "command: two is given, expected one\n"


@pytest.mark.parametrize(
    ("arguments", "status", "severity", "message"),
    [
        (["--count=1"], 0, "INFO", "counting"),
        (["--count=2"], 2, "ERROR", "command: two is given, expected one"),
        (["--count=2", "--quiet"], 2, "ERROR", "command: two is given, expected one"),
        (["--count=5"], 75, "ERROR", "command: the bucket does not answer"),
        (["--count=4"], 130, "ERROR", "command: interrupted"),
        (["--count=6"], 1, "CRITICAL", "ZeroDivisionError"),
        (["--cuont=1"], 2, "ERROR", "cuont"),
        (["--count=many"], 2, "ERROR", "many"),
        (["count"], 2, "ERROR", "unexpected argument 'count'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_with_log_json_each_line_is_an_object(run, arguments, status, severity, message):
    """Also of a mistake that absl finds before it comes to the flag that asks for it."""
    process = run(*arguments, "--log_json")
    assert process.returncode == status
    (line,) = map(json.loads, process.stderr.splitlines())
    assert line["severity"] == severity
    assert message in line["message"]
    assert datetime.datetime.fromisoformat(line["time"]).utcoffset() == datetime.timedelta(0)
    assert line.get("exit_status", 0) == status
    assert line.get("count") == (None if status else 1)
    assert process.stdout == ("" if status else "done\n")


def test_a_command_may_take_arguments_with_flags_between_them(tmp_path):
    source = COMMAND.replace("def main():", "def main(operands):\n    print(*operands, COUNT.value)\n    return 0")
    (tmp_path / "takes.py").write_text(source.replace('usage="[--count=N]"', 'usage="NAME ...", operands=True'))
    path = os.pathsep.join([str(REPOSITORY), str(tmp_path)])
    process = run_python("-m", "takes", "a", "--count=6", "b", "--", "--count=7", PYTHONPATH=path)
    assert process.stdout == "a b --count=7 6\n"
    assert run_python("-m", "takes", PYTHONPATH=path).stdout == "1\n"
