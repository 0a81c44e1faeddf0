"""What a corpus holds: its MIDI files, and for each the piece it plays and the split it belongs to.

All of this is known before a file is opened, from the listing and the metadata CSV alone.
"""

import csv
import dataclasses
import functools
import glob
import hashlib
import io
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from beam_preprocess.config import PieceFrom
from sostenuto import storage
from sostenuto.data.manifest import SPLITS
from sostenuto.errors import UserError
from sostenuto.music.midi import EXTENSIONS, is_midi_name
from sostenuto.text import counted

NO_METADATA = "none"

# MAESTRO's own CSV holds less than a megabyte.
_MAX_CSV_BYTES = 2**26

# Bounds on hostile archives. A member's name and place take some hundred bytes of the directory at a zip file's end,
# and some 600 of memory. Performances shrink to a third, loops to a hundredth: nobody has a gigabyte of those.
MAX_MEMBERS = 2_000_000
_MAX_ZIP_DIRECTORY_BYTES = 256 * MAX_MEMBERS
MAX_INFLATION = 100
_HARMLESS_BYTES = 2**30
# The other methods of zip files have no bound on what a few bytes may become.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_REQUIRED_COLUMNS = ("midi_filename", "split")


@dataclasses.dataclass(frozen=True, slots=True)  # There may be a million of them.
class CorpusFile:
    """One MIDI file, and what is known about it before it is opened.

    Attributes:
        path: relative to the corpus's root, with forward slashes: the file's name in the dataset.
        location: where its bytes are: a path, also gs://, or the name of a member of the corpus's zip file.
        piece: the composition; all performances of one piece share a split.
        split: train, validation or test.
        composer: "" where unknown.
        title: "" where unknown.
        year: 0 where unknown.
    """

    path: str
    location: str
    piece: str = ""
    split: str = ""
    composer: str = ""
    title: str = ""
    year: int = 0


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The MIDI files of a corpus, each with its split.

    Attributes:
        archive: path of the zip file that holds them, also gs://, or None where each is a file of its own.
        files: sorted by path.
        metadata: base name of the metadata CSV, or None.
        metadata_sha256: hex digest of its bytes, or None.
        unlisted: number of MIDI files left out because the CSV does not list them.
    """

    archive: str | None
    files: list[CorpusFile]
    metadata: str | None
    metadata_sha256: str | None
    unlisted: int

    @property
    def straddling_pieces(self) -> int:
        """Number of pieces that stand in more than one split, which only a metadata CSV can bring about."""
        splits: dict[str, set[str]] = {}
        for file in self.files:
            splits.setdefault(file.piece, set()).add(file.split)
        return sum(len(found) > 1 for found in splits.values())


class _Metadata(NamedTuple):
    """A metadata CSV, and the directory below the input to which its names are relative (None: any that suits)."""

    name: str
    data: bytes
    root: str | None


@dataclasses.dataclass(frozen=True)
class _Listing:
    """The files of the input, before anything is known about them.

    Attributes:
        uri: the input as the user gave it.
        archive: path of the zip file, if the input is one.
        glob_base: the directory before a glob's first magic character; None if the input is no glob.
        locations: the location of each file, by its path below the input.
        unmatched: names of files below `glob_base` that a glob in a bucket does not match; a disk is asked instead.
    """

    uri: str
    archive: str | None
    glob_base: str | None
    locations: dict[str, str]
    unmatched: frozenset[str] = frozenset()

    @functools.cached_property
    def midi_names(self) -> list[str]:
        return [name for name in self.locations if is_midi_name(name)]

    @functools.cached_property
    def roots(self) -> list[str]:
        """The directories that hold every MIDI file, from the input itself ("") down to the deepest; [] without files.

        The deepest is the root to which paths are relative. So a zip file with one directory at its top, that
        directory unpacked, and the directory it was unpacked in give the same paths.
        """
        names = self.midi_names
        if not names:
            return []
        # commonpath wants all paths absolute or all relative; names of zip members are whatever their maker wrote.
        deepest = posixpath.commonpath([posixpath.dirname(f"/{name}") for name in names]).strip("/")
        parts = deepest.split("/") if deepest else []
        return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]

    def files_below(self, root: str) -> list[CorpusFile]:
        return [
            CorpusFile(path=posixpath.relpath(name, root or "."), location=self.locations[name])
            for name in self.midi_names
        ]

    def is_unmatched(self, root: str, name: str) -> bool:
        """Returns whether a file that a glob does not match is there nevertheless."""
        if self.glob_base is None:
            return False
        if storage.is_remote(self.glob_base):
            return posixpath.normpath(posixpath.join(root, name)) in self.unmatched
        return os.path.exists(os.path.join(self.glob_base, root, name))


class Reader:
    """Reads the files of a corpus; a context manager, so that a zip file is opened once for many files."""

    def __init__(self, archive: str | None) -> None:
        self._archive = archive
        self._zip: zipfile.ZipFile | None = None
        self._ahead: Generator[bytes | UserError] | None = None

    def __enter__(self) -> Self:
        """Opens the zip file, if there is one."""
        if self._archive is not None:
            self._zip = _open_zip(self._archive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes what is open."""
        self.close()

    def close(self) -> None:
        """Closes the zip file, and ends reading ahead."""
        self._end_reading_ahead()
        if self._zip is not None:
            self._zip.close()

    def expect(self, locations: Iterable[str], *, limit: int) -> None:
        """Says which calls of `read` will follow, in their order, so that files of a bucket are fetched ahead of them.

        One file of a bucket takes as long as decoding hundreds, and nearly all of it is waiting.
        """
        locations = list(locations)
        self._end_reading_ahead()
        if self._zip is None and any(map(storage.is_remote, locations)):
            self._ahead = storage.concurrently(lambda location: _read_or_error(location, limit), locations)

    def _end_reading_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def read(self, location: str, *, limit: int) -> bytes:
        """Returns the first `limit` bytes of a file.

        Raises:
            UserError: the file cannot be read.
        """
        if self._ahead is not None:
            found = next(self._ahead)
            if isinstance(found, UserError):
                raise found
            return found
        if self._zip is None:
            return storage.read_bytes(location, limit=limit)
        try:
            method = self._zip.getinfo(location).compress_type
            if method not in _COMPRESSIONS:
                raise ValueError(f"compressed by method {method}, expected stored or deflated")
            # Not a byte more is decompressed, whatever the archive says of the member's size.
            with self._zip.open(location) as member:
                return member.read(limit)
        # zipfile has no common ancestor for damaged, encrypted and exotically compressed members.
        except Exception as error:
            raise UserError(f"{location}: cannot be read from {self._archive} ({error})") from error


