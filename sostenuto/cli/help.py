"""Text of `--help`: usage, examples, and the flags in groups, in lines of at most 100 characters."""

import dataclasses
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from absl import flags

from sostenuto.cli.flag_types import Path, Paths, group_titles
from sostenuto.cli.suggestions import value_kind

WIDTH = 100
_COLUMN = 30  # where the explanations begin
_NO_BREAK = "\N{NO-BREAK SPACE}"

REQUIRED = "required"
COMMON = "output, logging and buckets"


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag, for `--help` and completion.

    `kind` is the placeholder of its value, "" if it is true or false; `default` is None if the text states it.
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
    """A command, for `--help`: its usage and purpose, examples and required flags without the command's name."""

    usage: str
    examples: Sequence[str] = ()
    required: Sequence[str] = ()
    sections: Mapping[str, Iterable[tuple[str, str]]] = dataclasses.field(default_factory=dict)


def describe_flags(required: Sequence[str]) -> list[Flag]:
    """Returns this command's flags, group by group: the required ones first, those of all commands last."""
    titles = group_titles()
    described = [
        _describe(flags.FLAGS[name], REQUIRED if name in required else titles[name])
        for name in flags.FLAGS
        if name not in ("flagfile", "undefok")
    ]
    order = [REQUIRED, *dict.fromkeys(flag.group for flag in described if flag.group not in (REQUIRED, COMMON)), COMMON]
    return sorted(described, key=lambda flag: order.index(flag.group))


def to_json(described: Iterable[Flag]) -> str:
    """Returns the flags as a JSON list, for programs that complete or check command lines."""
    return json.dumps([dataclasses.asdict(flag) for flag in described])


def from_json(text: str) -> list[Flag]:
    """Returns the flags that `to_json` wrote."""
    return [Flag(**{**entry, "choices": tuple(entry["choices"])}) for entry in json.loads(text)]


def format_help(command: Command, invocation: str) -> str:
    """Returns the whole text of `--help`; `invocation` is how a shell starts the command."""
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
        parts.append(f"{title}:\n{_two_columns(rows)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _two_columns(rows: Iterable[tuple[str, str]]) -> str:
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
    """Returns the lines of a text, without breaks at hyphens."""
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_NO_BREAK, " ") for line in lines]


def _example(line: str) -> list[str]:
    """Returns the lines of an example, a long one continued by backslashes."""
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
        kind="" if flag.boolean else value_kind(flag),
        choices=tuple(flag.parser.enum_values) if isinstance(flag.parser, flags.EnumParser) else (),
        is_path=isinstance(flag.parser, Path | Paths),
        group=group,
        # absl puts the values of an enum before its explanation, and a remark behind that of a repeated flag.
        text=re.sub(r"^<[^>]*>: |;\s+repeat this option .*$", "", flag.help),
        default=None if default in (None, "") else str(default),
    )


def _form(flag: Flag) -> str:
    return f"--[no]{flag.name}" if flag.is_boolean else f"--{flag.name}={flag.kind}"


def _explanation(flag: Flag) -> str:
    return flag.text if flag.default is None else f"{flag.text} (default: {flag.default})"
