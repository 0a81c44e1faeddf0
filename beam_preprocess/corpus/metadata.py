"""Metadata CSVs with MAESTRO's columns: splits, composers, titles and years."""

import csv
import dataclasses
import io
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from beam_preprocess.config import COMPOSER_COLUMN, DIRECTORY
from beam_preprocess.corpus.archive import Reader
from beam_preprocess.corpus.listing import TABLE_EXTENSIONS, CorpusFile, Listing, identity
from sostenuto import storage
from sostenuto.data.manifest import SPLITS
from sostenuto.errors import UserError
from sostenuto.text import counted

NO_METADATA = "none"
MAX_CSV_BYTES = 2**26  # MAESTRO's own CSV has less than 1 MB.

_REQUIRED_COLUMNS = ("midi_filename", "split")
_SNIFFED_BYTES = 2**20  # MAESTRO's own JSON has the file names after 0.2 MB.
_DELIMITERS = ",;\t|"


class Metadata(NamedTuple):
    """A metadata CSV."""

    name: str
    data: bytes
    root: str | None  # the directory that its file names are relative to, None if unknown


def find_metadata(metadata: str | None, listing: Listing, *, max_bytes: int = MAX_CSV_BYTES) -> Metadata | None:
    """Returns the CSV with the path `metadata`; for None, the one in the input, if any, of at most `max_bytes`.

    Of several files in the input, those count that are usable. If none is, but one seems to be meant as metadata, its
    use fails with the reason.
    """
    if metadata:
        return None if metadata == NO_METADATA else Metadata(metadata, storage.read_bytes(metadata), None)
    tables: list[Metadata] = []
    unusable: list[Metadata] = []
    with Reader(listing.archive) as reader:
        for name, location in _list_tables(listing):
            is_json = name.lower().endswith(".json")
            if is_json and tables:
                continue
            data = reader.read(location, limit=_SNIFFED_BYTES if is_json else max_bytes + 1)
            table = Metadata(name, data, posixpath.dirname(name))
            if not _is_meant(data):
                continue
            if _find_problem(data):
                unusable.append(table)
            elif len(data) > max_bytes:
                raise UserError(f"{name}: holds more than the {max_bytes:,} bytes that a metadata CSV may have")
            else:
                tables.append(table)
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise UserError(f"{listing.uri}: holds {len(tables)} metadata CSVs ({names}). Name one with --metadata")
    return next(iter(tables + unusable), None)


def join_metadata(table: Metadata, listing: Listing, composer_column: str = COMPOSER_COLUMN) -> list[CorpusFile]:
    """Returns the files that a CSV lists, with their metadata; raises a UserError if it names missing files or none."""
    rows = _read_rows(table, composer_column)
    roots = listing.roots if table.root is None else [table.root]
    files_by_root = {
        root: [file for file in listing.files_below(root) if identity(file.path) in rows] for root in roots
    }
    root, files = max(files_by_root.items(), key=lambda item: len(item[1]))
    found = {identity(file.path) for file in files}
    missing = [
        row.path
        for key, row in rows.items()
        if key not in found and not listing.is_unmatched(posixpath.join(root, row.path))
    ]
    if missing:
        raise UserError(
            f"{table.name}: names {len(missing)} of {counted(len(rows), 'file')} that {listing.uri} does not hold, "
            f"such as {missing[0]}. Complete the corpus, or correct the CSV"
        )
    if not files:
        raise UserError(f"{table.name}: lists no MIDI file of {listing.uri}. Pass another --metadata, or 'none'")
    return [dataclasses.replace(rows[identity(file.path)], location=file.location) for file in files]


def _list_tables(listing: Listing) -> list[tuple[str, str]]:
    """Returns names and locations of the files that may be metadata, by extension."""
    tables = [
        (name, location)
        for name, location in listing.locations.items()
        if name.lower().endswith(TABLE_EXTENSIONS) and posixpath.dirname(name) in listing.roots
    ]
    return sorted(tables, key=lambda table: (TABLE_EXTENSIONS.index(posixpath.splitext(table[0])[1].lower()), table))


