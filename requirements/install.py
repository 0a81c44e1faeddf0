"""Installs exactly the pins of locks into a virtual environment, without resolving anything; `make` runs it.

It needs only the standard library, and repairs an environment that was interrupted, damaged or moved. A later release
of a package cannot break it: uv installs each pin by its hash and ignores the requirements of packages.
"""

import argparse
import ast
import fcntl
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

from requirements.environment import HELP, PIN, REQUIREMENTS, Environment, InstallError, can_import

# Settings of pip that uv needs too, and uv's variables for them: a custom package index is configured once.
SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "trusted-host": "UV_INSECURE_HOST"}

# The command `sostenuto`, for sh and for Python: a first line cannot name an interpreter whose path has spaces.
COMMAND = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
from sostenuto.cli.main import main

main()
"""


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
        _check_locks(options.locks)
        # One installation at a time: a second `make` waits for the first.
        fcntl.flock(os.open(REQUIREMENTS, os.O_RDONLY), fcntl.LOCK_EX)
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
    """Makes an environment with the pinned uv, unless there is a usable one."""
    problem = environment.find_problem(remake=remake)
    if problem:
        if not environment.may_be_deleted():
            raise InstallError(f"{environment.path}: not an environment. Name another directory with VENV=.")
        print(f"Making {_shorten(environment.path)} with Python {sys.version.split()[0]}: {problem}", flush=True)
        # A virtual environment can replace itself: this process runs the Python that it was made from.
        base = getattr(sys, "_base_executable", sys.executable)
        _run([base, "-m", "venv", "--clear", "--without-pip", str(environment.path)], f"{environment.path}: no venv.")
    damaged = environment.remove_damaged({"pip", "uv"})
    (pin,) = PIN.findall(_lock_file("uv").read_text(encoding="utf-8"))
    if damaged or f"uv-{pin[1]}.dist-info" not in environment.installed():
        _install_uv(environment, wheelhouse, "==".join(pin))


def install(environment: Environment, locks: list[str], wheelhouse: str) -> None:
    """Installs locks and those of earlier calls, and removes all other packages; does nothing if all is installed."""
    if not locks:
        return
    state = environment.load_state()
    locks = _remove_subsets([*locks, *state.get("locks", {})])
    hashes = {lock: hashlib.sha256(_lock_file(lock).read_bytes()).hexdigest() for lock in locks}
    damaged = environment.remove_damaged()
    if not damaged and state.get("locks") == hashes and environment.installed() >= set(state["packages"]):
        return
    if damaged:
        print(f"Repairing {_shorten(environment.path)}: damaged are {', '.join(damaged)}", flush=True)
    files = [str(_lock_file(lock)) for lock in locks]
    print(f"Installing {_join(locks)} into {_shorten(environment.path)}", flush=True)
    started = time.monotonic()
    _sync(environment, files, wheelhouse, list_packages=set(locks) == set(state.get("locks", {})))
    if environment.remove_damaged():
        # The files may be hard links to a damaged cache.
        _sync(environment, [*files, "--no-cache"], wheelhouse, list_packages=False)
    if damaged := environment.remove_damaged():
        raise InstallError(f"{environment.path}: {', '.join(damaged)} lack files after the installation. {HELP}")
    environment.delete_unused()
    environment.save_state(hashes)
    print(f"Installed in {time.monotonic() - started:.0f} seconds", flush=True)


def link_project(environment: Environment) -> None:
    """Makes the packages of this checkout importable from any directory, and installs the command `sostenuto`."""
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
    """Downloads the wheels of locks, for a machine of this kind without a network."""
    for lock in ["uv", *_remove_subsets(locks)]:
        print(f"Downloading {_join([lock])} to {wheelhouse}", flush=True)
        command = [*environment.pip(), "download", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        command += ["--dest", str(wheelhouse), "--requirement", str(_lock_file(lock))]
        if subprocess.run(command, check=False).returncode:
            problem = f"{lock}.txt: pip could not download it (the reason is above)"
            raise InstallError(f"{problem}. Check the network. {HELP}")


def _install_uv(environment: Environment, wheelhouse: str, pin: str) -> None:
    """Installs uv with the pip of the environment or of this Python."""
    if not environment.has_pip() and can_import("ensurepip"):
        _run([str(environment.python), "-m", "ensurepip", "--default-pip"], f"{environment.path}: no pip.")
    source = ["--no-index", "--find-links", wheelhouse] if wheelhouse else []
    command = [*environment.pip(), "install", "--quiet", "--disable-pip-version-check", "--retries=2", *source]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(_lock_file("uv"))]
    print(f"Installing {pin}, the installer", flush=True)
    _run(command, f"{pin}: pip could not install it.", _remedy(wheelhouse))


def _sync(environment: Environment, arguments: list[str], wheelhouse: str, *, list_packages: bool) -> None:
    """Makes the packages of an environment those of lock files, with uv; prints its lines, of packages on demand.

    A version without a wheel for this Python is built with setuptools from the locks: google-apitools below 3.13.
    """
    command = [str(environment.uv), "pip", "sync", "--python", str(environment.python), "--require-hashes"]
    command += [*arguments, *(f"--build-constraints={file}" for file in arguments if file.endswith(".txt"))]
    command += ["--no-index", "--find-links", wheelhouse] if wheelhouse else []
    variables = {**({} if wheelhouse else _index_settings(environment)), **os.environ}
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        # Many images set it. Each process would compile TensorFlow again, which doubles its start.
        command.append("--compile-bytecode")
        # By default, a module that takes over a minute to compile ends uv.
        variables.setdefault("UV_COMPILE_BYTECODE_TIMEOUT", "600")
    pipe = None if sys.stderr.isatty() else subprocess.PIPE
    errors: list[str] = []
    with subprocess.Popen(command, env=variables, stderr=pipe, text=True) as process:
        for line in process.stderr or []:  # on a terminal, uv draws its progress itself
            if errors or line.startswith("error:"):
                errors.append(line.strip())
            elif list_packages or not line.startswith((" + ", " - ")):
                print(line, end="", flush=True)
    if status := process.returncode:
        reason = "the reason is above" if pipe is None else " ".join(filter(None, errors)) or f"status {status}"
        problem = f"{_shorten(environment.path)}: uv could not install all packages ({reason})"
        raise InstallError(f"{problem}. {_remedy(wheelhouse)}")


def _index_settings(environment: Environment) -> dict[str, str]:
    """Returns pip's index and certificates as variables of uv."""
    process = subprocess.run([*environment.pip(), "config", "list"], capture_output=True, text=True, check=False)
    lines = (line.partition("=") for line in process.stdout.splitlines() if process.returncode == 0)
    settings = {name.rpartition(".")[2]: ast.literal_eval(value) for name, _, value in lines if value}
    return {SETTINGS[name]: value for name, value in settings.items() if name in SETTINGS}