def _read_or_error(location: str, limit: int) -> bytes | UserError:
    try:
        return storage.read_bytes(location, limit=limit)
    except UserError as error:
        return error


def find_corpus(
    uri: str,
    *,
    metadata: str | None = None,
    split_fractions: Sequence[float] = (0.8, 0.1, 0.1),
    piece_from: PieceFrom = "path",
) -> Corpus:
    """Lists a corpus and gives each of its files a split.

    Args:
        uri: a directory, searched to its depths; a glob such as "midi/**/*.mid"; a .zip file; or one MIDI file; each
            on this machine or in a bucket, gs://.
        metadata: path of a CSV with MAESTRO's columns; "none" to use none; by default the one in the corpus, if any.
        split_fractions: shares of train, validation and test; 0 permits an empty split. With a CSV, the CSV splits.
        piece_from: without a CSV, what names the piece: "path", each file its own, or "directory", each directory.

    Raises:
        UserError: no MIDI file; a CSV that is damaged or names missing files; a split that would be empty.
    """
    listing = _list_input(uri)
    if not listing.roots:
        raise UserError(f"{uri}: holds no MIDI file, expected names that end in {' or '.join(EXTENSIONS)}")
    table = _find_metadata(metadata, listing)
    if table is None:
        files = listing.files_below(listing.roots[-1])
        files = [dataclasses.replace(file, piece=_piece_from(file.path, piece_from)) for file in files]
        split_of = assign_splits((file.piece for file in files), split_fractions)
        files = [dataclasses.replace(file, split=split_of[file.piece]) for file in files]
    else:
        files = _join_metadata(table, listing)
    _check_splits_filled(files, split_fractions, table)
    return Corpus(
        archive=listing.archive,
        files=sorted(files, key=lambda file: file.path),
        metadata=table and posixpath.basename(table.name),
        metadata_sha256=table and hashlib.sha256(table.data).hexdigest(),
        unlisted=len(listing.midi_names) - len(files),
    )


