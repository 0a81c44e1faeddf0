"""MIDI files that the operands of `sostenuto inspect` name."""

import glob
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence

from sostenuto import storage
from sostenuto.errors import UnavailableError, UserError
from sostenuto.music.midi import EXTENSIONS, MAX_BYTES, MidiContents, is_midi_name, read_contents

logger = logging.getLogger(__name__)


def find_midi_files(path: str) -> list[str]:
    """Returns the MIDI files of a path: itself, those of a directory, or a glob's matches; UserError if none."""
    if path.lower().endswith(".zip"):
        raise UserError(f"{path}: is an archive: unpack it, or make a dataset of it with sostenuto preprocess")
    if storage.is_directory(path):
        if storage.is_remote(path):
            logger.info(f"listing {path}")
        names = [name for name in storage.list_files(path) if is_midi_name(name)]
        if not names:
            raise UserError(
                f"{path}: is a directory without dataset.json and without names that end in {' or '.join(EXTENSIONS)}"
            )
        return [storage.join(path, name) for name in names]
    if storage.exists(path):
        return [path]
    matches = _match_glob(path) if glob.has_magic(path) else []
    if not matches:
        raise UserError(f"{path}: no such file, expected a MIDI file, a directory, a glob in quotes or a dataset")
    return matches


def read_files(paths: Iterable[str]) -> Iterator[MidiContents | UserError]:
    """Yields the contents of each file, or the error if it cannot be read; prefetches from buckets."""
    paths = list(paths)
    ahead: Iterator[bytes | UserError] = map(_read_bytes, paths)
    if any(map(storage.is_remote, paths)):
        ahead = storage.concurrently(_read_bytes, paths, bytes_each=MAX_BYTES)
    for path, data in zip(paths, ahead, strict=True):
        try:
            yield data if isinstance(data, UserError) else read_contents(data, path)
        except UserError as error:
            yield error


def common_directory(paths: Sequence[str]) -> str:
    """Returns the deepest directory that contains all the paths; "" if there is none."""
    names = zip(*(path.split("/")[:-1] for path in paths), strict=False)
    common = [same for same, *_ in itertools.takewhile(lambda parts: len(set(parts)) == 1, names)]
    return "" if common in (["gs:"], ["gs:", ""]) else "/".join(common)


def _match_glob(pattern: str) -> list[str]:
    if not storage.is_remote(pattern):
        return sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
    logger.info(f"listing {pattern}")
    base = os.path.dirname(pattern[: min(pattern.find(magic) for magic in "*?[" if magic in pattern)])
    matches = storage.match_names(storage.list_files(base), pattern.removeprefix(base).lstrip("/"))
    return [storage.join(base, name) for name in matches]


def _read_bytes(path: str) -> bytes | UserError:
    try:
        return storage.read_bytes(path, limit=MAX_BYTES + 1)
    except UnavailableError:
        raise
    except UserError as error:
        return error
