"""docs/api.md and the docstrings that it is made of."""

import ast
import re
import runpy
from types import SimpleNamespace

import pytest

from tests.processes import REPOSITORY, run_python

api = SimpleNamespace(**runpy.run_path(str(REPOSITORY / "docs" / "api.py")))

ARRAY = re.compile(r"\b(ndarray|NDArray|tf\.Tensor|Ints|Floats|NoteTensors)\b")
SHAPE = re.compile(r"`\[[^`]*\]`|\bscalar\b|\b(?:any|one|same) shape\b")

MEMBERS = [
    pytest.param(member, id=f"{package}.{member.name}")
    for package in api.PACKAGES
    for name, exported in api.exports(package).items()
    for member in api.read_module(name, exported).members
]


def functions(member: ast.FunctionDef | ast.ClassDef) -> list[ast.FunctionDef]:
    """A function alone, or the public methods of a class."""
    return [member] if isinstance(member, ast.FunctionDef) else api.methods(member)


def parameters(function: ast.FunctionDef) -> dict[str, str]:
    """What a caller gives, by name, with the annotation."""
    taken = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return {
        argument.arg: ast.unparse(argument.annotation) if argument.annotation else ""
        for argument in taken
        if argument.arg not in ("self", "cls")
    }


def words(node: ast.FunctionDef | ast.ClassDef) -> str:
    return ast.get_docstring(node) or ""


def is_inherited(function: ast.FunctionDef) -> bool:
    return bool(re.match(r"See `\w+`", words(function)))


def faults(member: ast.FunctionDef | ast.ClassDef) -> list[str]:
    found = []
    for node in {member, *functions(member)}:
        if not words(node):
            found.append(f"{node.name} has no docstring")
    for function in functions(member):
        if is_inherited(function):
            continue
        given, told = parameters(function), api.described(api.parse(function), "Args")
        if told and list(told) != list(given):
            found.append(f"{function.name} takes {list(given)}, its docstring describes {list(told)}")
        for name, annotation in given.items():
            # One sentence may describe all: "The probabilities `[..., bins]` from outputs `[..., size]`."
            described = told.get(name, "") if told else words(function).partition(name)[2]
            if ARRAY.search(annotation) and not SHAPE.search(described):
                found.append(f"{function.name}: {name} has no shape")
        if function.returns and ARRAY.search(ast.unparse(function.returns)) and not SHAPE.search(words(function)):
            found.append(f"{function.name}: what it returns has no shape")
    if isinstance(member, ast.ClassDef):
        made_by = api.constructor(member)
        told = api.described(api.parse(member), "Args")
        if made_by and told and list(told) != list(parameters(made_by)):
            found.append(f"{member.name} is made of {list(parameters(made_by))}, its docstring describes {list(told)}")
        told = api.described(api.parse(member), "Attributes")
        for field in api.fields(member):
            name = ast.unparse(field.target)
            # A sentence above the attributes may describe each of them.
            described = words(member).partition("Attributes:")[0] + told.get(name, "")
            if ARRAY.search(ast.unparse(field.annotation)) and not SHAPE.search(described):
                found.append(f"{member.name}.{name} has no shape")
    return found


@pytest.mark.parametrize("member", MEMBERS)
def test_a_docstring_describes_every_argument_and_the_shape_of_arrays(member):
    assert faults(member) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f(x): pass", "f has no docstring"),
        (
            'def f(x, y):\n  """Adds.\n\n  Args:\n    x: one.\n  """',
            "f takes ['x', 'y'], its docstring describes ['x']",
        ),
        ('def f(x: np.ndarray):\n  """Adds.\n\n  Args:\n    x: seconds.\n  """', "f: x has no shape"),
        ('def f() -> tf.Tensor:\n  """Adds."""', "f: what it returns has no shape"),
        ('class C(NamedTuple):\n  """Two.\n\n  Attributes:\n    x: one.\n  """\n  x: NDArray', "C.x has no shape"),
    ],
)
def test_a_docstring_that_leaves_something_out_is_found(source, fault):
    (member,) = ast.parse(source).body
    assert faults(member) == [fault]


def test_the_page_says_what_the_docstrings_say():
    written = api.PAGE.read_text(encoding="utf-8")
    assert written == api.page(), "docs/api.md is older than the docstrings: run make api"


def test_the_architecture_lists_all_modules_as_their_docstrings_do():
    written = api.ARCHITECTURE.read_text(encoding="utf-8")
    assert written == api.architecture(written), "docs/architecture.md is older than the docstrings: run make api"
    assert "`lstm_cpu.py`" in written


def test_the_page_has_every_sentence_of_a_docstring():
    source = '''
def f(x: np.ndarray, *, y: int = 3) -> Iterator[int]:
    """Adds: slowly.

    As in Knuth (1968, The Art).

    Args:
        x: `[n]`, seconds: of
            any origin.
        y: how often.

    Yields:
        int `[n]`: what comes out.

    Raises:
        ValueError: x is empty.
    """
'''
    (function,) = ast.parse(source).body
    module = api.Module("m", source, [api.Constant("LIMIT", "Of seconds.")], [function])
    text = api.module_text(module)
    for part in [
        "- `LIMIT`: Of seconds.",
        "### `f`\n\n```python\ndef f(x: np.ndarray, *, y: int = 3) -> Iterator[int]\n```\n\nAdds: slowly.",
        "As in Knuth (1968, The Art).",
        "Args:\n\n- `x`: `[n]`, seconds: of any origin.\n- `y`: how often.",
        "Yields: int `[n]`: what comes out.",
        "Raises:\n\n- `ValueError`: x is empty.",
    ]:
        assert part in text


@pytest.mark.parametrize("package", api.PACKAGES)
def test_every_exported_name_can_be_imported_from_its_package(package):
    names = [name for exported in api.exports(package).values() for name in exported]
    program = f"import {package}\nfor name in {names}: getattr({package}, name)\nprint(sorted({package}.__all__))"
    process = run_python("-c", program, check=True)
    assert process.stdout.splitlines()[-1] == str(sorted(names))


@pytest.mark.parametrize("package", api.PACKAGES)
def test_importing_a_package_imports_none_of_its_modules(package):
    program = f"import sys, {package}; print([name for name in sys.modules if name.startswith('{package}.')])"
    process = run_python("-c", program, check=True)
    # With the standard library alone they prepare for Ctrl-C and for the import of TensorFlow.
    prepared = {"sostenuto.interrupt", "sostenuto.program", "trainer.startup"}
    assert set(ast.literal_eval(process.stdout)) <= {"sostenuto._exports", *prepared}
