"""What the project's HTML pages are made of: elements, their look by day and night, on a phone and on paper.

A page is built as a tree of elements, so that text is escaped and every element closed by construction. It is one file
that needs no network, no library, and no script to be read. Colours are classes, so that a dark screen and paper each
get their own.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any, Final

LIGHT: Final = {
    "ink": "#1b2430", "soft": "#566273", "page": "#f6f7f9", "card": "#ffffff", "edge": "#dfe3e9", "best": "#d55e00",
    "failed": "#a3334b", "row": "#fff4ea",
}  # fmt: skip
"""Colours of every page by day, by name."""
DARK: Final = {
    "ink": "#e7ebf0", "soft": "#9ba7b6", "page": "#10151c", "card": "#19202a", "edge": "#2c3644", "best": "#ff9e4f",
    "failed": "#f08aa0", "row": "#32271d",
}  # fmt: skip
"""The same by night."""

BASE: Final = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
 "Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:64rem;margin:0 auto;padding:2rem clamp(.75rem,3vw,2rem) 4rem}
header{margin:0 0 1.75rem}
h1{font-size:clamp(1.7rem,5vw,2.4rem);line-height:1.15;margin:0 0 .75rem;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .3rem;letter-spacing:-.01em} h3{font-size:1rem;margin:1.2rem 0 .4rem} p{margin:0 0 .8rem}
.eyebrow{margin:0;color:var(--soft);font-size:.8rem;letter-spacing:.12em;text-transform:uppercase}
.lead{font-size:1.08rem;max-width:48rem} .small{color:var(--soft);font-size:.9rem;max-width:48rem}
section,.tile{background:var(--card);border:1px solid var(--edge);border-radius:12px}
section{padding:1.2rem clamp(.8rem,2.5vw,1.5rem);margin:0 0 1.25rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1.2rem 0}
.tile{padding:.7rem 1rem} dt{color:var(--soft);font-size:.85rem} dd{margin:0;font-size:1.65rem;font-weight:650;
 line-height:1.25;font-variant-numeric:tabular-nums} .unit,dd.unit{color:var(--soft);font-size:.78rem;font-weight:400}
.wide{overflow-x:auto;margin:0 0 .8rem} .wide:last-child{margin:0}
:is(.wide,button,pre,summary,svg,a):focus-visible{outline:2px solid var(--best);outline-offset:2px}
.multiples{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:1.1rem 1.25rem}
figure{margin:0;max-width:27rem} figcaption{font-size:.85rem;color:var(--soft)} figcaption b{color:var(--ink)}
svg{display:block;width:100%;height:auto;font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}
text{fill:var(--soft);font-variant-numeric:tabular-nums} .name{fill:var(--ink);font-weight:600} .end{text-anchor:end}
.over text{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
.middle{text-anchor:middle} .axis{stroke:var(--soft);stroke-width:1} .grid{stroke:var(--edge);stroke-width:1}
.bars{max-width:44rem} .bars th,.bars td{border:0} .bar{width:100%} .bar i{display:block;height:1.05rem;min-width:2px;
 border-radius:3px;background:var(--bar);print-color-adjust:exact;-webkit-print-color-adjust:exact}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.3rem;align-items:center;font-size:.85rem;color:var(--soft)}
.key{display:inline-block;width:1.1rem;height:.32rem;margin-right:.4rem;vertical-align:middle;border-radius:2px;
 background:var(--colour);print-color-adjust:exact;-webkit-print-color-adjust:exact}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums} .compact{width:auto}
th,td{padding:.34rem .65rem;text-align:left;white-space:nowrap;border-bottom:1px solid var(--edge)} th{font-weight:600}
table:not(.sortable) th{white-space:normal}
thead th{vertical-align:bottom;color:var(--soft)} .number{text-align:right} .changed{font-weight:700}
tr.best th,tr.best td{background:var(--row);font-weight:650} tr.best th:first-child{box-shadow:inset 3px 0 var(--best)}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
button{font:inherit;font-weight:600;color:inherit;background:none;border:0;padding:.3rem 0;cursor:pointer;
 white-space:nowrap}
code.command span{display:inline-block;max-width:100%} .whole{white-space:nowrap}
code{overflow-wrap:anywhere;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{white-space:pre-wrap;background:var(--page);border:1px solid var(--edge);border-radius:8px;padding:.7rem .9rem;
 margin:0;font-size:.85rem}
@media (max-width:34rem){section{border-radius:8px} th,td{padding:.4rem .2rem}
 table:not(.sortable){font-size:.78rem} table .unit{display:none}}
@media print{body{font-size:10pt} main{max-width:none;padding:0} section,.tile{border-color:#ccc}
 .tile,tr,figure,li,pre,svg,table:not(.sortable){break-inside:avoid} .wide{overflow:visible}
 h2+p{break-inside:avoid} h1,h2,h3,h2+p,.legend,figcaption,thead,summary{break-after:avoid} p{orphans:3;widows:3}}
"""
"""What every page looks like."""


