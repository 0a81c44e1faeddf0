"""Types of flags: paths, texts and lists of them, with the placeholder of their value in `--help`."""

from absl import flags

from sostenuto import storage
from sostenuto.errors import UserError


class _Parser:
    """A parser of flags; `kind` is the placeholder of the value in `--help`, such as "DIR" or "NAME,..."."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind


class Text(_Parser, flags.ArgumentParser[str]):
    """Any text."""


class Texts(_Parser, flags.ListParser):
    """Texts separated by commas."""


class Path(Text):
    """A local path or, by default, also a gs:// URI."""

    def __init__(self, kind: str, remote: bool = True) -> None:
        super().__init__(kind)
        self._remote = remote

    def parse(self, argument: str) -> str:
        """Returns the path; raises ValueError for a URI that the command does not support."""
        return _check(argument, remote=self._remote)


class Paths(Texts):
    """Local paths or gs:// URIs, separated by commas."""

    def parse(self, argument: str | list[str]) -> list[str]:
        """Returns the paths; raises ValueError for a URI that the command does not support."""
        return [_check(path, remote=True) for path in super().parse(argument)]


def _check(path: str, *, remote: bool) -> str:
    try:
        if not (remote and storage.is_remote(path)):
            storage.local_path(path)
    except UserError as error:
        raise ValueError(str(error)) from error
    return path


# Titles of the groups of `--help`, each with the number of flags that were defined before it.
_groups: list[tuple[int, str]] = []


def start_group(title: str) -> None:
    """Starts a group of `--help`, to which the flags belong that are defined after this call."""
    _groups.append((len(flags.FLAGS), title))


def group_titles() -> dict[str, str]:
    """Returns the title of each flag's group, by the flag's name, in the order of definition."""
    titles = {}
    for position, name in enumerate(flags.FLAGS):
        titles[name] = next((title for start, title in reversed(_groups) if start <= position), "other")
    return titles
