"""Text of `--help`: usage, examples, and the flags in groups, in lines of at most 100 characters."""

import dataclasses
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from absl import flags

from sostenuto.cli import flag_types, suggestions

WIDTH = 100
_COLUMN = 30  # where the explanations begin
_NO_BREAK = "\N{NO-BREAK SPACE}"

REQUIRED = "required"
COMMON = "output and logging"


@dataclasses.dataclass(frozen=True)
class Flag:
    """What `--help` and completion know of a flag.

    Attributes:
        name: without dashes.
        kind: stands for the value, such as "DIR"; "" for a flag that is true or false.
        choices: the values that it accepts; empty where they are not listed.
        is_path: the value is a path, or paths separated by commas.
        group: the title of its group.
        text: the explanation.
        default: as it would be typed; None where the explanation gives it.
    """

    name: str
    kind: str
    choices: tuple[str, ...]
    is_path: bool
    group: str
    text: str
    default: str | None

    @property
    def is_boolean(self) -> bool:
        """True if the flag takes no value and has a form that begins with `no`."""
        return not self.kind


@dataclasses.dataclass(frozen=True)
class Command:
    """What `--help` shows of a command, apart from its flags.

    Attributes:
        usage: the flags and operands of a call on one line, then what the command does.
        examples: command lines without the name of the command.
        required: the names of the flags that must be given.
        sections: further tables by their title, each of rows of a term and its explanation.
    """

    usage: str
    examples: Sequence[str] = ()
    required: Sequence[str] = ()
    sections: Mapping[str, Iterable[tuple[str, str]]] = dataclasses.field(default_factory=dict)


def describe_flags(required: Sequence[str]) -> list[Flag]:
    """Returns this command's flags, group by group: the required ones first, those of all commands last."""
    titles = flag_types.groups()
    found = [
        _describe(flags.FLAGS[name], REQUIRED if name in required else titles[name])
        for name in flags.FLAGS
        if name not in ("flagfile", "undefok")
    ]
    order = [REQUIRED, *dict.fromkeys(flag.group for flag in found if flag.group not in (REQUIRED, COMMON)), COMMON]
    return sorted(found, key=lambda flag: order.index(flag.group))


def as_json(described: Iterable[Flag]) -> str:
    """Returns the flags as a JSON list, for programs that complete or check command lines."""
    return json.dumps([dataclasses.asdict(flag) for flag in described])


def from_json(text: str) -> list[Flag]:
    """Returns the flags that `as_json` wrote."""
    return [Flag(**{**entry, "choices": tuple(entry["choices"])}) for entry in json.loads(text)]


def text(command: Command, invocation: str) -> str:
    """Returns the whole text of `--help`.

    Args:
        command: the command.
        invocation: the words that start it in a shell.
    """
    synopsis, _, description = command.usage.strip().partition("\n")
    # A pair of brackets stays on one line.
    unbroken = re.sub(r"\[[^]]*\]", lambda match: match[0].replace(" ", _NO_BREAK), synopsis)
    parts = [("\n" + " " * 7).join(_wrap(f"usage: {invocation} {unbroken}", WIDTH - 7))]
    parts += ["\n".join(_wrap(paragraph, WIDTH)) for paragraph in description.strip().split("\n\n")]
    if command.examples:
        lines = [line for example in command.examples for line in _example(f"{invocation} {example}")]
        parts.append("\n".join(["examples:", *lines]))
    tables: dict[str, list[tuple[str, str]]] = {}
    for flag in describe_flags(command.required):
        tables.setdefault(flag.group, []).append((_form(flag), _explanation(flag)))
    common = [
        *tables.pop(COMMON),
        ("--version", "Print the version."),
        ("--help", "Print this text."),
        ("--help_json", "Print the flags as a JSON list."),
    ]
    for title, rows in {**tables, **command.sections, COMMON: common}.items():
        parts.append(f"{title}:\n{table(rows)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Returns terms and their explanations in two columns; a long term has a line of its own."""
    lines = []
    for term, explanation in rows:
        # A short default stays on one line.
        unbroken = re.sub(r"\([^()]{,40}\)$", lambda match: match[0].replace(" ", _NO_BREAK), explanation)
        wrapped = _wrap(unbroken, WIDTH - _COLUMN)
        if len(term) + 4 > _COLUMN:
            lines += [f"  {term}"]
        else:
            lines += [f"  {term}".ljust(_COLUMN) + wrapped.pop(0)]
        lines += [" " * _COLUMN + line for line in wrapped]
    return "\n".join(lines)


def _wrap(text: str, width: int) -> list[str]:
    """Returns the lines of a text, in which words that contain hyphens or slashes stay whole."""
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_NO_BREAK, " ") for line in lines]


def _example(line: str) -> list[str]:
    """Returns a command line, continued on further ones where it is too long."""
    wrapped = _wrap(line, WIDTH - 8)
    return [
        ("      " if number else "  ") + part + (" \\" if number < len(wrapped) - 1 else "")
        for number, part in enumerate(wrapped)
    ]


def _describe(flag: flags.Flag, group: str) -> Flag:
    default = flag.default
    if isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, list):
        default = ",".join(default)
    elif isinstance(default, float):
        default = f"{default:g}"
    return Flag(
        name=flag.name,
        kind="" if flag.boolean else suggestions.kind(flag),
        choices=tuple(flag.parser.enum_values) if isinstance(flag.parser, flags.EnumParser) else (),
        is_path=isinstance(flag.parser, flag_types.Path | flag_types.Paths),
        group=group,
        # absl puts the values of an enum before its explanation, and a remark behind that of a repeated flag.
        text=re.sub(r"^<[^>]*>: |;\s+repeat this option .*$", "", flag.help),
        default=None if default in (None, "") else str(default),
    )


def _form(flag: Flag) -> str:
    return f"--[no]{flag.name}" if flag.is_boolean else f"--{flag.name}={flag.kind}"


def _explanation(flag: Flag) -> str:
    return flag.text if flag.default is None else f"{flag.text} (default: {flag.default})"