def _is_meant(data: bytes) -> bool:
    """Returns whether a file seems to be metadata: one of its first lines has a required column in any spelling."""
    # UTF-16 is read like ASCII.
    text = data[:_SNIFFED_BYTES].replace(b"\0", b"").decode("utf-8", "replace").lower()
    if text.lstrip().startswith(("{", "[")):
        return "midifilename" in re.sub("[^a-z0-9]", "", text)
    head = "\n".join(re.split(r"[\r\n]+", text, maxsplit=3)[:3])
    return "midifilename" in re.sub("[^a-z0-9]", "", head) or "split" in _squeeze(re.split("[^a-z0-9_ -]+", head))


def _squeeze(cells: Iterable[str]) -> set[str]:
    """Returns the letters and digits of each cell in lower case."""
    return {re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in cells}


def _find_problem(data: bytes) -> str:
    """Returns why a file is no metadata CSV, as the end of a sentence, or ""."""
    if b"\0" in data or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "not a CSV in UTF-8 (it is in UTF-16)"
    if data.lstrip().startswith((b"{", b"[")):
        return "is JSON, expected MAESTRO's CSV"
    try:
        text = data.decode("utf-8-sig")
        header = next(csv.reader(io.StringIO(text)), [])
    except (UnicodeDecodeError, csv.Error) as error:
        is_cr = b"\r" in data and b"\n" not in data
        return f"not a CSV in UTF-8 ({'its lines end with CR, expected LF or CR LF' if is_cr else error})"
    if set(_REQUIRED_COLUMNS) <= set(header):
        return ""
    if text.lower().startswith("sep="):
        return f"begins with the line {text.splitlines()[0]!r}, expected the names of columns"
    required = _squeeze(_REQUIRED_COLUMNS)
    if required <= _squeeze(header):
        return f"has the columns {', '.join(header)}, expected {' and '.join(_REQUIRED_COLUMNS)} as spelled here"
    for delimiter in _DELIMITERS[1:]:
        if required <= _squeeze(",".join(header).split(delimiter)):
            return f"separates its columns by {delimiter!r}, expected ','"
    return f"lacks a column of {', '.join(_REQUIRED_COLUMNS)}"


def _read_rows(table: Metadata, composer_column: str) -> dict[str, CorpusFile]:
    """Returns the files of a metadata CSV by the identity of their paths, each row checked; without locations."""
    name = table.name
    if problem := _find_problem(table.data):
        raise UserError(f"{name}: {problem}. Save it as CSV in UTF-8 with MAESTRO's columns, or pass --metadata=none")
    if composer_column != COMPOSER_COLUMN:
        _require_column(table, composer_column)
    files: dict[str, CorpusFile] = {}
    for number, row in _parse_rows(table):
        path = posixpath.normpath(row["midi_filename"].replace("\\", "/"))
        split, year = row["split"], row.get("year") or "0"
        if split not in SPLITS:
            raise UserError(f"{name}: line {number} has split {split!r}, expected one of {', '.join(SPLITS)}")
        if not re.fullmatch("[0-9]{1,4}", year):
            raise UserError(f"{name}: line {number} has year {year!r}, expected a number of up to four digits")
        if identity(path) in files:
            raise UserError(f"{name}: names {path} more than once, by line {number} again. Remove one of the lines")
        composer, title = row.get(COMPOSER_COLUMN) or "", row.get("canonical_title") or ""
        piece = f"{composer}: {title}" if title else path
        composer = row.get(composer_column) or ""
        files[identity(path)] = CorpusFile(path, "", piece, split, composer, title, int(year))
    return files


def _require_column(table: Metadata, column: str) -> None:
    """Raises a UserError if a CSV lacks the column of --composer_from."""
    columns = next(csv.reader(io.StringIO(table.data.decode("utf-8-sig"))), [])
    if column not in columns:
        raise UserError(
            f"--composer_from={column}: {table.name} has no such column, expected one of {', '.join(columns)}, or "
            f"{DIRECTORY}"
        )


def _parse_rows(table: Metadata) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a CSV by the number of their last line."""
    reader = csv.DictReader(io.StringIO(table.data.decode("utf-8-sig")), restval="")
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{table.name}: line {reader.line_num}: not a CSV in UTF-8 ({error})") from error
