"""Notes as CSV, for a spreadsheet or pandas: one row per note, times in seconds from the first onset."""

import codecs
import csv
from collections.abc import Sequence
from typing import BinaryIO

from sostenuto.music.notes import PITCHES, Notes, note_name

COLUMNS = ("pitch", "name", "onset", "offset", "step", "duration", "velocity")


class NoteTable:
    """Writes notes, after columns that describe their performance, to an open binary file."""

    def __init__(self, file: BinaryIO, *, described_by: Sequence[str] = ()) -> None:
        # A file's name may contain bytes that are not UTF-8.
        text = codecs.getwriter("utf-8")(file, "backslashreplace")
        self._writer = csv.writer(text, lineterminator="\n")
        self._writer.writerow((*described_by, *COLUMNS))
        self._names = [note_name(pitch) for pitch in range(PITCHES)]

    def add(self, notes: Notes, *description: str) -> None:
        """Adds a performance: one row per note, each with the same description."""
        pitches = notes.pitch.tolist()
        times = (
            [f"{us // 10**6}.{us % 10**6:06d}" for us in values.tolist()]
            for values in (notes.onset_us, notes.offset_us, notes.step_us, notes.duration_us)
        )
        rows = zip(pitches, [self._names[pitch] for pitch in pitches], *times, notes.velocity.tolist(), strict=True)
        self._writer.writerows((*description, *row) for row in rows)
