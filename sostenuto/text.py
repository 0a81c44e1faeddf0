"""Plain text for a terminal: aligned columns, cut to fit, and nothing in it that a terminal would obey."""

import re
import textwrap
import unicodedata
from collections.abc import Sequence

GAP = 2  # cells between columns
_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories of what is no glyph
_LEAST_CELLS = 12  # to which a column of words may be cut


def printable(text: str) -> str:
    """Returns a text without what a terminal would obey or UTF-8 cannot hold: names of files may come from anyone.

    Control characters, line breaks and the halves of broken characters become "?".
    """
    return "".join("?" if unicodedata.category(character) in _OBEYED else character for character in text)


def cells(text: str) -> int:
    """Returns how many cells of a terminal a text takes: Chinese characters take two, combining accents none."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def shorten(text: str, width: int) -> str:
    """Returns a text of at most so many cells, its middle left out: names of files differ at their ends."""
    if cells(text) <= width:
        return text
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    while head and cells(head) > (width - 1) // 2:
        head = head[:-1]
    while tail and cells(head) + 1 + cells(tail) > width:
        tail = tail[1:]
    return f"{head}…{tail}"


def counted(number: int, what: str) -> str:
    """Returns "1 note", "2 notes", "3 notes of zero length"."""
    first, space, rest = what.partition(" of ")
    return f"{number:,} {first}{'s' if number != 1 else ''}{space}{rest}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, align: str, width: int | None) -> list[str]:
    """Returns the lines of a table.

    Args:
        header: a title for each column.
        rows: a text for each column.
        align: "<" or ">" for each column.
        width: cells of the terminal; columns of words, which are those that align left, are cut to fit, the widest
            first. None cuts nothing.
    """
    columns = [[printable(text) for text in column] for column in zip(header, *rows, strict=True)]
    widths = [max(map(cells, column)) for column in columns]
    if width is not None:
        words = [index for index, side in enumerate(align) if side == "<"]
        excess = sum(widths) + GAP * (len(widths) - 1) - width
        while excess > 0 and words:
            widest = max(words, key=lambda index: widths[index])
            if widths[widest] <= _LEAST_CELLS:
                break
            widths[widest] -= 1
            excess -= 1
    return [
        (" " * GAP)
        .join(_padded(text, cell_count, side) for text, cell_count, side in zip(row, widths, align, strict=True))
        .rstrip()
        for row in zip(*columns, strict=True)
    ]


def labelled(facts: Sequence[tuple[str, str]], *, width: int | None) -> list[str]:
    """Returns lines of labels and what they say, the latter in a column of its own, with its lines broken to fit.

    Args:
        facts: a label and a text each; an empty label goes on with the one before.
        width: cells of the terminal; None breaks nothing.
    """
    indent = max((cells(label) for label, _ in facts), default=0) + GAP
    lines = []
    for label, text in facts:
        room = None if width is None else max(width - indent, _LEAST_CELLS)
        for index, line in enumerate(_broken(printable(text), room)):
            lines.append((_padded(label if index == 0 else "", indent, "<") + line).rstrip())
    return lines


def indented(lines: Sequence[str]) -> list[str]:
    """Returns lines moved to the right by a column's gap."""
    return [" " * GAP + line if line else line for line in lines]


def _broken(text: str, room: int | None) -> list[str]:
    if room is None:
        return [text]
    # Words too long for a line, such as paths, are cut; textwrap counts characters, which is near enough.
    words = [shorten(word, room) for word in re.split(" +", text)]
    return textwrap.wrap(" ".join(words), room, break_long_words=False, break_on_hyphens=False) or [""]


def _padded(text: str, width: int, side: str) -> str:
    text = shorten(text, width)
    padding = " " * (width - cells(text))
    return text + padding if side == "<" else padding + text
