"""Jinja2 environment for HTML pages that are one file each, need no network, and are readable without a script.

A package keeps its page in `templates/`, and its style sheet and script in `static/`. Both are searched before this
package's own, which hold what all pages share. `templates/page.html.j2` is the skeleton of every page.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sostenuto.html.elements import clean, element


@dataclasses.dataclass(frozen=True)
class Tile:
    """A number at the top of a page."""

    name: str
    value: str
    unit: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose first column names the rows and whose other columns are numbers.

    Attributes:
        caption: text for screen readers.
        head: name of each column.
        rows: a cell for each column.
        best: index of the row to highlight.
        is_compact: makes the table as narrow as its content.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int | None = None
    is_compact: bool = False


@functools.cache
def environment(directory: Path) -> jinja2.Environment:
    """Returns the environment of a page.

    Args:
        directory: the package with the page's `templates/` and `static/`.
    """
    shared = Path(__file__).parent
    folders = [root / folder for root in (directory, shared) for folder in ("templates", "static")]
    result = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    result.globals["inline"] = functools.partial(_inline, result)
    result.filters["command"] = command
    return result


def command(text: str) -> Markup:
    """Returns a command as code that breaks between its words if they fit a line."""
    return element("code", Markup(" ").join(element("span", word) for word in text.split(" ")), class_="command")


def _finalize(value: Any) -> Any:
    """Removes control characters from what a template prints."""
    return type(value)(clean(value)) if isinstance(value, str) else value


def _inline(owner: jinja2.Environment, name: str) -> Markup:
    """Returns a style sheet or a script, to be put into the page as it is."""
    assert owner.loader is not None
    source, _, _ = owner.loader.get_source(owner, name)
    return Markup(source)
