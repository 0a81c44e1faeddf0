"""A Beam worker's environment: the packed project and what it requires without extras, Beam, and nothing else."""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def install(archive: Path, site: Path) -> list[str]:
    """Installs a packed project into a new directory, with links to what it requires, as far as that is installed here.

    Returns:
        The names of the distributions that are in it beside the project.
    """
    source = site.parent / f"{site.name}-source"
    with tarfile.open(archive) as file:
        file.extractall(source, filter="data")
    (project,) = source.iterdir()
    command = [sys.executable, "setup.py", "-q", "build_py", f"--build-lib={site.resolve()}"]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    metadata = importlib.metadata.PathDistribution(project)  # It reads the PKG-INFO of a source archive, too.
    return link([*(metadata.requires or []), "apache-beam"], site)


def link(requirements: Iterable[str], site: Path) -> list[str]:
    """Links installed distributions into a directory: those that fulfil requirements, and what these require in turn.

    Returns:
        Their names.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    _close(map(Requirement, requirements), found)
    for distribution in found.values():
        _link(distribution, site)
    return sorted(found)


def run(site: Path, program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that sees this interpreter's own library and the site, and no other package."""
    # -S leaves out all that is installed, -I what PYTHONPATH and the working directory would add.
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(site)!r})\n{program}", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def _close(requirements: Iterable[Requirement], found: dict[str, importlib.metadata.Distribution]) -> None:
    """Adds to `found` the distributions that fulfil requirements, and what these require in turn."""
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        distribution = importlib.metadata.distribution(name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), (requirement, distribution)
        if name not in found:
            found[name] = distribution
            _close(map(Requirement, distribution.requires or []), found)
        for extra in requirement.extras:
            _close(_of_extra(distribution, extra), found)


def _of_extra(distribution: importlib.metadata.Distribution, extra: str) -> Iterable[Requirement]:
    for requirement in map(Requirement, distribution.requires or []):
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": ""}) and marker.evaluate({"extra": extra}):
            requirement.marker = None
            yield requirement


def _link(distribution: importlib.metadata.Distribution, site: Path) -> None:
    """Links a distribution's files; a package as a whole, unless several distributions share it, such as google."""
    for file in distribution.files or []:
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        top = Path(file.parts[0])
        if len(file.parts) > 1 and (Path(str(distribution.locate_file(top))) / "__init__.py").exists():
            file = top
        target = site / file
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(distribution.locate_file(file))
