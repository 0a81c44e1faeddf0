"""The project as a package for remote workers: a source archive that Beam installs, or a zip file to import from."""

import functools
import hashlib
import importlib.metadata
import importlib.resources
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

import sostenuto
from sostenuto.errors import UserError

PROJECT = "sostenuto"

_SETUP = """from setuptools import find_packages, setup

setup(
    name="sostenuto",
    version={version!r},
    python_requires={python!r},
    packages=find_packages(),
    package_data={{"": ["**/*"]}},
    install_requires={requirements!r},
)
"""


def pack(directory: str) -> str:
    """Writes the project's source archive below an empty directory; returns its path, for Beam's --extra_package.

    Beam installs it on each worker, with its requirements and without extras. With --setup_file Beam would pack the
    project itself, and print what its tools print.

    Raises:
        UserError: the project or the tools to pack it are not installed.
    """
    setup = stage_package(directory)
    command = [sys.executable, setup, "-q", "sdist", "--formats=gztar", "--dist-dir=dist"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        last_line = done.stderr.strip().rpartition("\n")[2]
        raise UserError(f"the project cannot be packed for workers: {last_line}. Install setuptools 77 or newer")
    (archive,) = (Path(directory) / "dist").iterdir()
    return str(archive.resolve())


def stage_package(directory: str) -> str:
    """Copies the project into an empty directory; returns the absolute path of the copy's setup.py."""
    # Packing writes files next to setup.py.
    source, target = Path(__file__).resolve().parent, Path(directory).resolve()
    root = source.parent
    setup = target / "setup.py"
    if (root / "setup.py").is_file() and (root / "pyproject.toml").is_file():
        for name in ("setup.py", "README.md", "LICENSE"):
            shutil.copyfile(root / name, target / name)
        packages = sorted(path.parent.name for path in root.glob("*/__init__.py"))
    else:
        packages = [source.name, PROJECT]
        try:
            distribution = importlib.metadata.distribution(PROJECT)
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(
                f"{source}: cannot be packed for workers: neither a checkout nor installed. In a checkout of the "
                "project, run pip install ., or pass --setup_file=PATH"
            ) from error
        requirements = [text for text in distribution.requires or [] if "extra ==" not in text]
        python = distribution.metadata["Requires-Python"]
        text = _SETUP.format(version=distribution.version, python=python, requirements=requirements)
        setup.write_text(text, encoding="utf-8")
    for package in packages:
        shutil.copytree(root / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    return str(setup)


def zip_package(directory: str) -> str:
    """Writes what workers import into a zip file in a directory; returns its path, whose name has the code's hash."""
    path = os.path.join(directory, f"sostenuto-{_code_hash()}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _code():
            archive.writestr(name, data)
    return path


@functools.cache
def code_version() -> str:
    """Returns the release and a hash of the code that this process imports: "0.1.0 (3f2a…)"."""
    return f"{sostenuto.__version__} ({_code_hash()})"


def _code_hash() -> str:
    digest = hashlib.sha256()
    for name, data in _code():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:12]


def _code() -> Iterator[tuple[str, bytes]]:
    """Yields path and content of each module that workers import, sorted by path; also from within a zip file."""

    def walk(directory: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
        for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
            name = f"{prefix}/{entry.name}"
            if entry.is_dir():
                yield from walk(entry, name)
            elif name.endswith(".py"):
                yield name, entry.read_bytes()

    for package in ("beam_preprocess", PROJECT):
        yield from walk(importlib.resources.files(package), package)