def assign_splits(pieces: Iterable[str], fractions: Sequence[float]) -> dict[str, str]:
    """Returns a split for each piece: pieces ordered by sha256 and cut by cumulative fraction.

    A split with a fraction above 0 gets at least one piece where there are enough, so that a small corpus fills
    every split.
    """
    ordered = sorted(set(pieces), key=lambda piece: (hashlib.sha256(piece.encode()).digest(), piece))
    total = sum(fractions)
    bounds = [round(len(ordered) * sum(fractions[: index + 1]) / total) for index in range(len(SPLITS))]
    counts = [high - low for low, high in zip([0, *bounds], bounds, strict=False)]
    for index, fraction in enumerate(fractions):
        largest = counts.index(max(counts))
        if fraction > 0 and counts[index] == 0 and counts[largest] > 1:
            counts[index], counts[largest] = 1, counts[largest] - 1
    names = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(ordered, names, strict=True))


def _check_splits_filled(files: list[CorpusFile], fractions: Sequence[float], table: _Metadata | None) -> None:
    filled = {file.split for file in files}
    empty = [split for split, fraction in zip(SPLITS, fractions, strict=True) if split not in filled and fraction > 0]
    if empty:
        too_few = f"{counted(len(files), 'file')} {'is' if len(files) == 1 else 'are'} too few for it"
        cause = f"{table.name} puts no file of the input into it" if table else too_few
        raise UserError(
            f"the {empty[0]} split would be empty: {cause}; permit that by a fraction of 0 in --split_fractions"
        )


def _list_input(uri: str) -> _Listing:
    if storage.is_remote(uri):
        return _list_remote(uri)
    path = storage.local_path(uri)
    if os.path.isdir(path):
        names = storage.list_files(path)
        return _Listing(uri, None, None, {_printable(name): os.path.join(path, name) for name in names})
    if os.path.isfile(path):
        if zipfile.is_zipfile(path):
            return _Listing(uri, path, None, _list_zip(path))
        if path.lower().endswith(".zip"):
            raise UserError(f"{uri}: is no zip file, or a damaged one: download it again")
        return _Listing(uri, None, None, {_printable(os.path.basename(path)): path})
    if glob.has_magic(path):
        return _list_glob(uri, os.path.normpath(path))
    raise UserError(f"{uri}: no such file or directory, expected a directory, a glob, a .zip or a MIDI file")


def _list_remote(uri: str) -> _Listing:
    if storage.is_object(uri):
        if uri.lower().endswith(".zip"):
            return _Listing(uri, uri, None, _list_zip(uri))
        return _Listing(uri, None, None, {posixpath.basename(uri): uri})
    if storage.is_directory(uri):
        return _Listing(uri, None, None, {name: storage.join(uri, name) for name in storage.list_files(uri)})
    if glob.has_magic(uri):
        return _list_remote_glob(uri)
    raise UserError(f"{uri}: no such object or directory, expected a directory, a glob, a .zip or a MIDI file")


