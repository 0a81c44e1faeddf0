"""Writes docs/api.md, and the list of modules in docs/architecture.md, from docstrings: `make api`.

The source is parsed and not imported, so that neither TensorFlow nor Beam is needed.
"""

import ast
import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import docstring_parser
from docstring_parser.google import GoogleParser

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "api.md"
ARCHITECTURE: Final = ROOT / "docs" / "architecture.md"

PACKAGES: Final = ("sostenuto", "beam_preprocess", "trainer", "tuning", "play")

INTRODUCTION: Final = """\
# API

<!-- Written by `make api` from the docstrings: change those, not this page. -->

Import these names from their package: `from sostenuto import Notes`. Every other name is internal and may change.
[tour.ipynb](tour.ipynb) uses the main ones; [architecture.md](architecture.md#terms) defines the terms.

Arrays are given by their shape, such as `[batch, notes]`. Times are integer microseconds if a name ends in `_us`,
otherwise seconds, or ticks of 10 ms where stated. A file, flag or config that a user has to correct raises
`sostenuto.UserError` with a one-line remedy. Where an entry says so, a caller's mistake raises `ValueError` or
`TypeError`.

`trainer` needs the extra `train`, which brings TensorFlow; `tuning` needs `tune`, `beam_preprocess` needs `beam`. In
`sostenuto`, pictures need `inspect` and sound needs `train`.
"""

Function: TypeAlias = ast.FunctionDef
Documented: TypeAlias = ast.FunctionDef | ast.ClassDef

_OPERATORS: Final = ("__len__", "__getitem__", "__add__", "__iter__", "__call__")
_KINDS_OF_METHOD: Final = ("property", "classmethod", "staticmethod")
_SECTIONS: Final = {"Args": "param", "Attributes": "attribute"}  # and what docstring_parser calls their items


@dataclass(frozen=True)
class Constant:
    """A constant of a module, with the string below it."""

    name: str
    doc: str


@dataclass(frozen=True)
class Module:
    """The source of a module and its exported names, in the order of the source."""

    name: str
    source: str
    constants: list[Constant]
    members: list[Documented]


