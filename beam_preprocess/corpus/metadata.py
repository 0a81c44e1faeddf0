"""Metadata CSVs with MAESTRO's columns: splits, composers, titles and years."""

import csv
import dataclasses
import io
import posixpath
from typing import NamedTuple

from beam_preprocess.corpus.archive import Reader
from beam_preprocess.corpus.listing import CorpusFile, Listing
from sostenuto import storage
from sostenuto.data.manifest import SPLITS
from sostenuto.errors import UserError
from sostenuto.text import counted

NO_METADATA = "none"
MAX_CSV_BYTES = 2**26  # MAESTRO's own CSV has less than 1 MB.

_REQUIRED_COLUMNS = ("midi_filename", "split")


class Metadata(NamedTuple):
    """A metadata CSV."""

    name: str
    data: bytes
    root: str | None  # the directory that its file names are relative to, None if unknown


def find_metadata(metadata: str | None, listing: Listing, *, max_bytes: int = MAX_CSV_BYTES) -> Metadata | None:
    """Returns the CSV with the path `metadata`; for None, the one in the input, if any, of at most `max_bytes`."""
    if metadata:
        return None if metadata == NO_METADATA else Metadata(metadata, storage.read_bytes(metadata), None)
    tables: list[Metadata] = []
    with Reader(listing.archive) as reader:
        for name, location in sorted(listing.locations.items()):
            if not name.lower().endswith(".csv") or posixpath.dirname(name) not in listing.roots:
                continue
            data = reader.read(location, limit=max_bytes + 1)
            if not _has_columns(data):
                continue
            if len(data) > max_bytes:
                raise UserError(f"{name}: holds more than the {max_bytes:,} bytes that a metadata CSV may have")
            tables.append(Metadata(name, data, posixpath.dirname(name)))
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise UserError(f"{listing.uri}: holds {len(tables)} metadata CSVs ({names}). Name one with --metadata")
    return tables[0] if tables else None


def join_metadata(table: Metadata, listing: Listing) -> list[CorpusFile]:
    """Returns the files that a CSV lists, with their metadata; raises a UserError if it names missing files or none."""
    rows = _read_rows(table)
    roots = listing.roots if table.root is None else [table.root]
    files_by_root = {root: [file for file in listing.files_below(root) if file.path in rows] for root in roots}
    root, files = max(files_by_root.items(), key=lambda item: len(item[1]))
    paths = {file.path for file in files}
    missing = [path for path in rows if path not in paths and not listing.is_unmatched(posixpath.join(root, path))]
    if missing:
        raise UserError(
            f"{table.name}: names {len(missing)} of {counted(len(rows), 'file')} that {listing.uri} does not hold, "
            f"such as {missing[0]}. Complete the corpus, or correct the CSV"
        )
    if not files:
        raise UserError(f"{table.name}: lists no MIDI file of {listing.uri}. Pass another --metadata, or 'none'")
    return [dataclasses.replace(rows[file.path], location=file.location) for file in files]


def _has_columns(data: bytes) -> bool:
    """Returns whether a CSV has the required columns."""
    try:
        header = next(csv.reader(io.StringIO(data.decode("utf-8-sig", "replace"))), [])
    except csv.Error:
        return False
    return set(_REQUIRED_COLUMNS) <= set(header)


def _read_rows(table: Metadata) -> dict[str, CorpusFile]:
    """Returns the files of a metadata CSV by path, each row checked; their locations are unknown."""
    name = table.name
    try:
        rows = list(csv.DictReader(io.StringIO(table.data.decode("utf-8-sig")), restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name}: not a CSV in UTF-8 ({error})") from error
    if not _has_columns(table.data):
        raise UserError(f"{name}: lacks a column of {', '.join(_REQUIRED_COLUMNS)}. Expected MAESTRO's metadata CSV")
    files: dict[str, CorpusFile] = {}
    for number, row in enumerate(rows, start=2):
        path, split, year = posixpath.normpath(row["midi_filename"]), row["split"], row.get("year") or "0"
        if split not in SPLITS:
            raise UserError(f"{name}: line {number} has split {split!r}, expected one of {', '.join(SPLITS)}")
        if not year.isdecimal():
            raise UserError(f"{name}: line {number} has year {year!r}, expected a number")
        if path in files:
            raise UserError(f"{name}: names {path} more than once")
        composer, title = row.get("canonical_composer") or "", row.get("canonical_title") or ""
        piece = f"{composer}: {title}" if title else path
        files[path] = CorpusFile(path, "", piece, split, composer, title, int(year))
    return files