def theme(light: Mapping[str, str], dark: Mapping[str, str]) -> str:
    """The style sheet's colours: by day, by night, and on paper, where they are those of the day.

    Args:
        light: by name, without the two dashes.
        dark: the same names.
    """
    day, night = ("".join(f"--{name}:{colour};" for name, colour in named.items()) for named in (light, dark))
    return (
        f":root{{color-scheme:light dark;{day}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{night}}}}}\n"
        f"@media print{{:root{{color-scheme:light;{day}--page:#fff;--row:#fff;}}}}\n"
    )


def document(title: str, *content: ET.Element, style: str, script: str, has_sound: bool = False) -> str:
    """The text of an HTML file.

    Args:
        title: what the browser's tab says.
        content: what stands in `<main>`.
        style: the style sheet.
        script: what only makes the page more convenient.
        has_sound: whether there are players, of sound that stands in the page itself.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        # The browser itself holds the page to needing nothing from elsewhere.
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content=policy + ("; media-src data:" if has_sound else ""),
        ),
        element("title", title),
        element("style", style),
    )
    body = element("body", element("main", *content), element("script", script))
    return "<!DOCTYPE html>\n" + ET.tostring(element("html", head, body, lang="en"), "unicode", method="html") + "\n"


def section(title: str, told: str, *content: ET.Element, anchor: str | None = None) -> ET.Element:
    """A part of a page: what it is, what it shows in words, and that.

    Args:
        title: above it.
        told: beneath the title.
        content: what follows.
        anchor: its id, to jump to.
    """
    return element("section", element("h2", title), element("p", told, class_="small"), *content, id=anchor)


def scrolling(name: str, content: ET.Element) -> ET.Element:
    """What may be wider than a phone; the keyboard scrolls it too."""
    return element("div", content, class_="wide", tabindex=0, role="region", aria_label=name)


def command(text: str) -> ET.Element:
    """Returns a command as code whose lines break between its words, as far as these fit into a line."""
    first, *others = (element("span", word) for word in text.split(" "))
    return element("code", first, *(part for word in others for part in (" ", word)), class_="command")


def tiles(*tiles: tuple[str, str, str]) -> ET.Element:
    """The few numbers that matter most: of each its name, the number, and its unit or what it means."""
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", value), element("dd", unit, class_="unit"), class_="tile")
            for name, value, unit in tiles
        ),
        class_="tiles",
    )


def element(tag: str, *children: "ET.Element | str | None", **attributes: Any) -> ET.Element:
    """An element; children and attributes that are None are left out.

    Args:
        tag: its name.
        children: elements and text, in order.
        attributes: `class_` is `class`, and `aria_label` `aria-label`.
    """
    made = ET.Element(tag)
    for name, value in attributes.items():
        if value is not None:
            text = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) and name != "data_key" else str(value)
            made.set(name.rstrip("_").replace("_", "-"), _clean(text))
    for child in children:
        if isinstance(child, ET.Element):
            made.append(child)
        elif child is None:
            continue
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + _clean(child)
        else:
            made.text = (made.text or "") + _clean(child)
    return made


def _clean(text: str) -> str:
    """Without control characters, which have no place in a page and come in messages and in names of files."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
