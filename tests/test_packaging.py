"""Wheel and source distribution: what they contain, what they declare, and commands that run from what is installed."""

import email.message
import email.parser
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import sostenuto
from sostenuto.cli import main
from sostenuto.extras import EXTRAS
from tests import bare_site
from tests.checkout import copy_tracked, tracked_files
from tests.factories import melody, write_dataset, write_run

PACKAGES = sorted(EXTRAS)
COMMANDS = sorted(entry.module for entry in main.COMMANDS.values())

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tracked(tmp_path_factory.mktemp("packaging") / "tree")


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    return build(tree, "sdist")


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    return build(tree, "wheel")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    (name,) = (name for name in contents(wheel) if name.endswith(".dist-info/METADATA"))
    return email.parser.Parser().parsestr(contents(wheel)[name].decode())


@pytest.fixture(scope="module")
def bare(wheel: Path, metadata: email.message.Message, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and what it requires without extras."""
    python, site = environment(tmp_path_factory.mktemp("bare"), wheel)
    required = [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text]
    assert not {"apache-beam", "matplotlib", "tensorflow"} & set(bare_site.link(required, site))
    return python


def build(tree: Path, kind: str) -> Path:
    """Builds a distribution from a source tree with the installed setuptools; returns its file."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", f"--outdir={tree / 'dist' / kind}"]
    subprocess.run([*command, str(tree)], check=True, capture_output=True, timeout=120)
    (file,) = (tree / "dist" / kind).iterdir()
    return file


def contents(wheel: Path) -> Files:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def environment(directory: Path, wheel: Path) -> tuple[Path, Path]:
    """Makes a virtual environment that holds a wheel and nothing else; returns its interpreter and its packages."""
    venv.create(directory / "environment", with_pip=False, symlinks=True)
    paths = {"base": str(directory / "environment"), "platbase": str(directory / "environment")}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    return directory / "environment" / "bin" / "python", site


def run(python: Path, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs an environment's interpreter in a directory, without this environment's settings."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [python, *arguments], cwd=directory, env=variables, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_wheel_holds_the_tracked_files_of_the_packages_and_nothing_else(tree: Path, wheel: Path) -> None:
    expected = {name: (tree / name).read_bytes() for name in tracked_files() if name.partition("/")[0] in PACKAGES}
    shipped = {name: data for name, data in contents(wheel).items() if ".dist-info/" not in name}
    assert shipped.keys() == expected.keys()
    assert shipped == expected
    assert {name for name in shipped if name.endswith("/py.typed")} == {f"{package}/py.typed" for package in PACKAGES}


def test_the_source_distribution_holds_what_a_build_needs_and_the_texts(sdist: Path) -> None:
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert names >= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    assert {name.partition("/")[0] for name in names if "/" in name} == {*PACKAGES, "sostenuto.egg-info"}


def test_a_wheel_from_the_source_distribution_is_the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    assert contents(build(unpacked, "wheel")) == contents(wheel)


def test_a_build_leaves_out_what_an_earlier_one_left(tree: Path, wheel: Path, tmp_path: Path) -> None:
    """Builds in a checkout share build/lib: a module that was removed must not return from there."""
    copy = copy_tracked(tmp_path / "tree")
    (copy / "build" / "lib" / "sostenuto").mkdir(parents=True)
    (copy / "build" / "lib" / "sostenuto" / "removed.py").touch()
    assert contents(build(copy, "wheel")).keys() == contents(wheel).keys()


def test_what_an_index_shows(metadata: email.message.Message) -> None:
    assert metadata["Version"] == sostenuto.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    classifiers = metadata.get_all("Classifier")
    assert {"Typing :: Typed", "Operating System :: POSIX :: Linux"} <= set(classifiers)
    assert [name for name in ("Home-page", "Project-URL", "Author-email") if metadata[name]] == []
    description = str(metadata.get_payload())
    assert description.startswith("# Sostenuto\n")
    # Files of the repository are not on an index.
    assert re.findall(r"\]\((?!https?://)", description) == []
    assert "![" not in description


@pytest.mark.parametrize("module", COMMANDS)
def test_help_needs_no_extra(module: str, bare: Path, tmp_path: Path) -> None:
    process = run(bare, tmp_path, "-m", module, "--help")
    assert (process.returncode, process.stderr) == (0, "")
    assert f"python -m {module}" in process.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_console_command_is_what_is_declared(bare: Path, tmp_path: Path) -> None:
    program = """
import sys
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name="sostenuto")
sys.argv = ["sostenuto", "train", "--help"]
command.load()()
"""
    process = run(bare, tmp_path, "-c", program)
    assert (process.returncode, process.stderr) == (0, "")
    assert "sostenuto train" in process.stdout


@pytest.mark.parametrize(
    ("module", "arguments", "missing", "extra"),
    [
        ("beam_preprocess", ["--input=midi", "--output=out", "--split_fractions=1,0,0"], "apache_beam", "beam"),
        ("trainer", ["--data=dataset", "--workdir=out"], "tensorflow", "train"),
        ("tuning", ["--data=dataset", "--workdir=out"], "tensorflow", "tune"),
        ("play", ["--workdir=run"], "aiohttp", "play"),
        ("sostenuto.inspect", ["dataset", "--output=out"], "matplotlib", "inspect"),
        ("demo.chorales", ["--output=out"], "music21", "demo"),
    ],
)
def test_a_command_whose_extra_is_missing_names_it_on_one_line(
    module: str, arguments: list[str], missing: str, extra: str, bare: Path, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "dataset", {"train": [40], "validation": [40], "test": [40]})
    write_run(tmp_path / "run", tmp_path / "dataset")
    (tmp_path / "midi").mkdir()
    (tmp_path / "midi" / "melody.mid").write_bytes(melody([60, 62, 64]))
    process = run(bare, tmp_path, "-m", module, *arguments)
    remedy = f"In a checkout of the project, run: pip install '.[{extra}]'"
    assert process.stderr == f"{module}: {missing} is not installed. {remedy}\n"
    assert (process.returncode, process.stdout) == (2, "")
    assert not (tmp_path / "out").exists()


def test_a_module_that_is_missing_through_a_bug_keeps_its_traceback(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").touch()
    (tmp_path / "trainer" / "__main__.py").write_text(
        "import importlib, sys\nfrom sostenuto import cli\n"
        "name = sys.argv.pop()\ncli.run(lambda: importlib.import_module(name), usage='')\n"
    )
    for name in ("sostenuto.no_such_module", "numpy.no_such_module"):
        process = run(bare, tmp_path, "-m", "trainer", name)
        assert process.returncode == 1
        assert f"ModuleNotFoundError: No module named '{name}'" in process.stderr


def test_the_installed_packages_are_imported_not_those_of_a_checkout(wheel: Path, tmp_path: Path) -> None:
    python, site = environment(tmp_path, wheel)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    program = f"import {', '.join(PACKAGES)}\nfor package in ({', '.join(PACKAGES)}): print(package.__file__)"
    process = run(python, tmp_path, "-c", program)
    assert process.stdout.splitlines() == [str(site / package / "__init__.py") for package in PACKAGES], process.stderr
