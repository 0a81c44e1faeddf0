"""Atomic file access for local paths and gs:// URIs.

In a bucket a directory is a prefix of object names: it is not created, and disappears with its last object. Every
function raises `FileError` if a file cannot be read or written, and `UserError` for a path of another scheme.
"""

import collections
import functools
import sys
from collections.abc import Callable, Iterable
from typing import Concatenate, ParamSpec, TypeVar

import sostenuto.storage.local as _local
from sostenuto.storage.local import atomic_directory, lock, sync
from sostenuto.storage.paths import (
    TEMPORARY,
    StrPath,
    absolute,
    is_remote,
    join,
    local_path,
    match_names,
    remote_path,
    set_user_project,
    temporary_name,
    user_project,
)
from sostenuto.storage.transfer import (
    cache_directory,
    cached_file,
    concurrently,
    download,
    download_all,
    load_gcs,
    local_copy,
    upload,
    upload_all,
)

__all__ = [
    "TEMPORARY",
    "atomic_directory",
    "cache_directory",
    "cached_file",
    "concurrently",
    "download",
    "download_all",
    "is_remote",
    "join",
    "local_copy",
    "local_path",
    "lock",
    "match_names",
    "set_user_project",
    "sync",
    "temporary_name",
    "upload",
    "upload_all",
    "user_project",
]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _by_scheme(
    function: Callable[Concatenate[StrPath, _Parameters], _Result],
) -> Callable[Concatenate[StrPath, _Parameters], _Result]:
    """Returns a function that calls a local one, or for a gs:// path the one of the same name in `gcs`."""

    @functools.wraps(function)
    def dispatch(path: StrPath, /, *args: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        if is_remote(path):
            return getattr(load_gcs(), function.__name__)(path, *args, **options)
        return function(path, *args, **options)

    return dispatch


read_bytes = _by_scheme(_local.read_bytes)
read_range = _by_scheme(_local.read_range)
new_file = _by_scheme(_local.new_file)
atomic_write = _by_scheme(_local.atomic_write)
exists = _by_scheme(_local.exists)
is_directory = _by_scheme(_local.is_directory)
list_files = _by_scheme(_local.list_files)
list_names = _by_scheme(_local.list_names)
make_directories = _by_scheme(_local.make_directories)
remove = _by_scheme(_local.remove)
rename = _by_scheme(_local.rename)
copy = _by_scheme(_local.copy)
sizes = _by_scheme(_local.sizes)
checksum = _by_scheme(_local.checksum)


def write_bytes_atomic(path: StrPath, data: bytes) -> None:
    """Writes a file as a whole or not at all; in a bucket, raises ChangedError if another process writes it too."""
    with atomic_write(path) as file:
        file.write(data)


def remove_all(paths: Iterable[str]) -> None:
    """Deletes files, several at once. Missing files are no error."""
    collections.deque(concurrently(remove, paths), maxlen=0)


def remove_directory(path: StrPath) -> None:
    """Deletes a directory with its content, if there is one."""
    if is_remote(path):
        remove_all(join(path, name) for name in generations(path))
    else:
        _local.remove_directory(path)


def is_object(path: StrPath) -> bool:
    """Returns whether there is an object of exactly that name in a bucket."""
    return load_gcs().is_object(remote_path(path))


def remove_generation(path: StrPath, generation: int) -> bool:
    """Deletes one generation of an object of a bucket; returns False if the object has another."""
    return load_gcs().remove(remote_path(path), generation=generation)


def generations(directory: StrPath) -> dict[str, int]:
    """Returns the generation of each object below a directory of a bucket, by its sorted path relative to it."""
    return load_gcs().generations(remote_path(directory))


def restart_patience() -> None:
    """Gives the next writes to buckets their full time, unless the command itself has waited, not only its uploads."""
    if client := sys.modules.get("sostenuto.storage.gcs_client"):
        client.connect().patience.restart()


def close() -> None:
    """Closes the connections to buckets, if there are any; the next use opens new ones."""
    if client := sys.modules.get("sostenuto.storage.gcs_client"):
        client.close()
