"""Copies between this machine and buckets, several at once, and the local cache."""

import collections
import concurrent.futures
import functools
import hashlib
import logging
import os
import posixpath
import tempfile
from collections.abc import Callable, Generator, Iterable
from types import ModuleType
from typing import BinaryIO, TypeVar

import sostenuto.storage.local as local
from sostenuto.errors import FileError, MissingError
from sostenuto.storage.paths import StrPath, is_remote, join, local_path, remote_path

logger = logging.getLogger(__name__)

_THREADS = 16  # concurrent requests, which mostly wait
_MEMORY_BYTES = 2**28

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def load_gcs() -> ModuleType:
    """Imports the module for buckets, which takes a second."""
    import sostenuto.storage.gcs as gcs

    return gcs


def upload(source: StrPath, target: StrPath, *, if_generation: int | None = None) -> int:
    """Copies a local file to an object, by default in place of its current generation (0: none); returns the new one.

    Raises ChangedError if another process wrote it.
    """
    target = remote_path(target)
    with local.open_binary(source) as file:
        return load_gcs().replace(
            target, file, load_gcs().generation(target) if if_generation is None else if_generation
        )


def download(source: StrPath, target: StrPath, *, generation: int | None = None) -> int:
    """Copies an object, by default its newest generation, checked and atomically; returns the generation.

    Raises MissingError if there is none.
    """
    target = local_path(target)
    local.make_directories(os.path.dirname(target) or ".")
    with local.atomic_write(target) as file:
        return load_gcs().read(remote_path(source), file, generation=generation)


def upload_all(directory: StrPath, target: StrPath, names: Iterable[str]) -> dict[str, int]:
    """Copies files below a local directory to a bucket, several at once; returns their generations by name."""
    names = list(names)
    uploads = concurrently(lambda name: upload(join(directory, name), join(target, name)), names)
    return dict(zip(names, uploads, strict=True))


def download_all(source: StrPath, directory: StrPath, names: Iterable[str] | None = None) -> dict[str, int]:
    """Copies objects, by default all below a directory of a bucket; returns their generations by name.

    Raises MissingError if one does not exist.
    """
    names = list(load_gcs().generations(remote_path(source)) if names is None else names)
    for name in names:
        # A bucket may hold names that lead out of the directory.
        if posixpath.isabs(name) or posixpath.normpath(name) != name or name.split("/")[0] == "..":
            raise FileError(f"{join(source, name)}: cannot be a file below {os.fspath(directory)}. Rename it")
    local.make_directories(directory)
    downloads = concurrently(lambda name: download(join(source, name), join(directory, name)), names)
    return dict(zip(names, downloads, strict=True))


def local_copy(path: StrPath) -> str:
    """Returns a local path with a file's content: its own, or that of a copy, which is made once, in the local cache.

    Raises MissingError if there is no such object.
    """
    if not is_remote(path):
        return local_path(path)
    path = os.fspath(path)
    newest = load_gcs().generation(path)
    if not newest:
        raise MissingError(f"{path}: no such object")
    digest = hashlib.sha256(path.encode()).hexdigest()
    copy = os.path.join(cache_directory(), f"{digest[:32]}-{newest}-{posixpath.basename(path)[-100:]}")
    return cached_file(copy, lambda file: load_gcs().read(path, file, generation=newest))


def cached_file(path: str, write: Callable[[BinaryIO], object]) -> str:
    """Returns the path of a cached file, which is written if there is none or it differs from its checksum."""
    checksum = f"{path}.sha256"
    if os.path.exists(path) and os.path.exists(checksum):
        try:
            status = os.stat(path)
            if local.read_bytes(checksum).decode() == _digest(path, status.st_ino, status.st_size, status.st_mtime_ns):
                return path
            problem: object = "differs from its checksum"
        except (OSError, UnicodeDecodeError, FileError) as error:
            problem = error
        logger.warning(f"{path}: the cached file is corrupt ({problem}); writing it again")
    with local.atomic_write(path) as file:
        write(file)
        file.flush()
        status = os.fstat(file.fileno())
        digest = _digest(file.name, status.st_ino, status.st_size, status.st_mtime_ns)
    with local.atomic_write(checksum) as file:
        file.write(digest.encode())
    return path


@functools.lru_cache
def _digest(path: str, *_: int) -> str:
    """Returns the SHA-256 of a file in a state, which is computed once in a process."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_directory() -> str:
    """Returns a directory for files that may be deleted at any time: in the user's cache or the temporary directory."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for parent in (home, tempfile.gettempdir()):
        directory = os.path.join(parent, "sostenuto")
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK):
            return directory
    raise FileError(f"{home}, {tempfile.gettempdir()}: not writable. Set XDG_CACHE_HOME to a writable directory")


def concurrently(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, bytes_each: int = 0
) -> Generator[_Result]:
    """Yields the results of calls in other threads, in the order of the items, several ahead of the reader.

    An exception is raised at its item's turn and cancels later calls. `bytes_each` is the memory of a call.
    """
    ahead = min(2 * _THREADS, max(1, _MEMORY_BYTES // max(1, bytes_each)))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        waiting: collections.deque[concurrent.futures.Future[_Result]] = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