def exports(package: str) -> dict[str, list[str]]:
    """Reads the public names of a package, by the module that defines them."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    by_name: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_EXPORTS":
            by_name = ast.literal_eval(node.value)
    modules: dict[str, list[str]] = {}
    for name, module in by_name.items():
        modules.setdefault(module, []).append(name)
    return modules


def read_module(name: str, exported: Sequence[str]) -> Module:
    """Parses a module that defines exported names.

    Raises:
        ValueError: an exported name is missing.
    """
    path = ROOT / name.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    members = [node for node in tree.body if isinstance(node, Documented) and node.name in exported]
    constants = [constant for constant in _constants(tree.body) if constant.name in exported]
    missing = {*exported} - {member.name for member in members} - {constant.name for constant in constants}
    if missing:
        raise ValueError(f"{name} has no {', '.join(sorted(missing))}")
    return Module(name, source, constants, members)


def _constants(body: list[ast.stmt]) -> Iterator[Constant]:
    for node, after in itertools.pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        match after:
            case ast.Expr(value=ast.Constant(value=str(text))) if isinstance(target, ast.Name):
                yield Constant(target.id, inspect.cleandoc(text))


def methods(node: ast.ClassDef) -> list[Function]:
    """Lists the methods and properties of a class that are public, and the operators that it documents."""
    return [
        method
        for method in node.body
        if isinstance(method, Function) and (not method.name.startswith("_") or method.name in _OPERATORS)
    ]


def constructor(node: ast.ClassDef) -> Function | None:
    """Finds the method that makes an instance, where a class has written one."""
    return next((part for part in node.body if isinstance(part, Function) and part.name == "__init__"), None)


def fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    """Lists the public annotated names of a class: the fields of a dataclass or named tuple."""
    return [
        part
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and not part.target.id.startswith("_")
    ]


def parse(node: Documented) -> docstring_parser.Docstring:
    """Parses the Google-style docstring of a function or class."""
    return GoogleParser().parse(ast.get_docstring(node) or "")


def described(doc: docstring_parser.Docstring, section: str) -> dict[str, str]:
    """Reads a section, "Args" or "Attributes", as what it says by name."""
    return {
        item.arg_name: item.description or ""
        for item in doc.meta
        if isinstance(item, docstring_parser.DocstringParam) and item.args[0] == _SECTIONS[section]
    }


def page() -> str:
    """Returns the whole page."""
    parts = [INTRODUCTION]
    for package in PACKAGES:
        doc = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))) or ""
        modules = [read_module(name, exported) for name, exported in exports(package).items()]
        parts += [f"## {package}", doc, *(module_text(module) for module in modules)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def module_text(module: Module) -> str:
    """Returns the part of the page for the exported names of a module."""
    parts = []
    if module.constants:
        parts.append("\n".join(f"- `{constant.name}`: {_on_one_line(constant.doc)}" for constant in module.constants))
    for member in module.members:
        parts += [f"### `{member.name}`", _signature(module, member), *_text(member)]
        if isinstance(member, ast.ClassDef):
            for method in methods(member):
                parts += [f"#### `{member.name}.{method.name}`", _signature(module, method), *_text(method)]
    return "\n\n".join(parts)


def _signature(module: Module, node: Documented) -> str:
    """Shows how something is called, or what it is made of, as the source has it."""
    lines = module.source.splitlines()
    shown = [f"@{name}" for name in _decorators(node) if name in _KINDS_OF_METHOD or name.startswith("dataclass")]
    shown += _head(lines, node)
    body = _body(module, lines, node) if isinstance(node, ast.ClassDef) else []
    shown[-1] += ":" if body else ""
    shown += [f"    {line}" for line in body]
    return "```python\n" + "\n".join(shown) + "\n```"


def _body(module: Module, lines: list[str], node: ast.ClassDef) -> list[str]:
    """What an instance is made of: how it is constructed, or its fields; those of a config are a table of their own."""
    made_by = constructor(node)
    if made_by:
        return _head(lines, made_by)
    return [] if _options(node) else [ast.get_source_segment(module.source, field) or "" for field in fields(node)]


def _decorators(node: Documented) -> list[str]:
    return [ast.unparse(decorator).removeprefix("dataclasses.") for decorator in node.decorator_list]


def _head(lines: list[str], node: Documented) -> list[str]:
    """The source of a definition up to its colon."""
    source = lines[node.lineno - 1 : node.body[0].lineno - 1]
    head = inspect.cleandoc("\n".join(line for line in source if not line.lstrip().startswith("#"))).rstrip()
    return head[: head.rindex(":")].splitlines() if head.endswith(":") else head.splitlines()


def _text(node: Documented) -> list[str]:
    """A docstring as Markdown: its words, then its sections as lists."""
    doc = parse(node)
    parts = [doc.short_description or "", doc.long_description or ""]
    for section in _SECTIONS:
        parts.append(_list(section, described(doc, section).items()))
    if isinstance(node, ast.ClassDef):
        parts.append(_options(node))
    if doc.returns:
        # What stands before a colon is taken for a type; here it is a part of the sentence.
        words = [doc.returns.type_name, doc.returns.description]
        parts.append(
            f"{'Yields' if doc.returns.is_generator else 'Returns'}: {_on_one_line(': '.join(filter(None, words)))}"
        )
    parts.append(_list("Raises", ((item.type_name or "", item.description or "") for item in doc.raises)))
    return [part for part in parts if part]


def _list(title: str, items: Iterable[tuple[str, str]]) -> str:
    lines = [f"- `{name}`: {_on_one_line(text)}" for name, text in items]
    return f"{title}:\n\n" + "\n".join(lines) if lines else ""


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _options(node: ast.ClassDef) -> str:
    """The fields of a config as a table: each is made by `_field(default, help, choices)`."""
    rows = []
    for field in fields(node):
        match field.value:
            case ast.Call(func=ast.Name(id="_field"), args=[default, ast.Constant(value=str(text)), *_]):
                rows.append(f"| `{ast.unparse(field.target)}` | `{ast.unparse(default)}` | {text} |")
    return "\n".join(["| field | default | |", "|---|---|---|", *rows]) if rows else ""


def architecture(text: str) -> str:
    """Returns docs/architecture.md with its list of modules up to date."""
    start, end = text.index("\n", text.index("<!-- modules:")) + 1, text.index("<!-- end of modules -->")
    return text[:start] + "".join(_package_modules(package) for package in PACKAGES) + text[end:]


def _package_modules(package: str) -> str:
    """Returns the modules of a package, a line each, in folders."""
    lines = []
    for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
        lines += ["", f"**{folder.relative_to(ROOT)}**", ""]
        for path in sorted(folder.glob("*.py")):
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if doc:
                lines.append(f"- `{path.name}`: {_on_one_line(doc.partition(chr(10) * 2)[0])}")
    return "\n".join([*lines[1:], "", ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    ARCHITECTURE.write_text(architecture(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} and {ARCHITECTURE.relative_to(ROOT)} are written")
