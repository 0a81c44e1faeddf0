"""Completion of the command `sostenuto` by bash and zsh: a script that holds all commands, flags and values."""

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sostenuto.cli.help import Flag, from_json

SHELLS = ("bash", "zsh")

_TEMPLATES = Path(__file__).parent / "templates"
_PLAIN_FLAGS = ("--help", "--version")  # of every command, although absl does not define them


def completion_script(shell: str, modules: Mapping[str, str]) -> str:
    """Returns the script for a shell, for commands by name with their modules."""
    commands = dict(zip(modules, _load_flags(modules.values()), strict=True))
    template = (_TEMPLATES / f"completion.{shell}").read_text(encoding="utf-8").rstrip()
    cases = _bash_cases(commands) if shell == "bash" else _zsh_cases(commands)
    words = " ".join([*commands, "completion", *_PLAIN_FLAGS])
    return template.replace("@WORDS@", words).replace("@CASES@", "\n".join(cases))


def _load_flags(modules: Iterable[str]) -> Iterator[list[Flag]]:
    """Yields the flags of commands, which run in parallel processes."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, "--help_json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for module in modules
    ]
    for process in processes:
        output, _ = process.communicate()
        yield from_json(output) if process.returncode == 0 else []


def _bash_cases(commands: Mapping[str, list[Flag]]) -> Iterator[str]:
    """Yields a case for each command and for each flag with known values."""
    for name, flags in commands.items():
        forms = [form if flag.is_boolean else f"{form}=" for flag in flags for form in _forms(flag)]
        yield f"    {name}) flags='{' '.join([*forms, *_PLAIN_FLAGS])}' ;;"
        for flag in flags:
            if flag.choices or flag.is_path:
                yield f"    {name}--{flag.name}) values={repr(' '.join(flag.choices)) if flag.choices else 'PATH'} ;;"
    yield f"    completion) flags='{' '.join(SHELLS)}' ;;"


def _zsh_cases(commands: Mapping[str, list[Flag]]) -> Iterator[str]:
    """Yields the lines of a case for each command."""
    for name, flags in commands.items():
        specs = [*(spec for flag in flags for spec in _zsh_specs(flag)), *_PLAIN_FLAGS, "'*: :_files' ;;"]
        yield f"    {name})"
        yield " \\\n            ".join(["        _arguments", *specs])
    yield f"    completion) compadd -- {' '.join(SHELLS)} ;;"


def _zsh_specs(flag: Flag) -> list[str]:
    """Returns the forms of a flag for `_arguments`; each may be repeated."""
    text = flag.text.split(". ")[0].rstrip(".")
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    text = f"[{text}]".replace("'", "'\\''")
    action = f"({' '.join(flag.choices)})" if flag.choices else "_files" if flag.is_path else ""
    value = "" if flag.is_boolean else f":{flag.kind.replace(':', ' ')}:{action}"
    return [f"'*{form}{'' if flag.is_boolean else '='}{text}{value}'" for form in _forms(flag)]


def _forms(flag: Flag) -> list[str]:
    return [f"--{flag.name}", f"--no{flag.name}"] if flag.is_boolean else [f"--{flag.name}"]
