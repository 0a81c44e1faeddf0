"""Extras of the package: the requirements of its commands that an installation may lack, and how to install them."""

import sys

EXTRAS = {
    "beam_preprocess": "beam",
    "demo": "demo",
    "play": "play",
    "sostenuto": "inspect",
    "trainer": "train",
    "tuning": "tune",
}
"""The extra that the commands of each package need."""


def remedy(extra: str) -> str:
    """Returns how to install an extra; no package index has the project."""
    return f"In a checkout of the project, run: pip install '.[{extra}]'"


def explain(error: ModuleNotFoundError, command: str | None) -> str | None:
    """Returns the error message if a requirement of a command's module is not installed; None otherwise."""
    extra = EXTRAS.get((command or "").partition(".")[0])
    name = error.name or "."
    # A module of an installed package, of Python or of the project is missing through a bug.
    if extra is None or "." in name or name in sys.stdlib_module_names or name in EXTRAS:
        return None
    return f"{name} is not installed. {remedy(extra)}"
