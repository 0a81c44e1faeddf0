"""Resolves setup.py's extras and development.in into the locks of this directory; `make lock` runs it.

All locks are resolved before the first is replaced. Each takes its versions from those resolved before it.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from requirements.environment import PIN, REQUIREMENTS


class Lock(NamedTuple):
    """A file of pins and hashes: its first line, what uv resolves into it, and the lock whose versions it takes."""

    name: str
    purpose: str
    sources: list[str]
    extras: list[str]
    constraint: str = ""
    packages: str = ""  # instead of sources


_JOBS, _CLOUD_JOBS = ["beam", "dask", "train", "tune"], ["beam", "dask", "gcp", "train", "tune"]
LOCKS = [
    Lock(
        "development", "Packages for tests, checks and all jobs, Google Cloud's included: `make test`.",
        ["setup.py", "requirements/development.in"], [*_CLOUD_JOBS, "play", "inspect", "demo"],
    ),
    Lock(
        "cpu", "Packages for the jobs, play and the demo on a CPU: `make install`, `make demo`.",
        ["setup.py"], [*_JOBS, "play", "inspect", "demo"], "development",
    ),
    Lock(
        "gcp", "Packages for the jobs, with Google Cloud's clients and Dataflow: the image's target cpu.",
        ["setup.py"], _CLOUD_JOBS, "development",
    ),
    Lock(
        "gpu", "Packages of gcp.txt, and CUDA's libraries: the image's target gpu, `make install LOCKS=gpu`.",
        ["setup.py"], [*_CLOUD_JOBS, "gpu"], "development",
    ),
    Lock(
        "policies", "Packages for checkov, in an environment of its own: `make policies`.", [], [], packages="checkov",
    ),
    Lock("uv", "The installer of all other locks. pip installs it.", [], [], packages="uv"),
]  # fmt: skip


def main() -> int:
    """Writes the locks and prints their changes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", required=True, help="uv's executable")
    parser.add_argument("arguments", nargs="*", help="arguments for `uv pip compile`, such as --upgrade")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for lock in LOCKS:
            print(f"Resolving requirements/{lock.name}.txt", flush=True)
            status = _resolve(lock, Path(directory), options.uv, options.arguments)
            if status:
                print(f"requirements/{lock.name}.txt: uv could not resolve it. No lock was changed.", file=sys.stderr)
                return 2
        for lock in LOCKS:
            path = REQUIREMENTS / f"{lock.name}.txt"
            # uv's comments name the constraints where they were read.
            pins = (Path(directory) / path.name).read_text(encoding="utf-8").replace(directory, REQUIREMENTS.name)
            text = f"# {lock.purpose}\n# `make lock` writes this file: see CONTRIBUTING.md. Do not edit it.\n{pins}"
            former = path.read_text(encoding="utf-8") if path.exists() else ""
            path.write_text(text, encoding="utf-8")
            print(*_list_changes(lock.name, former, text), sep="\n")
    return 0


def _resolve(lock: Lock, directory: Path, uv: str, arguments: list[str]) -> int:
    """Runs uv for one lock, starting from its current versions; returns the status."""
    output = directory / f"{lock.name}.txt"
    current = REQUIREMENTS / output.name
    if current.exists():
        output.write_bytes(current.read_bytes())
    command = [uv, "pip", "compile", *(lock.sources or ["-"]), "--output-file", str(output), "--quiet"]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-emit-index-url"]
    command += [f"--extra={extra}" for extra in lock.extras]
    command += [f"--constraint={directory / lock.constraint}.txt"] if lock.constraint else []
    return subprocess.run(
        [*command, *arguments], input=lock.packages, text=True, cwd=REQUIREMENTS.parent, check=False
    ).returncode


def _list_changes(name: str, former: str, text: str) -> list[str]:
    """Returns the changed versions of a lock, one line a package; a single line if none changed."""
    old, new = _versions(former), _versions(text)
    lines = [
        f"  {package}: {old.get(package, 'absent')} -> {new.get(package, 'absent')}"
        for package in sorted(old.keys() | new.keys())
        if old.get(package) != new.get(package)
    ]
    return [f"{name}.txt: {len(lines)} of {len(new)} packages changed" if lines else f"{name}.txt: unchanged", *lines]


def _versions(text: str) -> dict[str, str]:
    """Returns the version of each package; all of them if it has one for each Python."""
    versions: dict[str, list[str]] = {}
    for package, version in PIN.findall(text):
        versions.setdefault(package, []).append(version)
    return {package: ", ".join(sorted(numbers)) for package, numbers in versions.items()}


if __name__ == "__main__":
    sys.exit(main())
