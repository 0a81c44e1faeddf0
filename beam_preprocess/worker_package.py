"""The project as a package for Beam's workers elsewhere: what the pipeline option --setup_file names.

Beam packs the directory of that setup.py and installs it on every worker, with what it requires and without extras.
"""

import importlib.metadata
import shutil
from pathlib import Path

from sostenuto.errors import UserError

PROJECT = "sostenuto"

_SETUP = """from setuptools import find_packages, setup

setup(
    name={name!r},
    version={version!r},
    python_requires={python!r},
    packages=find_packages(),
    package_data={{"": ["**/*"]}},
    install_requires={requirements!r},
)
"""


def stage_package(directory: str) -> str:
    """Copies the project into an empty directory, to be packed there.

    A copy, because packing leaves files beside setup.py, and a clone may be read-only.

    Args:
        directory: an empty directory.

    Returns:
        The absolute path of the copy's setup.py. In a clone, it is the project's own; an installed package has none,
        and gets one made from what its installer noted.

    Raises:
        UserError: the project is neither a clone nor installed.
    """
    here, target = Path(__file__).resolve().parent, Path(directory).resolve()
    root = here.parent
    setup = target / "setup.py"
    if (root / "setup.py").is_file() and (root / "pyproject.toml").is_file():
        for name in ("setup.py", "README.md", "LICENSE"):
            shutil.copyfile(root / name, target / name)
        packages = sorted(path.parent.name for path in root.glob("*/__init__.py"))
    else:
        packages = [here.name, "sostenuto"]
        setup.write_text(_SETUP.format(**_as_installed()), encoding="utf-8")
    for package in packages:
        shutil.copytree(root / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    return str(setup)


def _as_installed() -> dict[str, object]:
    """Returns name, version and requirements of the installed project, those of its extras left out."""
    try:
        distribution = importlib.metadata.distribution(PROJECT)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"{Path(__file__).resolve().parent}: cannot be packed for workers, since it is neither a checkout nor "
            "installed. In a checkout of the project, run pip install ., or pass --setup_file"
        ) from error
    return {
        "name": PROJECT,
        "version": distribution.version,
        "python": distribution.metadata["Requires-Python"],
        "requirements": [text for text in distribution.requires or [] if "extra ==" not in text],
    }
