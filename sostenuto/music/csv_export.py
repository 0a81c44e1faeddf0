"""Notes as CSV, for a spreadsheet or pandas: one row per note, times in seconds to the microsecond."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from sostenuto.music.notes import PITCHES, Notes, note_name

COLUMNS = ("pitch", "name", "onset", "offset", "step", "duration", "velocity")


class NoteTable:
    """Writes notes to an open file; times count from the first onset of each performance.

    Args:
        file: open for writing bytes.
        described_by: titles of columns before those of the notes, such as "path".
    """

    def __init__(self, file: BinaryIO, *, described_by: Sequence[str] = ()) -> None:
        self._file = file
        self._names = [note_name(pitch) for pitch in range(PITCHES)]
        self._write([(*described_by, *COLUMNS)])

    def add(self, notes: Notes, *description: str) -> None:
        """Adds a performance: one row per note, each with the same description."""
        names = [self._names[pitch] for pitch in notes.pitch.tolist()]
        times = (
            [f"{us // 10**6}.{us % 10**6:06d}" for us in values.tolist()]
            for values in (notes.onset_us, notes.offset_us, notes.step_us, notes.duration_us)
        )
        rows = zip(notes.pitch.tolist(), names, *times, notes.velocity.tolist(), strict=True)
        self._write((*description, *row) for row in rows)

    def _write(self, rows: Iterable[Sequence[object]]) -> None:
        """Appends rows."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        # A file's name may contain bytes that are not UTF-8.
        self._file.write(text.getvalue().encode("utf-8", "backslashreplace"))
