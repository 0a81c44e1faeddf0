"""Local files and directories: atomic writes and locks."""

import base64
import contextlib
import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from sostenuto.errors import FileError
from sostenuto.storage.paths import TEMPORARY, StrPath, local_path, temporary_name

_SPECIAL = "a FIFO, socket or device, expected a regular file"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)


def read_bytes(path: StrPath, *, limit: int | None = None) -> bytes:
    """Returns the content of a file, at most `limit` bytes."""
    with open_binary(path) as file, _translate_errors(path, "read"):
        return file.read(-1 if limit is None else limit)


def read_range(path: StrPath, start: int, length: int) -> bytes:
    """Returns `length` bytes of a file from `start`; fewer where the file ends."""
    with open_binary(path) as file, _translate_errors(path, "read"):
        file.seek(start)
        return file.read(length)


def open_binary(path: StrPath) -> BinaryIO:
    """Opens a file for reading; a FIFO, socket or device is an error, because reading it may never end."""
    path = local_path(path)
    with _translate_errors(path, "read"):
        return open(path, "rb", opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    """Opens a regular file, without waiting for the other end of a FIFO."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) if stat.S_ISDIR(mode) else OSError(_SPECIAL)


def exists(path: StrPath) -> bool:
    """Returns whether there is a file or directory at the path."""
    return os.path.exists(local_path(path))


def is_directory(path: StrPath) -> bool:
    """Returns whether the path is a directory."""
    return os.path.isdir(local_path(path))


def list_files(directory: StrPath) -> list[str]:
    """Returns the files below a directory, as sorted paths relative to it; links to directories are not followed.

    Dangling links are listed, so that reading them fails. FIFOs, sockets and devices are not: reading one may block.
    """
    directory = local_path(directory)

    def fail(error: OSError) -> None:
        with _translate_errors(error.filename, "read"):
            raise error

    if not os.path.isdir(directory):
        raise FileError(f"{directory}: no such directory")
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(directory, onerror=fail) for name in names)
    files = [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    return sorted(os.path.relpath(path, directory).replace(os.sep, "/") for path in files)


def sizes(directory: StrPath) -> dict[str, int]:
    """Returns the size of each file below a directory, by its path relative to it."""
    directory = local_path(directory)
    paths = {name: os.path.join(directory, name) for name in list_files(directory)}
    return {name: os.path.getsize(path) for name, path in paths.items() if os.path.exists(path)}


def checksum(path: StrPath) -> tuple[int, str] | None:
    """Returns the size and the CRC-32C of a file as a bucket writes it, or None if there is no such file."""
    if not exists(path):
        return None
    with open_binary(path) as file, _translate_errors(path, "read"):
        digest = crc32c(file)
        return file.tell(), digest


def crc32c(file: BinaryIO) -> str:
    """Returns the CRC-32C of an open file, read from its beginning to its end, as a bucket writes it."""
    checksum = google_crc32c.Checksum()
    file.seek(0)
    while data := file.read(2**20):
        checksum.update(data)
    return encode_crc32c(checksum)


def encode_crc32c(checksum: google_crc32c.Checksum) -> str:
    """Returns a CRC-32C as a bucket writes it."""
    return base64.b64encode(checksum.digest()).decode()


def list_names(directory: StrPath) -> list[str]:
    """Returns the sorted names of a directory's entries."""
    directory = local_path(directory)
    with _translate_errors(directory, "read"):
        return sorted(os.listdir(directory))


def make_directories(path: StrPath) -> None:
    """Creates a directory and its parents."""
    path = local_path(path)
    with _translate_errors(path, "created"):
        os.makedirs(path, exist_ok=True)


def remove(path: StrPath) -> None:
    """Deletes a file, if there is one."""
    path = local_path(path)
    with _translate_errors(path, "deleted"), contextlib.suppress(FileNotFoundError):
        os.remove(path)


def remove_directory(path: StrPath) -> None:
    """Deletes a directory with its content, if there is one."""
    path = local_path(path)
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileError(f"{error.filename}: cannot be deleted ({error.strerror})") from error


def copy(source: StrPath, target: StrPath) -> None:
    """Gives a file a second name, or copies it where the file system has no links."""
    source, target = local_path(source), local_path(target)
    with _translate_errors(target, "written"):
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
        sync(target)
        sync(os.path.dirname(target) or ".")


def rename(source: StrPath, target: StrPath) -> None:
    """Renames a file or directory durably, in place of a file with the target's name."""
    source, target = local_path(source), local_path(target)
    with _translate_errors(target, "written"):
        os.replace(source, target)
        sync(os.path.dirname(target) or ".")


@contextlib.contextmanager
def new_file(path: StrPath) -> Iterator[BinaryIO]:
    """Creates a file, which is on the disk when the context ends and deleted after an exception."""
    path = local_path(path)
    with _translate_errors(path, "written"), open(path, "xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(path)
            raise


@contextlib.contextmanager
def atomic_write(path: StrPath) -> Iterator[BinaryIO]:
    """Opens a file under a temporary name, which is renamed when the context ends and deleted after an exception."""
    temporary = temporary_name(local_path(path))
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise FileError(f"{path}: cannot be written ({_SPECIAL})")
    with new_file(temporary) as file:
        yield file
    try:
        rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


@contextlib.contextmanager
def atomic_directory(path: StrPath) -> Iterator[str]:
    """Creates a directory under a temporary name, which takes the place of `path` when the context ends.

    At any moment, also after a kill or a loss of power, there is the old directory or the new one, each complete. After
    an exception it is the old one. A file system that cannot exchange names has neither for an instant.
    """
    path = local_path(path)
    target = os.path.realpath(path)
    with _translate_errors(path, "written"):
        temporary, descriptor = _create_locked(target)
        try:
            yield temporary
            for parent, _, names in os.walk(temporary):
                for name in (*names, "."):
                    sync(os.path.join(parent, name))
            _take_place(temporary, target)
            sync(os.path.dirname(target))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # unfinished, or the old directory
            os.close(descriptor)
        for name in os.listdir(os.path.dirname(target)):  # what killed processes left
            if name != os.path.basename(target) and TEMPORARY.sub("", name) == os.path.basename(target):
                left = os.path.join(os.path.dirname(target), name)
                if (unused := _lock_directory(left)) is not None:
                    shutil.rmtree(left, ignore_errors=True)
                    os.close(unused)


def _create_locked(target: str) -> tuple[str, int]:
    """Creates a temporary directory that no other process deletes; returns it and its lock."""
    while True:
        temporary = temporary_name(target)
        os.makedirs(temporary)
        # Another process may have found it before it was locked.
        if (descriptor := _lock_directory(temporary)) is not None:
            return temporary, descriptor


def _lock_directory(path: str) -> int | None:
    """Locks a directory until the returned descriptor is closed; None if another process uses or has deleted it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        with contextlib.suppress(FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
    except BlockingIOError:
        pass
    except OSError:  # a file system that cannot lock directories
        return descriptor
    os.close(descriptor)
    return None


def _take_place(new: str, target: str) -> None:
    """Renames a directory to `target`; an old directory of that name gets the name of the new one."""
    if not os.path.isdir(target):
        os.rename(new, target)
    elif not _exchange(new, target):
        old = temporary_name(target)
        os.rename(target, old)
        try:
            os.rename(new, target)
        except BaseException:
            os.rename(old, target)
            raise
        os.rename(old, new)


def _exchange(first: str, second: str) -> bool:
    """Exchanges the names of two directories at once; returns False where the system or the file system cannot."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):  # of Linux
        return False
    sys.audit("os.rename", first, second, -1, -1)
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), second)


def lock(path: StrPath) -> BinaryIO | None:
    """Creates and locks a file until it is closed; returns None if another process has locked it.

    The process that has locked the file may write to it, and delete it.
    """
    path = local_path(path)
    while True:
        with _translate_errors(path, "written"):
            file = open(path, "a+b", opener=_open_regular)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # Another process has deleted it since it was opened.


def sync(path: StrPath) -> None:
    """Flushes a file to the disk, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translate_errors(path: StrPath, action: str) -> Iterator[None]:
    """Raises an OSError as a FileError."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{path}: cannot be {action} ({error.strerror or error})") from error