def _list_remote_glob(uri: str) -> _Listing:
    base = posixpath.dirname(uri[: min(uri.find(magic) for magic in "*?[" if magic in uri)])
    names = storage.list_files(base)
    matches = storage.match_names(names, posixpath.relpath(uri, base))
    if not matches:
        raise UserError(f"{uri}: matches no object")
    above = posixpath.commonpath([f"/{posixpath.dirname(name)}" for name in matches])
    tables = [
        name
        for name in names
        if name.lower().endswith(".csv") and posixpath.commonpath([above, "/" + name]) == posixpath.dirname("/" + name)
    ]
    found = {name: storage.join(base, name) for name in [*matches, *tables]}
    return _Listing(uri, None, base, found, frozenset(names).difference(matches))


def _list_glob(uri: str, pattern: str) -> _Listing:
    matches = [match for match in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(match)]
    if not matches:
        raise UserError(f"{uri}: matches no file (quote a pattern, so that the shell does not expand it)")
    base = os.path.dirname(pattern[: min(pattern.find(magic) for magic in "*?[" if magic in pattern)])
    # A CSV above the files belongs to the input, though a pattern for MIDI files does not match it.
    above = os.path.commonpath([os.path.dirname(match) for match in matches])
    tables: list[str] = []
    while len(above) >= len(base):
        tables += filter(os.path.isfile, sorted(glob.glob(os.path.join(glob.escape(above), "*.csv"))))
        if above == base:
            break
        above = os.path.dirname(above)
    names = {_printable(os.path.relpath(match, base or ".").replace(os.sep, "/")): match for match in matches + tables}
    return _Listing(uri, None, base, names)


def _list_zip(path: str) -> dict[str, str]:
    """Returns the name of each member of a zip file by its path below the archive's top.

    Nothing is ever written under these names, and nothing outside the archive is read: an absolute name and one with
    ".." are paths below its top, too.

    Raises:
        UserError: there is no telling which member a path means, or the archive is made to exhaust whoever reads it.
    """
    with _open_zip(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) > MAX_MEMBERS:
        raise UserError(f"{path}: holds {len(members):,} members, more than the {MAX_MEMBERS:,} allowed: unpack it")
    size, unpacked = (
        os.path.getsize(storage.local_copy(path)),
        sum(member.file_size for member in members if is_midi_name(member.filename)),
    )
    if unpacked > max(MAX_INFLATION * size, _HARMLESS_BYTES):
        raise UserError(
            f"{path}: holds {size:,} bytes that would become {unpacked:,} of MIDI, more than {MAX_INFLATION} times as "
            "many: no corpus shrinks so well, so the archive is rejected"
        )
    names: dict[str, str] = {}
    for member in members:
        name = _printable(posixpath.normpath("/" + member.filename).lstrip("/"))
        if name in names and is_midi_name(name):
            raise UserError(f"{path}: holds {name} more than once, and which is meant cannot be told: remove one")
        names[name] = member.filename
    return names


def _open_zip(path: str) -> zipfile.ZipFile:
    try:
        return _BoundedZip(storage.local_copy(path))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: cannot be read as a zip file ({error}): download it again") from error


class _BoundedZip(zipfile.ZipFile):
    """A zip file that is not read if its directory is too large."""

    def __init__(self, path: str) -> None:
        self._bytes = _ZipBytes(path)
        try:
            super().__init__(self._bytes)
        except BaseException:
            self._bytes.close()
            raise

    def close(self) -> None:
        """Closes the file too."""
        super().close()
        self._bytes.close()


class _ZipBytes(io.FileIO):
    """A zip file's bytes, of which zipfile asks for the whole directory at once, however long it claims to be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_ZIP_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory claims {size:,} bytes, allowed are {_MAX_ZIP_DIRECTORY_BYTES:,}")
        return super().read(size)


def _printable(name: str) -> str:
    """Returns a file name as text that UTF-8 can hold; a name in another encoding keeps its odd bytes as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _piece_from(path: str, piece_from: str) -> str:
    return path if piece_from == "path" else posixpath.dirname(path) or "."


