"""The project's virtual environment: its packages, their files, and the record of the last installation."""

import contextlib
import csv
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parent
PYTHONS = ((3, 11), (3, 13))
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", re.MULTILINE)
HELP = "See docs/installation.md."

# Deleted after the installation: TensorFlow's C++ headers have 430 MB, and no job compiles.
_UNUSED = "tensorflow/include/"


class InstallError(Exception):
    """A failed installation; the message is one line for the user."""


class Environment:
    """A virtual environment: its directory, and in it the interpreter, uv, and the record of an installation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.python, self.uv = path / "bin" / "python", path / "bin" / "uv"
        self.state_file = path / "installed.json"

    @property
    def packages(self) -> Path:
        """The directory of packages; it does not exist if the environment has none."""
        return next(self.path.glob("lib/python3*/site-packages"), self.path / "lib" / "site-packages")

    def load_state(self) -> dict[str, Any]:
        """Returns the hashes by lock, and the packages, of the last installation; {} if the record is unreadable."""
        try:
            state = json.loads(self.state_file.read_text(encoding="utf-8"))
            return state if state["locks"] and isinstance(state["packages"], list) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def save_state(self, hashes: dict[str, str]) -> None:
        """Records a completed installation of locks, given by name and hash."""
        packages = sorted(name for name in self.installed() if not name.startswith(("pip-", "uv-")))
        temporary = self.state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps({"locks": hashes, "packages": packages}, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.state_file)

    def installed(self) -> set[str]:
        """Returns the names of the installed packages' metadata directories."""
        return {path.name for path in self.packages.glob("*.dist-info")}

    def has_pip(self) -> bool:
        """Returns True if the environment has a pip of its own."""
        return any(name.startswith("pip-") for name in self.installed())

    def pip(self) -> list[str]:
        """Returns the command of a pip that installs into the environment; raises InstallError if there is none."""
        if self.has_pip():
            return [str(self.python), "-m", "pip"]
        if not can_import("pip"):
            raise InstallError(
                f"{sys.executable}: neither ensurepip nor pip. Install one (Debian: apt-get install python3-venv), "
                "or pass PYTHON=/path/to/python."
            )
        return [sys.executable, "-m", "pip", "--python", str(self.python)]

    def may_be_deleted(self) -> bool:
        """Returns True if the directory does not exist, or is an environment, even an unfinished one."""
        if not self.path.is_dir():
            return not self.path.exists()
        entries = {path.name for path in self.path.iterdir()}
        return bool(entries & {"pyvenv.cfg", self.state_file.name}) or entries <= {"bin", "include", "lib", "lib64"}

    def find_problem(self, *, remake: bool) -> str:
        """Returns why the environment must be made, or ""; `remake`: also if it has another Python than this one."""
        if not self.path.exists():
            return "no environment yet"
        try:
            probe = "import sys; print(*sys.version_info[:2])"
            process = subprocess.run([self.python, "-c", probe], capture_output=True, text=True, check=False)
            version = tuple(map(int, process.stdout.split()))
        except (OSError, ValueError):
            version = ()
        if not version or self.packages.parent.name != "python{}.{}".format(*version):
            return "its Python does not run"
        if not PYTHONS[0] <= version <= PYTHONS[1] or (remake and version != sys.version_info[:2]):
            return "it has Python {}.{}".format(*version)
        settings = self.path / "pyvenv.cfg"
        if not settings.exists():
            return "it has no pyvenv.cfg"
        # Scripts of an environment contain the path of its directory.
        origin = re.search(r"^command = .* -m venv .*?(/.*)$", settings.read_text(encoding="utf-8"), re.MULTILINE)
        if origin and not (os.path.exists(origin[1]) and os.path.samefile(origin[1], self.path)):
            return f"it was moved from {origin[1]}"
        return ""

    def remove_damaged(self, only: set[str] | None = None) -> list[str]:
        """Removes the metadata of packages (all, or `only` these) with missing files; returns their names."""
        damaged = []
        for name in sorted(self.installed()):
            package = name.removesuffix(".dist-info").rpartition("-")[0]
            if (only is None or package in only) and not _is_complete(self.packages, name):
                shutil.rmtree(self.packages / name)
                damaged.append(package)
        return damaged

    def delete_unused(self) -> None:
        """Deletes the files that no command needs, also from the lists of files."""
        for metadata in self.packages.glob("tensorflow-*.dist-info"):
            rows = [row for row in _read_record(metadata) if not row[0].startswith(_UNUSED)]
            with open(metadata / "RECORD.tmp", "w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
            (metadata / "RECORD.tmp").replace(metadata / "RECORD")
            shutil.rmtree(self.packages / _UNUSED, ignore_errors=True)


def can_import(module: str) -> bool:
    """Returns True if this Python has a module."""
    with contextlib.suppress(ImportError):
        return bool(importlib.import_module(module))
    return False


def _is_complete(packages: Path, name: str) -> bool:
    """Returns True if all files of a package exist with their sizes, except bytecode."""
    try:
        (packages / name / "METADATA").stat()
        files = [(path, size) for path, _, size in _read_record(packages / name) if not path.endswith(".pyc")]
        return all(os.stat(f"{packages}/{path}").st_size == int(size or -1) or not size for path, size in files)
    except (OSError, ValueError):
        return False


def _read_record(metadata: Path) -> Iterator[tuple[str, str, str]]:
    """Yields path, hash and size of each file of a package."""
    with open(metadata / "RECORD", newline="", encoding="utf-8") as file:
        yield from csv.reader(file)
