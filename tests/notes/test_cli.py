import os
import signal
import subprocess

import pytest

from tests.processes import REPOSITORY, run_python

COMMAND = """
import sys
from absl import flags
from notes import cli
from notes.errors import UnavailableError, UserError

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
    print("done")

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
    assert "--count: how many" in process.stdout


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


def test_what_may_be_there_later_is_worth_another_try(run):
    process = run("--count=5")
    assert (process.returncode, process.stderr) == (75, "command: the bucket does not answer\n")


def test_a_command_may_take_arguments_with_flags_between_them(tmp_path):
    source = COMMAND.replace("def main():", "def main(operands):\n    print(*operands, COUNT.value)\n    return 0")
    (tmp_path / "takes.py").write_text(source.replace('usage="[--count=N]"', 'usage="NAME ...", operands=True'))
    path = os.pathsep.join([str(REPOSITORY), str(tmp_path)])
    process = run_python("-m", "takes", "a", "--count=6", "b", "--", "--count=7", PYTHONPATH=path)
    assert process.stdout == "a b --count=7 6\n"
    assert run_python("-m", "takes", PYTHONPATH=path).stdout == "1\n"
