"""Installs exactly what locks pin into a virtual environment, without resolving anything; `make` runs it.

It needs the standard library alone, does nothing where the environment is right, and repairs one that is not: an
interrupted installation, missing files, a Python that was removed, a checkout that was moved. A later release of a
package cannot break it: uv installs each pin by its hash and ignores what packages require.
"""

import argparse
import ast
import csv
import fcntl
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parent
PYTHONS = ((3, 11), (3, 13))
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", re.MULTILINE)
HELP = "See docs/installation.md."

# Parts of packages that are deleted after the installation: TensorFlow's C++ headers have 430 MB, and no job compiles.
UNUSED = {"tensorflow": "tensorflow/include/"}

# Settings of pip that uv needs too, and uv's variables for them: a package index of one's own is configured once.
SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "trusted-host": "UV_INSECURE_HOST"}


# The command `sostenuto`, for sh and for Python: a first line cannot name an interpreter whose path has spaces.
COMMAND = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
from sostenuto.cli.main import main

main()
"""


class InstallError(Exception):
    """An installation that cannot go on; the message is one line for the user."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        path: of its directory.
    """

    path: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def uv(self) -> Path:
        """The installer of everything but itself."""
        return self.path / "bin" / "uv"

    @property
    def state_file(self) -> Path:
        """The record of the last installation that was completed."""
        return self.path / "installed.json"

    @property
    def packages(self) -> Path:
        """The directory of packages; one that does not exist while the environment has none."""
        return next(self.path.glob("lib/python3*/site-packages"), self.path / "lib" / "site-packages")

    def state(self) -> dict[str, Any]:
        """Returns the record of the last installation: hashes by lock, and packages. Empty if it cannot be read."""
        try:
            state = json.loads(self.state_file.read_text(encoding="utf-8"))
            return state if state["locks"] and isinstance(state["packages"], list) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def installed(self) -> set[str]:
        """Returns the packages that are installed, as the names of their metadata directories."""
        return {path.name for path in self.packages.glob("*.dist-info")}

    def has(self, package: str) -> bool:
        """Returns True if some version of a package is installed."""
        return any(name.startswith(f"{package}-") for name in self.installed())


def main() -> int:
    """Installs the locks that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, required=True, help="directory of the virtual environment")
    parser.add_argument("--wheelhouse", default="", help="install from this directory of wheels, without a network")
    parser.add_argument("--download", default="", help="instead of installing, fill this directory with wheels")
    parser.add_argument("--remake", action="store_true", help="remake an environment of another Python than this one")
    parser.add_argument("--project", action="store_true", help="also install the command sostenuto of this checkout")
    parser.add_argument("locks", nargs="*", help="names of locks: cpu, gcp, gpu, development or policies")
    options = parser.parse_args()
    environment = Environment(Path(os.path.abspath(options.environment)))
    try:
        for lock in options.locks:
            if not _lock_file(lock).exists():
                known = sorted(path.stem for path in REQUIREMENTS.glob("*.txt") if path.stem != "uv")
                raise InstallError(f"LOCKS: no lock {lock}. Choose from {', '.join(known)}.")
        # One installation at a time: a second `make` waits for the first.
        descriptor = os.open(REQUIREMENTS, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        prepare(environment, options.wheelhouse, remake=options.remake)
        if options.download:
            download(environment, options.locks, Path(options.download))
        else:
            install(environment, options.locks, options.wheelhouse)
            if options.project:
                link_project(environment)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or environment.path}: {error.strerror}. {HELP}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{options.environment}: interrupted. The next `make` continues the installation.", file=sys.stderr)
        return 130
    return 0


