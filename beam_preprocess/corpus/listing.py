"""Lists the files of an input: a directory, a glob, a zip file or one MIDI file."""

import dataclasses
import functools
import glob
import os
import posixpath
import re
import zipfile
from collections.abc import Callable

from beam_preprocess.corpus.archive import list_zip
from sostenuto import storage
from sostenuto.errors import UserError
from sostenuto.music.midi import is_midi_name


@dataclasses.dataclass(frozen=True, slots=True)  # A corpus may have a million of them.
class CorpusFile:
    """One MIDI file, as far as it is known before it is opened."""

    path: str  # the file's name in the dataset: relative to the corpus's root, with forward slashes
    location: str  # a local path, a gs:// URI, or the name of a member of the corpus's zip file
    piece: str = ""  # the composition; all performances of a piece share a split
    split: str = ""
    composer: str = ""
    title: str = ""
    year: int = 0


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of an input."""

    uri: str  # the input, as the user passed it
    locations: dict[str, str]  # by the path below the input
    archive: str | None = None  # the path of the zip file
    is_unmatched: Callable[[str], bool] = lambda path: False  # whether a path exists that the glob does not match

    @functools.cached_property
    def midi_names(self) -> list[str]:
        """Paths of the MIDI files below the input."""
        return [name for name in self.locations if is_midi_name(name)]

    @functools.cached_property
    def roots(self) -> list[str]:
        """Directories that contain every MIDI file, from the input itself ("") to the deepest; [] without files."""
        if not self.midi_names:
            return []
        # commonpath needs all paths absolute, and members of a zip file may have either kind.
        deepest = posixpath.commonpath([posixpath.dirname(f"/{name}") for name in self.midi_names]).strip("/")
        parts = deepest.split("/") if deepest else []
        return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]

    def files_below(self, root: str) -> list[CorpusFile]:
        """Returns all MIDI files, with paths relative to a root."""
        return [CorpusFile(posixpath.relpath(name, root or "."), self.locations[name]) for name in self.midi_names]


def list_input(uri: str) -> Listing:
    """Returns the files of an input; raises a UserError if there is none, or a zip file is corrupt."""
    is_remote = storage.is_remote(uri)
    path = uri if is_remote else storage.local_path(uri)
    is_zip = path.lower().endswith(".zip")
    if storage.is_object(path) if is_remote else os.path.isfile(path):
        if is_zip or (not is_remote and zipfile.is_zipfile(path)):
            return Listing(uri, list_zip(path), archive=path)
        return Listing(uri, {_encodable(posixpath.basename(path)): path})
    if storage.is_directory(path):
        return Listing(uri, {_encodable(name): storage.join(path, name) for name in storage.list_files(path)})
    if glob.has_magic(path):
        return _list_remote_glob(uri) if is_remote else _list_glob(uri, os.path.normpath(path))
    kind = "object or directory" if is_remote else "file" if is_zip or is_midi_name(path) else "directory"
    raise UserError(f"{uri}: no such {kind}. Expected a directory, a glob, a .zip or a MIDI file")


def _list_remote_glob(uri: str) -> Listing:
    """Returns the objects that a glob matches, and the CSVs in the directories above them."""
    base = _glob_base(uri)
    names = storage.list_files(base)
    matches = storage.match_names(names, posixpath.relpath(uri, base))
    if not matches:
        raise UserError(f"{uri}: matches no object")
    parent = posixpath.commonpath([f"/{posixpath.dirname(name)}" for name in matches])
    tables = [
        name
        for name in names
        if name.lower().endswith(".csv") and posixpath.commonpath([parent, f"/{name}"]) == posixpath.dirname(f"/{name}")
    ]
    locations = {name: storage.join(base, name) for name in [*matches, *tables]}
    unmatched = set(names).difference(matches)
    return Listing(uri, locations, is_unmatched=lambda path: posixpath.normpath(path) in unmatched)


def _list_glob(uri: str, pattern: str) -> Listing:
    """Returns the files that a glob matches, and the CSVs in the directories above them."""
    base = _glob_base(pattern)
    if not os.path.isdir(base or "."):
        raise UserError(f"{base}: no such directory. Correct the pattern {uri}")
    paths = [path for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path)]
    if not paths:
        raise UserError(f"{uri}: matches no file. Quote a pattern, so that the shell does not expand it")
    # A pattern for MIDI files does not match the metadata CSV, which usually is in a directory above them.
    parent = os.path.commonpath([os.path.dirname(path) for path in paths])
    while len(parent) >= len(base):
        paths += filter(os.path.isfile, sorted(glob.glob(os.path.join(glob.escape(parent), "*.csv"))))
        if parent == base:
            break
        parent = os.path.dirname(parent)
    locations = {_encodable(os.path.relpath(path, base or ".")): path for path in paths}
    return Listing(uri, locations, is_unmatched=lambda path: os.path.exists(os.path.join(base, path)))


def _glob_base(pattern: str) -> str:
    """Returns the directory above the first wildcard of a glob."""
    return posixpath.dirname(re.split(r"[*?[]", pattern, maxsplit=1)[0])


def _encodable(name: str) -> str:
    """Returns a file name that UTF-8 can encode: bytes in another encoding become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
