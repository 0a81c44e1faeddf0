"""Types of flags: paths, texts and lists of them, with the word that stands for their value in `--help`."""

from absl import flags

from sostenuto import storage
from sostenuto.errors import UserError


class Text(flags.ArgumentParser[str]):
    """Any text.

    Args:
        kind: stands for the value in `--help`, such as "HOST:PORT".
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind


class Texts(flags.ListParser):
    """Texts separated by commas.

    Args:
        kind: stands for the value in `--help`, such as "NAME,...".
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind


class Path(Text):
    """A path of this machine or, by default, also in a bucket.

    Args:
        kind: stands for the value in `--help`, such as "DIR".
        remote: whether gs:// is accepted.
    """

    def __init__(self, kind: str, remote: bool = True) -> None:
        super().__init__(kind)
        self._remote = remote

    def parse(self, argument: str) -> str:
        """Returns the path.

        Raises:
            ValueError: it is a URI that the command cannot read or write.
        """
        _check(argument, remote=self._remote)
        return argument


class Paths(Texts):
    """Paths of this machine or in a bucket, separated by commas."""

    def parse(self, argument: str | list[str]) -> list[str]:
        """Returns the paths.

        Raises:
            ValueError: one is a URI that the command cannot read or write.
        """
        paths = super().parse(argument)
        for path in paths:
            _check(path, remote=True)
        return paths


def _check(path: str, *, remote: bool) -> None:
    try:
        if not (remote and storage.is_remote(path)):
            storage.local_path(path)
    except UserError as error:
        raise ValueError(str(error)) from error


# The groups of `--help`, each with the number of flags that were defined before it began.
_groups: list[tuple[int, str]] = []


def group(title: str) -> None:
    """Begins a group of `--help`: the flags that are defined after this call belong to it."""
    _groups.append((len(flags.FLAGS), title))


def groups() -> dict[str, str]:
    """Returns the title of each flag's group, by the flag's name, in the order of definition."""
    titles = {}
    for position, name in enumerate(flags.FLAGS):
        begun = [title for start, title in _groups if start <= position]
        titles[name] = begun[-1] if begun else "other"
    return titles