def prepare(environment: Environment, wheelhouse: str, *, remake: bool) -> None:
    """Makes an environment with the pinned uv in it, where there is none that can be used.

    Args:
        environment: the environment.
        wheelhouse: the directory to install from; empty for the index.
        remake: whether an environment of another Python than this one is replaced.
    """
    problem = _problem(environment, remake=remake)
    if problem:
        if not _is_ours(environment):
            raise InstallError(f"{environment.path}: not an environment. Name another directory with VENV=.")
        print(f"Making {_shown(environment.path)} with Python {sys.version.split()[0]}: {problem}", flush=True)
        # A virtual environment can make itself again: what runs is the Python that it was made from.
        base = getattr(sys, "_base_executable", sys.executable)
        _run([base, "-m", "venv", "--clear", "--without-pip", str(environment.path)], f"{environment.path}: no venv.")
    damaged = _remove_damaged(environment, {"pip", "uv"})
    (pin,) = PIN.findall(_lock_file("uv").read_text(encoding="utf-8"))
    if damaged or f"uv-{pin[1]}.dist-info" not in environment.installed():
        _install_uv(environment, wheelhouse, "==".join(pin))


def install(environment: Environment, locks: list[str], wheelhouse: str) -> None:
    """Installs locks, and those that an earlier call installed; does nothing if all is as they say.

    Packages that no lock names are removed whenever something is installed.

    Args:
        environment: one with uv.
        locks: names of the locks.
        wheelhouse: the directory to install from; empty for the index.
    """
    if not locks:
        return
    state = environment.state()
    locks = _largest([*locks, *state.get("locks", {})])
    hashes = {lock: hashlib.sha256(_lock_file(lock).read_bytes()).hexdigest() for lock in locks}
    damaged = _remove_damaged(environment)
    if not damaged and state.get("locks") == hashes and environment.installed() >= set(state["packages"]):
        return
    if damaged:
        print(f"Repairing {_shown(environment.path)}: damaged are {', '.join(damaged)}", flush=True)
    files = [str(_lock_file(lock)) for lock in locks]
    print(f"Installing {_names(locks)} into {_shown(environment.path)}", flush=True)
    begun = time.monotonic()
    upgrade = set(locks) == set(state.get("locks", {}))
    _sync(environment, files, wheelhouse, list_packages=upgrade)
    if _remove_damaged(environment):
        # The files came from a damaged cache, to which they may be hard links.
        _sync(environment, [*files, "--no-cache"], wheelhouse, list_packages=False)
    still = _remove_damaged(environment)
    if still:
        raise InstallError(f"{environment.path}: {', '.join(still)} lack files after the installation. {HELP}")
    _delete_unused(environment)
    packages = sorted(name for name in environment.installed() if not name.startswith(("pip-", "uv-")))
    state = {"locks": hashes, "packages": packages}
    temporary = environment.state_file.with_suffix(".tmp")
    temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    temporary.replace(environment.state_file)
    print(f"Installed in {time.monotonic() - begun:.0f} seconds", flush=True)


def link_project(environment: Environment) -> None:
    """Makes the packages of this checkout importable from any directory, and installs the command `sostenuto`.

    Args:
        environment: the environment.
    """
    command = environment.path / "bin" / "sostenuto"
    files = {
        environment.packages / "sostenuto.pth": f"{REQUIREMENTS.parent}\n",
        command: COMMAND.format(python=environment.python),
    }
    for file, text in files.items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    command.chmod(0o755)


