"""Jinja2 environment for HTML pages that are one file each, need no network, and are readable without a script."""

import functools
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sostenuto.html.elements import clean, element
from sostenuto.text import counted


@functools.cache
def environment(directory: Path) -> jinja2.Environment:
    """Returns the environment of a page, whose package has the directories `templates/` and `static/`."""
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
    result.filters |= {
        "counted": counted,
        "command": command,
        "fixed": fixed,
        "share": "{:.1%}".format,
        "thousands": "{:,}".format,
    }
    return result


def command(text: str) -> Markup:
    """Returns a command as code that breaks between its words if they fit a line."""
    return element("code", Markup(" ").join(element("span", word) for word in text.split(" ")), class_="command")


def fixed(value: float, digits: int = 3) -> str:
    """Formats a number with a fixed number of digits after the point."""
    return f"{value:.{digits}f}"


def _finalize(value: Any) -> Any:
    """Removes control characters from what a template prints."""
    return type(value)(clean(value)) if isinstance(value, str) else value


def _inline(owner: jinja2.Environment, name: str) -> Markup:
    """Returns a style sheet or a script, to be put into the page as it is."""
    assert owner.loader is not None
    source, _, _ = owner.loader.get_source(owner, name)
    return Markup(source)
