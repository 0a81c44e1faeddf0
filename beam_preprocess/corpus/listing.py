"""Lists the files of an input: a directory, a glob, a zip file or one MIDI file."""

import dataclasses
import functools
import glob
import os
import posixpath
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable

from beam_preprocess.corpus.archive import list_zip
from sostenuto import storage
from sostenuto.errors import UserError
from sostenuto.music.midi import is_midi_name

# Formats that hold MIDI and are not read.
OTHER_EXTENSIONS = (".kar", ".rmi")
# Names of files that may be metadata.
TABLE_EXTENSIONS = (".csv", ".tsv", ".json")


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
    def other_formats(self) -> dict[str, int]:
        """Number of files that hold MIDI in a format that is not read, by extension."""
        extensions = (posixpath.splitext(name)[1].lower() for name in self.locations)
        return dict(sorted(Counter(extension for extension in extensions if extension in OTHER_EXTENSIONS).items()))

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


def identity(path: str) -> str:
    """Returns a form of a path that is equal for all its spellings: ./a, Windows' separators, composed letters."""
    return unicodedata.normalize("NFC", posixpath.normpath(path.replace("\\", "/")))


def list_input(uri: str) -> Listing:
    """Returns the files of an input; raises a UserError if there is none, a zip is corrupt, or two have one path."""
    is_remote = storage.is_remote(uri)
    path = uri if is_remote else storage.local_path(uri)
    is_zip = path.lower().endswith(".zip")
    if storage.is_object(path) if is_remote else os.path.isfile(path):
        if is_zip or (not is_remote and zipfile.is_zipfile(path)):
            return Listing(uri, _by_path(uri, list_zip(path)), archive=path)
        return Listing(uri, _by_path(uri, [(posixpath.basename(path), path)]))
    if storage.is_directory(path):
        return Listing(uri, _by_path(uri, ((name, storage.join(path, name)) for name in storage.list_files(path))))
    if glob.has_magic(path):
        return _list_remote_glob(uri) if is_remote else _list_glob(uri, os.path.normpath(path))
    kind = "object or directory" if is_remote else "file" if is_zip or is_midi_name(path) else "directory"
    raise UserError(f"{uri}: no such {kind}. Expected a directory, a glob, a .zip or a MIDI file")


def _by_path(uri: str, files: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns the locations of files by their paths; raises a UserError if two of them have one path."""
    locations: dict[str, str] = {}
    identities: set[str] = set()
    for name, location in files:
        # UTF-8 can encode the path: bytes in another encoding become escapes.
        path = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if is_midi_name(path) or _is_table_name(path):
            if identity(path) in identities:
                raise UserError(
                    f"{uri}: holds {path} more than once, or in two spellings. Remove or rename all but one of them"
                )
            identities.add(identity(path))
        locations[path] = location
    return locations


def _list_remote_glob(uri: str) -> Listing:
    """Returns the objects that a glob matches, and the tables in the directories above them."""
    base, pattern = _split_glob(uri)
    names = storage.list_files(base)
    matches = storage.match_names(names, pattern)
    if not matches:
        raise UserError(f"{uri}: matches no object. Correct the pattern")
    parent = posixpath.commonpath([f"/{posixpath.dirname(name)}" for name in matches])
    tables = [
        name
        for name in names
        if _is_table_name(name) and posixpath.commonpath([parent, f"/{name}"]) == posixpath.dirname(f"/{name}")
    ]
    locations = _by_path(uri, ((name, storage.join(base, name)) for name in dict.fromkeys([*matches, *tables])))
    unmatched = set(map(identity, names)).difference(map(identity, matches))
    return Listing(uri, locations, is_unmatched=lambda path: identity(path) in unmatched)


def _list_glob(uri: str, path: str) -> Listing:
    """Returns the files that a glob matches, and the tables in the directories above them."""
    base, pattern = _split_glob(path)
    if not os.path.isdir(base or "."):
        raise UserError(f"{base}: no such directory. Correct the pattern {uri}")
    matches = sorted(glob.glob(os.path.join(glob.escape(base), pattern), recursive=True))
    paths = [match for match in matches if os.path.isfile(match)]
    if not paths:
        raise UserError(f"{uri}: matches no file. Correct the pattern; ** stands for directories of any depth")
    # A pattern for MIDI files does not match the metadata CSV, which usually is in a directory above them.
    parent = os.path.commonpath([os.path.dirname(path) for path in paths])
    while len(parent) >= len(base):
        tables = [os.path.join(parent, name) for name in storage.list_names(parent or ".") if _is_table_name(name)]
        paths += filter(os.path.isfile, tables)
        if parent == base:
            break
        parent = os.path.dirname(parent)
    names = ((os.path.relpath(path, base or "."), path) for path in dict.fromkeys(paths))

    def is_unmatched(path: str) -> bool:
        spellings = (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))
        return any(os.path.exists(os.path.join(base, spelling)) for spelling in spellings)

    return Listing(uri, _by_path(uri, names), is_unmatched=is_unmatched)


def _split_glob(path: str) -> tuple[str, str]:
    """Returns the directory that a glob searches, and the pattern below it; existing directories are no patterns."""
    parts = path.split("/")
    count = 0
    while count < len(parts) - 1:
        if glob.has_magic(parts[count]) and not storage.is_directory("/".join(parts[: count + 1])):
            break
        count += 1
    root = "/" if path.startswith("/") else ""
    return "/".join(parts[:count]) or root, "/".join(parts[count:])


def _is_table_name(name: str) -> bool:
    return name.lower().endswith(TABLE_EXTENSIONS)
