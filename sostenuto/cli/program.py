"""Name of the running command, as the user called it: `python -m trainer` or `sostenuto train`."""

import os
import sys

_invocations: dict[str, str] = {}  # by module


def set_invocation(module: str, invocation: str) -> None:
    """Sets the words that the user typed, such as "sostenuto train", for the module that runs as `__main__`."""
    _invocations[module] = invocation


def command_name() -> str:
    """Returns the name that precedes each error: `trainer`, or `sostenuto train`."""
    module = main_module()
    return os.path.basename(sys.argv[0]) if module is None else _invocations.get(module, module)


def command_invocation() -> str:
    """Returns the words that start this command in a shell: `python -m trainer`, or `sostenuto train`."""
    module = main_module()
    return os.path.basename(sys.argv[0]) if module is None else _invocations.get(module, f"python -m {module}")


def main_module() -> str | None:
    """Returns the name of the module that runs as `__main__`; None for a script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else spec.name.removesuffix(".__main__")
