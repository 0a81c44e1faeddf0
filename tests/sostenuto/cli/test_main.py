"""The command `sostenuto`: each of its commands is what `python -m` runs."""

import re
import subprocess

import pytest

from sostenuto.cli.main import COMMANDS
from tests.factories import melody, write_files
from tests.processes import run_python

# What the console script of an installed package holds.
SCRIPT = "import sys; from sostenuto.cli.main import main; sys.argv[0] = 'sostenuto'; sys.exit(main())"


def sostenuto(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python("-c", SCRIPT, *arguments)


@pytest.fixture(params=COMMANDS)
def name(request):
    return request.param


def test_a_command_is_the_module_and_calls_itself_as_it_was_called(name):
    module = COMMANDS[name].module
    ours, theirs = sostenuto(name, "--help"), run_python("-m", module, "--help")
    assert (ours.returncode, ours.stderr) == (0, "")
    assert ours.stdout.startswith(f"usage: sostenuto {name} ")
    # Lines break elsewhere, since the names differ in length.
    same = theirs.stdout.replace(f"python -m {module}", f"sostenuto {name}")
    assert ours.stdout.replace("\\\n", " ").split() == same.replace("\\\n", " ").split()


def test_a_mistake_has_the_same_status_and_line(name):
    module = COMMANDS[name].module
    ours, theirs = sostenuto(name, "--quite"), run_python("-m", module, "--quite")
    assert ours.returncode == theirs.returncode == 2
    assert ours.stderr == theirs.stderr.replace(f"{module}:", f"sostenuto {name}:", 1)
    assert ours.stderr == f"sostenuto {name}: --quite: unknown flag. Did you mean --quiet?\n"


def test_a_command_works_and_has_the_same_output(tmp_path):
    corpus = write_files(tmp_path / "corpus", {f"{number}.mid": melody([60, 62, 64]) for number in range(3)})
    arguments = [f"--input={corpus}", "--output={}", "--split_fractions=1,0,0", "--quiet"]
    for output in ("ours", "theirs"):
        given = [argument.format(tmp_path / output) for argument in arguments]
        process = sostenuto("preprocess", *given) if output == "ours" else run_python("-m", "beam_preprocess", *given)
        assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    ours, theirs = (sorted((tmp_path / name).iterdir()) for name in ("ours", "theirs"))
    assert [file.name for file in ours] == [file.name for file in theirs]
    assert [file.read_bytes() for file in ours] == [file.read_bytes() for file in theirs]
    shown = sostenuto("inspect", str(tmp_path / "ours"))
    assert shown.returncode == 0
    assert shown.stdout == run_python("-m", "sostenuto.inspect", str(tmp_path / "ours")).stdout


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_commands_are_listed_with_examples(arguments):
    process = sostenuto(*arguments)
    assert (process.returncode, process.stderr) == (0, "")
    for name, entry in COMMANDS.items():
        assert f"\n  {name:28}{entry.summary.split()[0]} " in process.stdout
    assert "\n  sostenuto train --data=dataset --workdir=run\n" in process.stdout
    assert max(map(len, process.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian", "--data=x"], "trian: unknown command. Did you mean train?"),
        (["trainer"], "trainer: unknown command. Did you mean train?"),
        (["zzz"], "zzz: unknown command. Expected one of preprocess, train, evaluate, "),
        (["--quiet", "train"], "no command is given. See --help"),
        (["completion"], "completion: expected bash or zsh, got ''"),
        (["completion", "fish"], "completion: expected bash or zsh, got 'fish'"),
    ],
)
def test_an_unknown_command_is_one_line(arguments, line):
    process = sostenuto(*arguments)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith(f"sostenuto: {line}")
    assert process.stderr.count("\n") == 1


def test_help_of_a_command_is_its_help():
    assert sostenuto("help", "train").stdout == sostenuto("train", "--help").stdout != ""
    process = sostenuto("help", "trian")
    assert (process.returncode, process.stdout) == (2, "")
    assert "trian: unknown command. Did you mean train?" in process.stderr


def test_version():
    process = sostenuto("--version")
    assert process.returncode == 0
    assert re.fullmatch(r"sostenuto \d+\.\d+\.\d+\S*\n", process.stdout)


def test_the_list_of_commands_imports_none_of_them():
    program = SCRIPT.replace("sys.exit(main())", "\ntry: main()\nexcept SystemExit: print(*sys.modules)")
    modules = set(run_python("-c", program).stdout.splitlines()[-1].split())
    assert not modules & {"beam_preprocess", "trainer", "tuning", "play", "sostenuto.inspect", "numpy", "demo"}