def download(environment: Environment, locks: list[str], wheelhouse: Path) -> None:
    """Fills a directory with what an installation of locks needs, for a machine of this kind without a network.

    Args:
        environment: one with pip.
        locks: names of the locks.
        wheelhouse: the directory.
    """
    for lock in ["uv", *_largest(locks)]:
        print(f"Downloading {_names([lock])} to {wheelhouse}", flush=True)
        command = [*_pip(environment), "download", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        command += ["--dest", str(wheelhouse), "--requirement", str(_lock_file(lock))]
        if subprocess.run(command, check=False).returncode:
            raise InstallError(
                f"{lock}.txt: pip could not download it (the reason is above). Check the network. {HELP}"
            )


def _is_ours(environment: Environment) -> bool:
    """Returns True if a directory may be deleted: it does not exist, or it is an environment, even a half-made one."""
    if not environment.path.is_dir():
        return not environment.path.exists()
    entries = {path.name for path in environment.path.iterdir()}
    return bool(entries & {"pyvenv.cfg", environment.state_file.name}) or entries <= {"bin", "include", "lib", "lib64"}


def _problem(environment: Environment, *, remake: bool) -> str:
    """Returns the reason why an environment must be made, or an empty text."""
    if not environment.path.exists():
        return "no environment yet"
    try:
        probe = "import sys; print(*sys.version_info[:2])"
        process = subprocess.run([environment.python, "-c", probe], capture_output=True, text=True, check=False)
        version = tuple(map(int, process.stdout.split()))
    except (OSError, ValueError):
        version = ()
    if not version or environment.packages.parent.name != "python{}.{}".format(*version):
        return "its Python does not run"
    if not PYTHONS[0] <= version <= PYTHONS[1] or (remake and version != sys.version_info[:2]):
        return "it has Python {}.{}".format(*version)
    settings = environment.path / "pyvenv.cfg"
    if not settings.exists():
        return "it has no pyvenv.cfg"
    # Scripts of an environment name its directory.
    made = re.search(r"^command = .* -m venv .*?(/.*)$", settings.read_text(encoding="utf-8"), re.MULTILINE)
    if made and not (os.path.exists(made[1]) and os.path.samefile(made[1], environment.path)):
        return f"it was moved from {made[1]}"
    return ""


def _install_uv(environment: Environment, wheelhouse: str, pin: str) -> None:
    """Installs uv with pip: that of the environment, else that of the Python that runs this."""
    if not environment.has("pip") and _can_import("ensurepip"):
        _run([str(environment.python), "-m", "ensurepip", "--default-pip"], f"{environment.path}: no pip.")
    source = ["--no-index", "--find-links", wheelhouse] if wheelhouse else []
    command = [*_pip(environment), "install", "--quiet", "--disable-pip-version-check", "--retries=2", *source]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(_lock_file("uv"))]
    print(f"Installing {pin}, the installer", flush=True)
    _run(command, f"{pin}: pip could not install it.", _remedy(wheelhouse))


def _pip(environment: Environment) -> list[str]:
    """Returns the command of a pip that installs into the environment."""
    if environment.has("pip"):
        return [str(environment.python), "-m", "pip"]
    if not _can_import("pip"):
        raise InstallError(
            f"{sys.executable}: neither ensurepip nor pip. Install one (Debian: apt-get install python3-venv), "
            "or pass PYTHON=/path/to/python."
        )
    return [sys.executable, "-m", "pip", "--python", str(environment.python)]


def _can_import(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _sync(environment: Environment, arguments: list[str], wheelhouse: str, *, list_packages: bool) -> None:
    """Makes the packages of an environment those of lock files, with uv.

    A version without a wheel for this Python is built with setuptools from the locks: google-apitools below 3.13.
    """
    command = [str(environment.uv), "pip", "sync", "--python", str(environment.python), "--require-hashes"]
    command += [*arguments, *(f"--build-constraints={file}" for file in arguments if file.endswith(".txt"))]
    command += ["--no-index", "--find-links", wheelhouse] if wheelhouse else []
    variables = {**({} if wheelhouse else _settings(environment)), **os.environ}
    if sys.stderr.isatty():
        # On a terminal, uv draws its progress itself.
        status, reason = subprocess.run(command, env=variables, check=False).returncode, "the reason is above"
    else:
        status, reason = _print_progress(command, variables, list_packages=list_packages)
    if status:
        problem = f"{_shown(environment.path)}: uv could not install all packages ({reason})"
        raise InstallError(f"{problem}. {_remedy(wheelhouse)}")


def _print_progress(command: list[str], variables: dict[str, str], *, list_packages: bool) -> tuple[int, str]:
    """Runs uv and prints its lines, except those of an error.

    Args:
        command: the command.
        variables: its environment.
        list_packages: whether the lines of single packages are printed, which only an upgrade needs.

    Returns:
        The status, and the error in one line.
    """
    reasons: list[str] = []
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if reasons or line.startswith("error:"):
                reasons.append(line.strip())
            elif list_packages or not line.startswith((" + ", " - ")):
                print(line, end="", flush=True)
    return process.returncode, " ".join(filter(None, reasons)) or f"status {process.returncode}"


def _settings(environment: Environment) -> dict[str, str]:
    """Returns pip's index and certificates as variables of uv."""
    process = subprocess.run([*_pip(environment), "config", "list"], capture_output=True, text=True, check=False)
    lines = (line.partition("=") for line in process.stdout.splitlines() if process.returncode == 0)
    settings = {name.rpartition(".")[2]: ast.literal_eval(value) for name, _, value in lines if value}
    return {SETTINGS[name]: value for name, value in settings.items() if name in SETTINGS}


def _remedy(wheelhouse: str) -> str:
    if wheelhouse:
        return (
            f"Fill {wheelhouse} with `make wheelhouse` on a machine with a network, the same Python and the same locks."
        )
    return f"Check the network or the index that pip is configured with. {HELP}"


def _run(command: list[str], problem: str, remedy: str = HELP) -> None:
    """Runs a command whose output matters only if it fails.

    Raises:
        InstallError: the command failed; with its last error.
    """
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if process.returncode:
        lines = process.stdout.strip().splitlines() or [f"status {process.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR:")]
        reason = (errors or lines)[-1].removeprefix("ERROR:").strip()
        raise InstallError(f"{problem.removesuffix('.')} ({reason.removesuffix('.')}). {remedy}")


