"""The project as a package for remote Beam workers, for the pipeline option --setup_file.

Beam packs the directory of that setup.py and installs it on each worker, with its requirements and without extras.
"""

import importlib.metadata
import shutil
from pathlib import Path

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


def stage_package(directory: str) -> str:
    """Copies the project into an empty directory, and returns the absolute path of the copy's setup.py."""
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
                "project, run pip install ., or pass --setup_file"
            ) from error
        requirements = [text for text in distribution.requires or [] if "extra ==" not in text]
        python = distribution.metadata["Requires-Python"]
        text = _SETUP.format(version=distribution.version, python=python, requirements=requirements)
        setup.write_text(text, encoding="utf-8")
    for package in packages:
        shutil.copytree(root / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    return str(setup)