def _remedy(wheelhouse: str) -> str:
    if wheelhouse:
        return f"Fill {wheelhouse} with `make wheelhouse` on a machine with a network, the same Python and locks."
    return f"Check the network or the index that pip is configured with. {HELP}"


def _run(command: list[str], problem: str, remedy: str = HELP) -> None:
    """Runs a command and shows its output only if it fails, in an InstallError."""
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if process.returncode:
        lines = process.stdout.strip().splitlines() or [f"status {process.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR:")]
        reason = (errors or lines)[-1].removeprefix("ERROR:").strip()
        raise InstallError(f"{problem.removesuffix('.')} ({reason.removesuffix('.')}). {remedy}")


def _check_locks(locks: list[str]) -> None:
    for lock in locks:
        if not _lock_file(lock).exists():
            known = sorted(path.stem for path in REQUIREMENTS.glob("*.txt") if path.stem != "uv")
            raise InstallError(f"LOCKS: no lock {lock}. Choose from {', '.join(known)}.")


def _remove_subsets(locks: list[str]) -> list[str]:
    """Returns the locks that exist, without those whose pins are all in another one."""
    files = {lock: _lock_file(lock) for lock in sorted(locks) if _lock_file(lock).exists()}
    pins = {lock: set(PIN.findall(file.read_text(encoding="utf-8"))) for lock, file in files.items()}
    return [lock for lock in pins if not any(pins[lock] < pins[other] for other in pins)]


def _lock_file(lock: str) -> Path:
    return REQUIREMENTS / f"{lock}.txt"


def _join(locks: list[str]) -> str:
    return " and ".join(f"{lock}.txt" for lock in locks)


def _shorten(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
