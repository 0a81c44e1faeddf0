"""Name of the running command, as the user called it: `python -m trainer` or `sostenuto train`."""

import os
import sys

_INVOCATION_BY_MODULE: dict[str, str] = {}


def called_as(invocation: str, module: str) -> None:
    """Records that this process runs a module under another name.

    Args:
        invocation: the words that the user typed, such as "sostenuto train".
        module: the module that runs as `__main__`.
    """
    _INVOCATION_BY_MODULE[module] = invocation


def name() -> str:
    """Returns the name that precedes each error: `trainer`, or `sostenuto train`."""
    module = main_module()
    if module is None:
        return os.path.basename(sys.argv[0])
    return _INVOCATION_BY_MODULE.get(module, module)


def invocation() -> str:
    """Returns the words that start this command in a shell: `python -m trainer`, or `sostenuto train`."""
    module = main_module()
    if module is None:
        return os.path.basename(sys.argv[0])
    return _INVOCATION_BY_MODULE.get(module, f"python -m {module}")


def main_module() -> str | None:
    """Returns the name of the module that runs as `__main__`; None for a script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else spec.name.removesuffix(".__main__")
