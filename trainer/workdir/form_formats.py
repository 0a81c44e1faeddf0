"""JSON of a piece's form within generated-SPLIT.json: classes of repetition and structure, and a picture."""

import dataclasses
import re
import reprlib
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, get_args

from sostenuto.data.json_record import JsonRecord
from sostenuto.errors import UserError
from sostenuto.text import counted

Distance: TypeAlias = Literal["1-32", "33-128", "129-512", "513-2048", "2049+"]
"""Notes back to an earlier place."""
Span: TypeAlias = Literal["short", "middle", "long"]
"""Length of a segment that returns."""

DISTANCES: Final[tuple[Distance, ...]] = get_args(Distance)
SPANS: Final[tuple[Span, ...]] = get_args(Span)
MAX_SECONDS: Final = 600
"""Seconds of a piece whose form is measured; the work grows with their fourth power."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormPicture(JsonRecord):
    """Content of a self-similarity picture of one piece, primer and continuation; times in seconds from its start.

    Attributes:
        primer_seconds: when the continuation starts.
        chroma: how long each pitch class sounds around each second, as 12 hexadecimal digits, the longest as f.
        repeats: start and end of each run of repeated notes, then those of the earlier place.
    """

    primer_seconds: float
    chroma: Sequence[str]
    repeats: Sequence[tuple[float, float, float, float]]

    def __post_init__(self) -> None:
        wrong = [frame for frame in self.chroma if not re.fullmatch("[0-9a-f]{12}", frame)]
        if wrong:
            raise UserError(f"chroma: got {reprlib.repr(wrong[0])}, expected 12 hexadecimal digits")
        if not 1 <= len(self.chroma) <= MAX_SECONDS:
            raise UserError(f"chroma: got {counted(len(self.chroma), 'second')}, expected 1 to {MAX_SECONDS}")
