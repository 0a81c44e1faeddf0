"""Completion of `sostenuto`, by a real bash and, where it is installed, a real zsh."""

import json
import shlex
import shutil
import subprocess

import pytest

from sostenuto.cli import completion
from sostenuto.cli.main import COMMANDS
from tests.processes import run_python


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The file of each shell's script."""
    directory = tmp_path_factory.mktemp("scripts")
    modules = {name: entry.module for name, entry in COMMANDS.items()}
    for shell in completion.SHELLS:
        (directory / shell).write_text(completion.completion_script(shell, modules))
    return directory


@pytest.fixture
def bash(scripts, tmp_path):
    """Returns a function that completes the last of some words, in a directory with a few files."""
    (tmp_path / "run one").mkdir()
    (tmp_path / "rondo.mid").touch()

    def complete(*words: str) -> list[str]:
        # compopt works only while Readline completes.
        program = f"""
            source {shlex.quote(str(scripts / "bash"))}
            compopt() {{ :; }}
            COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
            _sostenuto
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        process = subprocess.run(
            ["bash", "--norc", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert process.stderr == ""
        return [line for line in process.stdout.splitlines() if line]

    return complete


def test_the_command_prints_the_scripts(scripts):
    for shell in completion.SHELLS:
        program = "import sys; from sostenuto.cli.main import main; main()"
        process = run_python("-c", program, "completion", shell)
        assert process.returncode == 0
        assert process.stdout == (scripts / shell).read_text() + "\n"


def test_bash_completes_commands(bash):
    assert bash("sostenuto", "tr") == ["train"]
    assert bash("sostenuto", "") == [*COMMANDS, "completion", "--help", "--version"]
    assert bash("sostenuto", "completion", "z") == ["zsh"]


@pytest.mark.parametrize("name", COMMANDS)
def test_bash_completes_every_flag_of_a_command(bash, name):
    described = json.loads(run_python("-m", COMMANDS[name].module, "--help_json", check=True).stdout)
    forms = {f"--{flag['name']}{'=' if flag['kind'] else ''}" for flag in described}
    forms |= {f"--no{flag['name']}" for flag in described if not flag["kind"]}
    assert set(bash("sostenuto", name, "--")) == forms | {"--help", "--version"}


def test_bash_completes_the_start_of_a_flag(bash):
    assert bash("sostenuto", "train", "--data=x", "--pre") == ["--preset=", "--precision="]
    assert bash("sostenuto", "train", "--noq") == ["--noquiet"]
    assert bash("sostenuto", "report", "--preset") == []


@pytest.mark.parametrize(
    "words", [["--preset", "=", "la"], ["--preset=la"], ["--data", "=", "x", "--preset", "=", "la"]], ids=" ".join
)
def test_bash_completes_values(bash, words):
    """Bash splits words at `=` unless a user took it out of COMP_WORDBREAKS."""
    assert bash("sostenuto", "train", *words) == ["large"]


def test_bash_completes_all_values(bash):
    assert bash("sostenuto", "tune", "--tuner", "=") == ["random", "bayesian", "hyperband"]
    assert bash("sostenuto", "train", "--units", "=") == []


def test_bash_completes_files(bash):
    assert bash("sostenuto", "inspect", "ro") == ["rondo.mid"]
    assert sorted(bash("sostenuto", "train", "--data", "=", "r")) == ["rondo.mid", "run one"]


# A zsh in a pseudo-terminal of zsh's own. After Tab, Ctrl-T writes the line that is being edited into a file.
ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "autoload -Uz compinit; compinit -u -D; source SCRIPT; bindkey '^I' complete-word"
zpty -w shell 'report() { print -r -- $BUFFER >line.tmp; mv line.tmp line }; zle -N report; bindkey "^T" report'
zpty -w shell ': >ready'
while [[ ! -e ready ]]; do sleep 0.05; done
zpty -w -n shell $'sostenuto LINE\t\x14'
while [[ ! -e line ]]; do sleep 0.05; done
zpty -d shell
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("trai", "train"),
        ("train --precis", "train --precision="),
        ("train --preset=la", "train --preset=large"),
        ("tune --tuner=hy", "tune --tuner=hyperband"),
        ("inspect rond", "inspect rondo.mid"),
        ("train --data=rond", "train --data=rondo.mid"),
        ("completion z", "completion zsh"),
    ],
)
def test_zsh_completes(scripts, tmp_path, line, completed):
    (tmp_path / "rondo.mid").touch()
    program = ZSH.replace("SCRIPT", shlex.quote(str(scripts / "zsh"))).replace("LINE", line)
    subprocess.run(["zsh", "-fc", program], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert (tmp_path / "line").read_text().rstrip() == f"sostenuto {completed}"
