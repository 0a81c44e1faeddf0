"""`--help` of every command, its speed, and `--version`."""

import json
import re
import resource
import shlex

import pytest

from sostenuto.cli.main import COMMANDS
from tests.processes import run_python

MODULES = [entry.module for entry in COMMANDS.values()] + ["demo.chorales", "demo.maestro"]
REQUIRED = {
    "beam_preprocess": ["input", "output"],
    "trainer": ["data", "workdir"],
    "trainer.generate": ["workdir", "output"],
    "tuning": ["data", "workdir"],
}
HEAVY = {"tensorflow", "keras", "apache_beam", "matplotlib", "music21"}

# Runs a module as `python -m` does, and prints what it imported behind its own output.
IMPORTS = """
import runpy, sys
sys.argv = ["program", "--help"]
try: runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
except SystemExit as ended: print(ended.code, *sys.modules)
"""


@pytest.fixture(scope="module", params=MODULES)
def module(request):
    return request.param


@pytest.fixture(scope="module")
def text(module):
    process = run_python("-m", module, "--help")
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


@pytest.fixture(scope="module")
def described(module):
    return json.loads(run_python("-m", module, "--help_json", check=True).stdout)


def sections(text: str) -> dict[str, list[str]]:
    """Returns the lines of each section by its title."""
    found: dict[str, list[str]] = {}
    for block in text.split("\n\n"):
        title, _, body = block.partition("\n")
        if re.fullmatch(r"[a-z][\w ,*()]*:", title):
            found[title.removesuffix(":")] = body.splitlines()
    return found


def test_the_lines_are_short(text):
    assert max(map(len, text.splitlines())) <= 100
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_usage_comes_first_then_examples_then_what_is_required(module, text, described):
    assert text.startswith(f"usage: python -m {module}")
    titles = list(sections(text))
    required = [flag["name"] for flag in described if flag["group"] == "required"]
    assert titles[0] == "examples"
    assert titles[1] == "required" if required else "required" not in titles
    assert titles[-1] == "output, logging and buckets"
    assert required == REQUIRED.get(module, required)


def test_each_flag_is_shown_once_in_a_group_with_its_kind_and_default(text, described):
    shown = sections(text)
    assert "other" not in shown  # a flag whose module begins no group
    for flag in described:
        form = f"--[no]{flag['name']}" if not flag["kind"] else f"--{flag['name']}={flag['kind']}"
        (line,) = [line for line in text.splitlines() if re.match(rf"  {re.escape(form)}( |$)", line)]
        assert line in shown[flag["group"]]
        assert flag["kind"] != "TEXT"
        stated = flag["default"] is not None or "default:" in flag["text"] or flag["group"] == "required"
        assert stated or flag["name"] == "config"
        assert re.match(r"[A-Z]|train_steps", flag["text"])


def test_the_examples_are_calls_of_the_command(module, text, described):
    joined = "\n".join(sections(text)["examples"]).replace("\\\n", " ")
    calls = [shlex.split(line) for line in joined.splitlines()]
    known = {flag["name"] for flag in described}
    for call in calls:
        assert call[:3] == ["python", "-m", module]
        own = call[3 : call.index("--") if "--" in call else None]
        given = {argument[2:].partition("=")[0] for argument in own if argument.startswith("--")}
        assert given <= known
        assert {flag["name"] for flag in described if flag["group"] == "required"} <= given
        # absl parses all values before it rejects an unknown flag.
        process = run_python("-m", module, *own, "--versio")
        assert process.stderr == f"{module}: --versio: unknown flag. Did you mean --version?\n"


def test_help_imports_nothing_heavy(module):
    status, *modules = run_python("-c", IMPORTS.format(module=module)).stdout.splitlines()[-1].split()
    assert status == "0"
    assert not HEAVY & set(modules)


def test_help_takes_less_than_a_second_more_than_python_itself(module):
    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_python(*arguments, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = seconds("-c", "pass")
    assert min(seconds("-m", module, "--help") for _ in range(2)) < bare + 1


def test_each_command_has_a_version(module):
    process = run_python("-m", module, "--version")
    assert process.returncode == 0
    assert re.fullmatch(r"sostenuto \d+\.\d+\.\d+\S*\n", process.stdout)
