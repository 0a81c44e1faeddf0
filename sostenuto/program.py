"""Name of the running command, as the user called it: `python -m trainer` or `sostenuto train`."""

import os
import sys

_PACKAGES = {"sostenuto", "beam_preprocess", "trainer", "tuning", "play", "demo"}
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
    """Returns the name of the module that runs as `__main__`, or is to run as it; None for a script."""
    if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv[:-1]:  # Python imports the module's package first.
        return sys.orig_argv[sys.orig_argv.index("-m") + 1].removesuffix(".__main__")
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else spec.name.removesuffix(".__main__")


def is_command() -> bool:
    """Returns whether this process runs a command of this project, and does not only import its modules."""
    module = main_module()
    return os.path.basename(sys.argv[0]) == "sostenuto" if module is None else module.split(".")[0] in _PACKAGES
