"""The one door to files: local paths, written whole or not at all."""

import contextlib
import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from notes.errors import FileError, UserError

# What `atomic_write` adds to a name while the file is being written. Names that carry it are nobody's data.
TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{12}$")


def local_path(path: str | os.PathLike) -> str:
    """Returns a path of this machine as a string.

    Raises:
        UserError: the path is a URI of another place, such as gs://.
    """
    path = os.fspath(path)
    scheme, separator, _ = path.partition("://")
    if separator and scheme.isalnum():
        raise UserError(
            f"{path}: {scheme}:// is not supported, expected a path of this machine; copy the files here first"
        )
    return path


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the whole content of a file.

    Raises:
        FileError: the file cannot be read.
    """
    with open_binary(path) as file:
        return file.read()


def open_binary(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading bytes.

    Raises:
        FileError: the file cannot be opened.
    """
    path = local_path(path)
    try:
        return open(path, "rb")
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from error


def exists(path: str | os.PathLike) -> bool:
    """Returns whether there is a file or directory of that name."""
    return os.path.exists(local_path(path))


def is_directory(path: str | os.PathLike) -> bool:
    """Returns whether there is a directory of that name."""
    return os.path.isdir(local_path(path))


def list_files(directory: str | os.PathLike) -> list[str]:
    """Returns the files below a directory, as sorted paths relative to it, with forward slashes.

    Links to files count as files; links to directories are not entered. A link to nothing is listed, so that whoever
    reads it can say so; FIFOs, sockets and devices are not, since reading one may never end.

    Raises:
        FileError: there is no such directory, or a directory below it cannot be read.
    """
    directory = local_path(directory)

    def refuse(error: OSError) -> None:
        raise FileError(f"{error.filename}: cannot be read ({error.strerror})") from error

    if not os.path.isdir(directory):
        raise FileError(f"{directory}: no such directory")
    found = []
    for parent, _, names in os.walk(directory, onerror=refuse):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path) or not os.path.exists(path):
                found.append(os.path.relpath(path, directory).replace(os.sep, "/"))
    return sorted(found)


def make_directories(path: str | os.PathLike) -> None:
    """Makes a directory and those above it, where they are missing.

    Raises:
        FileError: it cannot be made.
    """
    path = local_path(path)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: the directory cannot be made ({error.strerror})") from error


def remove(path: str | os.PathLike) -> None:
    """Removes a file; one that is not there is no error.

    Raises:
        FileError: it cannot be removed.
    """
    path = local_path(path)
    try:
        os.remove(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileError(f"{path}: cannot be removed ({error.strerror})") from error


def rename(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Gives a file its name, in place of any file that had it, and makes that last through a power cut.

    Raises:
        FileError: it cannot be renamed.
    """
    source, target = local_path(source), local_path(target)
    try:
        os.replace(source, target)
        sync(os.path.dirname(target) or ".")
    except OSError as error:
        raise FileError(f"{target}: cannot be written ({error.strerror})") from error


def temporary_name(path: str | os.PathLike) -> str:
    """Returns a name beside `path` that nobody else uses; `TEMPORARY` recognizes it."""
    return f"{local_path(path)}.tmp-{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a new file for writing; on leaving it is on the disk, or, after an exception, gone.

    Raises:
        FileError: the file cannot be made or written.
    """
    path = local_path(path)
    try:
        with open(path, "xb") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    os.remove(path)
                raise
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file for writing under a temporary name; on leaving, it takes its own name at once.

    After an exception nothing is left of it, and a file that had the name before is untouched.

    Raises:
        FileError: the file cannot be written.
    """
    temporary = temporary_name(path)
    with new_file(temporary) as file:
        yield file
    try:
        rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def write_bytes_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Writes a whole file, so that its name never stands for half of it.

    Raises:
        FileError: the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(data)


def lock(path: str | os.PathLike) -> BinaryIO | None:
    """Opens a file that other processes cannot lock until it is closed; None if one of them has it.

    Raises:
        FileError: the file cannot be made.
    """
    path = local_path(path)
    try:
        file = open(path, "wb")  # noqa: SIM115
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def sync(path: str) -> None:
    """Waits until a file is on the disk; a rename is once the directory is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
