"""Public names of a package, imported on first use, so that importing the package stays fast."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def export(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package (PEP 562) whose public names are defined in the given modules."""

    def import_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return import_name
