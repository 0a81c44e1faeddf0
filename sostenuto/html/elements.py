"""SVG and HTML elements as escaped markup, for charts; pages themselves are Jinja2 templates."""

from typing import Any

from markupsafe import Markup

EMPTY = Markup("")


def clean(text: str) -> str:
    """Replaces control characters, which error messages and file names may contain and HTML forbids, by U+FFFD."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


def element(tag: str, *children: str | None, **attributes: Any) -> Markup:
    """Builds an element from `Markup` or text, which is escaped; leaves out children and attributes that are None.

    `class_` stands for `class`, `aria_label` for `aria-label`.
    """
    values = EMPTY.join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), clean(_format(value)))
        for name, value in attributes.items()
        if value is not None
    )
    content = EMPTY.join(
        child if isinstance(child, Markup) else clean(child) for child in children if child is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(tag, values, content)


def _format(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def svg(width: float, height: float, description: str, *content: Markup | None, **attributes: Any) -> Markup:
    """Builds a drawing with a description for screen readers."""
    return element(
        "svg", *content, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=description, **attributes
    )


def rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Builds a straight line of a class."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def label(x: float, y: float, text: str, kind: str) -> Markup:
    """Builds a text of a class."""
    return element("text", text, x=x, y=y, class_=kind)


def disc(x: float, y: float, radius: float) -> str:
    """Returns the path of a circle."""
    half = f"a{radius:g} {radius:g} 0 1 0"
    return f"M{x - radius:.1f} {y:.1f}{half} {2 * radius:g} 0{half} {-2 * radius:g} 0z"