def _remove_damaged(environment: Environment, only: set[str] | None = None) -> list[str]:
    """Removes the metadata of packages whose files are not all there, so that they are installed again.

    Args:
        environment: the environment.
        only: names of packages; None: all.

    Returns:
        The names of the damaged packages.
    """
    damaged = []
    for name in sorted(environment.installed()):
        package = name.removesuffix(".dist-info").rpartition("-")[0]
        if (only is None or package in only) and not _is_whole(environment.packages, name):
            shutil.rmtree(environment.packages / name)
            damaged.append(package)
    return damaged


def _is_whole(packages: Path, name: str) -> bool:
    """Returns True if all files of a package exist with their sizes; bytecode, which Python makes, does not count."""
    try:
        (packages / name / "METADATA").stat()
        for path, _, size in _record(packages / name):
            if not path.endswith(".pyc") and os.stat(f"{packages}/{path}").st_size != int(size or -1) and size:
                return False
    except (OSError, ValueError):
        return False
    return True


def _record(metadata: Path) -> Iterator[tuple[str, str, str]]:
    """Yields path, hash and size of each file of a package."""
    with open(metadata / "RECORD", newline="", encoding="utf-8") as file:
        yield from csv.reader(file)


def _delete_unused(environment: Environment) -> None:
    """Deletes the parts of packages that no command needs, also from the lists of their files."""
    for package, prefix in UNUSED.items():
        for metadata in environment.packages.glob(f"{package}-*.dist-info"):
            rows = [row for row in _record(metadata) if not row[0].startswith(prefix)]
            with open(metadata / "RECORD.tmp", "w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
            (metadata / "RECORD.tmp").replace(metadata / "RECORD")
            shutil.rmtree(environment.packages / prefix, ignore_errors=True)


def _largest(locks: list[str]) -> list[str]:
    """Returns the locks without those whose pins another one has all, and without those that no longer exist."""
    pins = {lock: _pins(lock) for lock in sorted(locks) if _lock_file(lock).exists()}
    return [lock for lock in pins if not any(pins[lock] < pins[other] for other in pins)]


def _pins(lock: str) -> set[tuple[str, str]]:
    return set(PIN.findall(_lock_file(lock).read_text(encoding="utf-8")))


def _lock_file(lock: str) -> Path:
    return REQUIREMENTS / f"{lock}.txt"


def _names(locks: list[str]) -> str:
    """Returns the names of the locks' files, for a message."""
    return " and ".join(f"{lock}.txt" for lock in locks)


def _shown(path: Path) -> str:
    """Returns a path as short as it can be, for a message."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