def _find_metadata(metadata: str | None, listing: _Listing) -> _Metadata | None:
    """Returns the CSV that the user names, or the one of the input, or None."""
    if metadata == NO_METADATA:
        return None
    if metadata:
        return _Metadata(metadata, storage.read_bytes(metadata), None)
    with Reader(listing.archive) as reader:
        tables = [
            _Metadata(name, reader.read(location, limit=_MAX_CSV_BYTES + 1), posixpath.dirname(name))
            for name, location in sorted(listing.locations.items())
            if name.lower().endswith(".csv") and posixpath.dirname(name) in listing.roots
        ]
    tables = [table for table in tables if _has_columns(table.data)]
    for table in tables:
        if len(table.data) > _MAX_CSV_BYTES:
            raise UserError(f"{table.name}: holds more than the {_MAX_CSV_BYTES:,} bytes that a metadata CSV may have")
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise UserError(f"{listing.uri}: holds {len(tables)} metadata CSVs ({names}): name one with --metadata")
    return tables[0] if tables else None


def _has_columns(data: bytes) -> bool:
    try:
        header = next(csv.reader(io.StringIO(data.decode("utf-8-sig", "replace"))), [])
    except csv.Error:
        return False
    return set(_REQUIRED_COLUMNS) <= set(header)


def _read_rows(table: _Metadata) -> list[dict[str, str]]:
    """Returns the rows of a metadata CSV, each checked.

    Raises:
        UserError: a column is missing, a split is unknown, a year is no number, or a file is named twice.
    """
    name = table.name
    try:
        rows = list(csv.DictReader(io.StringIO(table.data.decode("utf-8-sig")), restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name}: is no CSV in UTF-8 ({error})") from error
    if not _has_columns(table.data):
        raise UserError(f"{name}: lacks a column of {', '.join(_REQUIRED_COLUMNS)}: expected MAESTRO's metadata CSV")
    for number, row in enumerate(rows, start=2):
        if row["split"] not in SPLITS:
            raise UserError(f"{name}: line {number} has split {row['split']!r}, expected one of {', '.join(SPLITS)}")
        if not (row.get("year") or "0").isdecimal():
            raise UserError(f"{name}: line {number} has year {row['year']!r}, expected a number")
    twice = [path for path, count in Counter(row["midi_filename"] for row in rows).items() if count > 1]
    if twice:
        raise UserError(f"{name}: names {twice[0]} more than once")
    return rows


def _join_metadata(table: _Metadata, listing: _Listing) -> list[CorpusFile]:
    """Returns the files that the CSV lists, with what it says about them.

    Raises:
        UserError: it names files that are not there, or none that is.
    """
    rows = _read_rows(table)
    # Names are relative to the CSV's own directory; those of a CSV from elsewhere, to the directory that suits them.
    roots = listing.roots if table.root is None else [table.root]
    root = max(roots, key=lambda root: len(_listed(rows, listing.files_below(root))))
    found = _listed(rows, listing.files_below(root))
    names = {file.path for file in found}
    missing = [
        row["midi_filename"]
        for row in rows
        if posixpath.normpath(row["midi_filename"]) not in names
        and not listing.is_unmatched(root, row["midi_filename"])
    ]
    if missing:
        raise UserError(
            f"{table.name}: names {len(missing)} of {len(rows)} files that {listing.uri} does not hold, such as "
            f"{missing[0]}: complete the corpus, or correct the CSV"
        )
    if not found:
        raise UserError(
            f"{table.name}: lists none of the MIDI files of {listing.uri}: expected another --metadata, or none"
        )
    return found


def _listed(rows: list[dict[str, str]], files: list[CorpusFile]) -> list[CorpusFile]:
    """Returns those files that rows of a CSV name, with what the rows say about them."""
    by_path = {file.path: file for file in files}
    return [
        _described(by_path[path], row) for row in rows if (path := posixpath.normpath(row["midi_filename"])) in by_path
    ]


def _described(file: CorpusFile, row: dict[str, str]) -> CorpusFile:
    composer, title = row.get("canonical_composer") or "", row.get("canonical_title") or ""
    return dataclasses.replace(
        file,
        piece=f"{composer}: {title}" if title else file.path,
        split=row["split"],
        composer=composer,
        title=title,
        year=int(row.get("year") or 0),
    )
