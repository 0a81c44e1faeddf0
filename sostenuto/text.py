"""Plain text for a terminal: aligned columns, shortened to fit, numbers in words, no control characters."""

import datetime
import re
import textwrap
import unicodedata
from collections.abc import Sequence

GAP = 2  # cells between columns
_CONTROL_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
_MIN_CELLS = 12  # of a shortened column of words


def printable(text: str) -> str:
    """Returns a text with "?" for control characters, line breaks and unpaired surrogates: file names are untrusted."""
    return "".join("?" if unicodedata.category(character) in _CONTROL_CATEGORIES else character for character in text)


def cells(text: str) -> int:
    """Returns the width of a text in cells of a terminal: Chinese characters take two, combining accents none."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def shorten(text: str, width: int) -> str:
    """Returns a text of at most `width` cells without its middle: file names differ at their ends."""
    if cells(text) <= width:
        return text
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    while head and cells(head) > (width - 1) // 2:
        head = head[:-1]
    while tail and cells(head) + 1 + cells(tail) > width:
        tail = tail[1:]
    return f"{head}…{tail}"


def counted(number: int, what: str) -> str:
    """Returns "1 note", "2 notes", "3 notes of zero length", "4 notes without a note-off"."""
    first = re.split(" of | without ", what)[0]
    return f"{number:,} {first}{'s' if number != 1 else ''}{what[len(first) :]}"


def file_size(count: float) -> str:
    """Returns a number of bytes with three digits, in a unit that fits: "999 B", "1.21 kB", "56.3 MB"."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.2f} GB"


def duration(seconds: float) -> str:
    """Returns a duration as h:mm:ss."""
    return str(datetime.timedelta(seconds=round(seconds)))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, align: str, width: int | None) -> list[str]:
    """Returns the lines of a table, aligned by "<" or ">" for each column.

    The widest columns with "<" are shortened to fit `width` cells; None shortens nothing.
    """
    columns = [[printable(text) for text in column] for column in zip(header, *rows, strict=True)]
    widths = [max(map(cells, column)) for column in columns]
    if width is not None:
        words = [index for index, side in enumerate(align) if side == "<"]
        excess = sum(widths) + GAP * (len(widths) - 1) - width
        while excess > 0 and words:
            widest = max(words, key=lambda index: widths[index])
            if widths[widest] <= _MIN_CELLS:
                break
            widths[widest] -= 1
            excess -= 1
    return [
        (" " * GAP).join(_pad(text, count, side) for text, count, side in zip(row, widths, align, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown, without a final line break."""
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([text.replace("|", "\\|") for text in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def labelled(facts: Sequence[tuple[str, str]], *, width: int | None) -> list[str]:
    """Returns labels and texts in two columns, wrapped to `width` cells; an empty label continues the one before."""
    indent = max((cells(label) for label, _ in facts), default=0) + GAP
    lines = []
    for label, text in facts:
        text_width = None if width is None else max(width - indent, _MIN_CELLS)
        for index, line in enumerate(_wrap(printable(text), text_width)):
            lines.append((_pad(label if index == 0 else "", indent, "<") + line).rstrip())
    return lines


def indented(lines: Sequence[str]) -> list[str]:
    """Returns lines moved to the right by a column's gap."""
    return [" " * GAP + line if line else line for line in lines]


def _wrap(text: str, width: int | None) -> list[str]:
    """Returns the lines of a text; words longer than a line, such as paths, are shortened."""
    if width is None:
        return [text]
    # textwrap counts characters instead of cells, which is close enough.
    words = [shorten(word, width) for word in re.split(" +", text)]
    return textwrap.wrap(" ".join(words), width, break_long_words=False, break_on_hyphens=False) or [""]


def _pad(text: str, width: int, side: str) -> str:
    text = shorten(text, width)
    padding = " " * (width - cells(text))
    return text + padding if side == "<" else padding + text
