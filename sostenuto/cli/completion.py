"""Completion of the command `sostenuto` by bash and zsh: a script that holds all commands, flags and values."""

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping

from sostenuto.cli.help import Flag, from_json

SHELLS = ("bash", "zsh")

_PLAIN_FLAGS = ("help", "version")  # those of every command that absl does not define


def completion_script(shell: str, modules: Mapping[str, str]) -> str:
    """Returns the script for a shell.

    Args:
        shell: one of `SHELLS`.
        modules: the module of each command, by the command's name.
    """
    commands = dict(zip(modules, _flags_of(modules.values()), strict=True))
    return "\n".join(_bash(commands) if shell == "bash" else _zsh(commands))


def _flags_of(modules: Iterable[str]) -> Iterator[list[Flag]]:
    """Yields the flags of commands, each of which runs in a process of its own, all at once."""
    command = [sys.executable, "-m"]
    processes = [
        subprocess.Popen(
            [*command, module, "--help_json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for module in modules
    ]
    for process in processes:
        output, _ = process.communicate()
        yield from_json(output) if process.returncode == 0 else []


def _bash(commands: Mapping[str, list[Flag]]) -> Iterator[str]:
    """Yields the lines of the script for bash; it needs no package of completions."""
    yield "# bash completion of sostenuto, written by `sostenuto completion bash`"
    yield "_sostenuto() {"
    yield '    local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} flag="" flags="" values=""'
    yield "    COMPREPLY=()"
    yield "    # Bash splits --flag=value into three words, unless = was removed from COMP_WORDBREAKS."
    yield "    if [[ $current == --*=* ]]; then flag=${current%%=*} current=${current#*=}"
    yield '    elif [[ $current == "=" ]]; then flag=${COMP_WORDS[COMP_CWORD - 1]} current=""'
    yield '    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == "=" ]]; then flag=${COMP_WORDS[COMP_CWORD - 2]}'
    yield "    fi"
    yield "    if ((COMP_CWORD == 1)); then"
    yield f"        COMPREPLY=($(compgen -W '{_first_words(commands)}' -- \"$current\"))"
    yield "        return"
    yield "    fi"
    yield '    case "$command$flag" in'
    for name, flags in commands.items():
        forms = [form for flag in flags for form in _forms(flag)] + [f"--{plain}" for plain in _PLAIN_FLAGS]
        yield f"    {name}) flags='{' '.join(forms)}' ;;"
        for flag in flags:
            if flag.choices:
                yield f"    {name}--{flag.name}) values='{' '.join(flag.choices)}' ;;"
            elif flag.is_path:
                yield f"    {name}--{flag.name}) values=PATH ;;"
    yield f"    completion) flags='{' '.join(SHELLS)}' ;;"
    yield "    esac"
    yield "    if [[ $values == PATH || (-z $flag && $current != -* && $command != completion) ]]; then"
    yield "        compopt -o filenames"
    yield '        mapfile -t COMPREPLY < <(compgen -f -- "$current")'
    yield '    elif [[ -n $flag ]]; then COMPREPLY=($(compgen -W "$values" -- "$current"))'
    yield "    else"
    yield '        COMPREPLY=($(compgen -W "$flags" -- "$current"))'
    yield "        if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi"
    yield "    fi"
    yield "}"
    yield "complete -F _sostenuto sostenuto"


def _first_words(commands: Iterable[str]) -> str:
    return " ".join([*commands, "completion", "--help", "--version"])


def _forms(flag: Flag) -> list[str]:
    """Returns the forms in which a flag is typed, up to its value."""
    return [f"--{flag.name}", f"--no{flag.name}"] if flag.is_boolean else [f"--{flag.name}="]


def _zsh(commands: Mapping[str, list[Flag]]) -> Iterator[str]:
    """Yields the lines of the script for zsh, which may be a file of `fpath`, or be read after `compinit`."""
    yield "#compdef sostenuto"
    yield "# zsh completion of sostenuto, written by `sostenuto completion zsh`"
    yield "_sostenuto() {"
    yield "    if ((CURRENT == 2)); then"
    yield f"        compadd -- {_first_words(commands)}"
    yield "        return"
    yield "    fi"
    yield "    shift words"
    yield "    ((CURRENT--))"
    yield "    case $words[1] in"
    for name, flags in commands.items():
        yield f"    {name})"
        yield "        _arguments \\"
        for flag in flags:
            yield from (f"            {spec} \\" for spec in _zsh_specs(flag))
        yield from (f"            --{plain} \\" for plain in _PLAIN_FLAGS)
        yield "            '*: :_files' ;;"
    yield f"    completion) compadd -- {' '.join(SHELLS)} ;;"
    yield "    esac"
    yield "}"
    yield 'if [[ $funcstack[1] == _sostenuto ]]; then _sostenuto "$@"; else compdef _sostenuto sostenuto; fi'


def _zsh_specs(flag: Flag) -> Iterator[str]:
    """Yields a flag as `_arguments` takes it; each may be given again."""
    text = flag.text.split(". ")[0].rstrip(".")
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    explained = f"[{text}]".replace("'", "'\\''")
    if flag.is_boolean:
        yield f"'*--{flag.name}{explained}'"
        yield f"'*--no{flag.name}{explained}'"
        return
    action = f"({' '.join(flag.choices)})" if flag.choices else "_files" if flag.is_path else ""
    yield f"'*--{flag.name}={explained}:{flag.kind.replace(':', ' ')}:{action}'"
