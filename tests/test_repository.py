"""The frame: what is declared, what is shipped, what is locked."""

import ast
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

from notes.extras import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
OURS = {"notes", "beam_preprocess", "trainer", "tuning", "demo", "benchmarks", "tests"}

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
    declared = [*distribution.install_requires, *distribution.extras_require[extra]]
    names = {canonicalize_name(Requirement(requirement).name) for requirement in declared}
    missing = {
        (file, module)
        for file, module in imports(package)
        if top(module) not in OURS | sys.stdlib_module_names
        and canonicalize_name(INSTALLED_AS.get(top(module), top(module))) not in names
    }
    assert missing == set()


def test_all_is_every_extra_but_gpu(distribution: Distribution) -> None:
    extras = distribution.extras_require
    together = {requirement for name in extras if name not in ("all", "gpu") for requirement in extras[name]}
    assert set(extras["all"]) == together
    assert not any("cuda" in requirement for requirement in extras["all"])


def test_the_lock_holds_a_fitting_version_of_all_that_is_declared(distribution: Distribution) -> None:
    lines = (ROOT / "requirements" / "locked.txt").read_text(encoding="utf-8").splitlines()
    pins = [re.match(r"([a-z0-9._-]+)==([^ ;]+)", line) for line in lines]
    locked = {canonicalize_name(pin[1]): pin[2] for pin in pins if pin}
    declared = [*distribution.install_requires]
    for extra in ("beam", "train", "tune", "demo"):
        declared += distribution.extras_require[extra]
    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement
    assert "://" not in "\n".join(lines)


def test_every_extra_is_enough_for_what_it_is_named_after(distribution: Distribution) -> None:
    """The demo runs the commands of preprocessing and training; a search trains."""
    extras = {name: set(requirements) for name, requirements in distribution.extras_require.items()}
    assert extras["demo"] >= extras["beam"] | extras["train"]
    assert extras["tune"] >= extras["train"]
    assert extras["gpu"] >= extras["train"]
    assert set(extras) == {*EXTRAS.values(), "gcp", "gpu", "all"}


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
