"""A split of the dataset as one table of notes in memory, ten bytes a note, and each performance's composer and piece.

So a batch is a pure function of the config and the train_step: any replica, worker or resumed run computes its part.
"""

import collections
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.data.performance import Performance
from sostenuto.music.notes import Notes
from sostenuto.progress import track
from trainer.data.note_tensors import NoteTensors

_CACHE_VERSION = 5  # Raise it when the content of a cached table changes.
_ROW = np.dtype([("pitch", "u1"), ("velocity", "u1"), ("step_us", "<i4"), ("duration_us", "<i4")])


class NoteTable(NamedTuple):
    """A split as one table.

    Attributes:
        notes: structured array `[notes]` with fields pitch, velocity, step_us, duration_us, performance after
            performance.
        offsets: int64 `[performances + 1]`; performance p is `notes[offsets[p]:offsets[p + 1]]`.
        composers: the composer of each performance, "" if unknown; empty if none is known.
        pieces: the piece of each performance; empty if none is known.
    """

    notes: np.ndarray
    offsets: np.ndarray
    composers: tuple[str, ...] = ()
    pieces: tuple[str, ...] = ()

    @property
    def lengths(self) -> np.ndarray:
        """Returns the number of notes of each performance, int64 `[performances]`."""
        return np.diff(self.offsets)

    def performance(self, index: int) -> NoteTensors:
        """Returns the notes of one performance, int32 `[notes]`."""
        rows = self._rows(index)
        return NoteTensors(*(rows[field].astype(np.int32) for field in NoteTensors._fields))

    def subset(self, performances: Sequence[int]) -> "NoteTable":
        """Returns a table of the given performances, in the given order."""
        rows = [self._rows(index) for index in performances]
        texts = (
            tuple(column[index] for index in performances) if column else () for column in (self.composers, self.pieces)
        )
        return NoteTable(np.concatenate([self.notes[:0], *rows]), _offsets(rows), *texts)

    def composer_ids(self, composers: Sequence[str]) -> np.ndarray:
        """Returns 1 + the index of each performance's composer in `composers`, 0 for others: int64 `[performances]`."""
        ids = {name: number for number, name in enumerate(composers, 1)}
        names = self.composers or [""] * len(self.lengths)
        return np.array([ids.get(name, 0) for name in names], np.int64)

    def composer_pieces(self) -> np.ndarray:
        """Returns the number of pieces of each performance's composer, int64 `[performances]`."""
        composers = self.composers or [""] * len(self.lengths)
        pieces = self.pieces or range(len(self.lengths))  # Unknown ones are all different.
        counts = collections.Counter(composer for composer, _ in {*zip(composers, pieces, strict=True)})
        return np.array([counts[composer] for composer in composers], np.int64)

    def _rows(self, index: int) -> np.ndarray:
        return self.notes[self.offsets[index] : self.offsets[index + 1]]


def select_fraction(performances: int, fraction: float) -> list[int]:
    """Selects a fixed pseudo-random fraction of the performances, at least one; a larger fraction is a superset."""
    permuted = sorted(range(performances), key=lambda index: hashlib.sha256(str(index).encode()).digest())
    return sorted(permuted[: math.ceil(fraction * performances)])


def load_table(manifest: Manifest, split: str, *, cache_directory: str | None = None) -> NoteTable:
    """Loads a split, from the local cache if the same dataset was loaded before.

    The cache key is the checksum of the manifest, which includes the checksums of all shards. The cache may be deleted
    at any time; a corrupt file of it is written again.

    Args:
        manifest: the dataset.
        split: train, validation or test.
        cache_directory: where tables are cached; by default the user's cache, or the temporary directory.

    Raises:
        UserError: the split is empty or a shard is corrupt.
    """
    directory = cache_directory or storage.cache_directory()
    path = os.path.join(directory, f"{manifest.sha256}-{split}-v{_CACHE_VERSION}.notes")

    def write(file: BinaryIO) -> None:
        performances = list(track_performances(manifest, split))
        rows = [_to_rows(performance.notes) for performance in performances]
        np.save(file, _offsets(rows))
        texts = json.dumps([[performance.composer, performance.piece] for performance in performances])
        np.save(file, np.frombuffer(texts.encode(), np.uint8))
        file.write(np.concatenate(rows).tobytes())

    with open(storage.cached_file(path, write), "rb") as file:
        offsets, texts = np.load(file), np.load(file)
        composers, pieces = zip(*json.loads(texts.tobytes()), strict=True)
        return NoteTable(np.memmap(file, _ROW, "r", file.tell(), (offsets[-1],)), offsets, composers, pieces)


def notes_table(performances: Sequence[Notes]) -> NoteTable:
    """Returns the table of performances."""
    rows = [_to_rows(notes) for notes in performances]
    return NoteTable(np.concatenate([np.empty(0, _ROW), *rows]), _offsets(rows))


def track_performances(manifest: Manifest, split: str) -> Iterator[Performance]:
    """Yields the performances of a split and shows the progress; raises `UserError` if a shard is corrupt."""
    total = manifest.performances(split)
    return track(
        manifest.read_performances(split), total=total, unit="performance", description=f"reading the {split} split"
    )


def _offsets(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.cumsum([0, *map(len, rows)], dtype=np.int64)


def _to_rows(notes: Notes) -> np.ndarray:
    rows = np.empty(len(notes), _ROW)
    for field in _ROW.names or ():
        rows[field] = getattr(notes, field)
    return rows
