"""The one door to files: local paths and gs://BUCKET/NAME, written whole or not at all.

In a bucket a directory is what the names of objects begin with: it need not be made, and is gone with its last object.
An object is whole by nature: half of one is never seen.
"""

import collections
import concurrent.futures
import contextlib
import fcntl
import fnmatch
import hashlib
import io
import os
import posixpath
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from types import ModuleType
from typing import BinaryIO, TypeVar, cast

from sostenuto.errors import FileError, UserError

# What `atomic_write` adds to a name while the file is being written. Names that carry it are nobody's data.
TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{12}$")

_THREADS = 16  # requests under way at once, which mostly wait
_AHEAD_BYTES = 2**28
_REMOTE = "gs://"
_MISTYPED_REMOTE = re.compile(r"gs:[/\\]", re.IGNORECASE)
# At least two letters: "C:/" is a drive of Windows.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_REMEDIES = {
    "gs": "Copy the files to a local directory first",
    "file": "Remove file:// from the path",
    "http": "Download the files to a local directory first",
    "https": "Download the files to a local directory first",
}

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class MissingError(FileError):
    """There is no such object in the bucket."""


class ChangedError(FileError):
    """Another process has written what this one was about to."""


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path lies in a bucket."""
    return os.fspath(path).startswith(_REMOTE)


def join(base: str | os.PathLike, *names: str) -> str:
    """Returns the path of a name below a directory, here or in a bucket."""
    if is_remote(base):
        return "/".join([os.fspath(base).rstrip("/"), *names])
    return os.path.join(os.fspath(base), *names)


def local_path(path: str | os.PathLike) -> str:
    """Returns a path of this machine as a string.

    Raises:
        UserError: the path is a URI, such as s3://, or a mistyped gs://.
    """
    path = os.fspath(path)
    if _MISTYPED_REMOTE.match(path) and not is_remote(path):
        raise UserError(f"{path}: not a path in a bucket. Expected gs://BUCKET/PATH")
    if match := _SCHEME.match(path):
        scheme = match[1].lower()
        remedy = _REMEDIES.get(scheme, "Copy the files to a local directory or to gs:// first")
        raise UserError(f"{path}: {scheme}:// is not supported here. {remedy}")
    return path


def read_bytes(path: str | os.PathLike, *, limit: int | None = None) -> bytes:
    """Returns the content of a file.

    Args:
        path: the file.
        limit: returns no more than so many bytes from its beginning, and asks a bucket for no more.

    Raises:
        FileError: the file cannot be read.
    """
    if is_remote(path):
        content = io.BytesIO()
        _gcs().read(os.fspath(path), content, limit=limit)
        return content.getvalue()
    with open_binary(path) as file:
        try:
            return file.read(-1 if limit is None else limit)
        except OSError as error:
            raise FileError(f"{path}: cannot be read ({error.strerror})") from error


def read_range(path: str | os.PathLike, start: int, length: int) -> bytes:
    """Returns some bytes of a file, and asks a bucket for no others.

    Args:
        path: the file.
        start: the first of them.
        length: how many, fewer where the file ends.

    Raises:
        FileError: the file cannot be read.
    """
    if is_remote(path):
        return _gcs().read_range(os.fspath(path), start, length)
    with open_binary(path) as file:
        try:
            file.seek(start)
            return file.read(length)
        except OSError as error:
            raise FileError(f"{path}: cannot be read ({error.strerror})") from error


def open_binary(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading bytes; one of a bucket is fetched whole, and checked, before its first byte is read.

    Raises:
        FileError: the file cannot be opened.
    """
    if is_remote(path):
        file = _scratch_file()
        try:
            _gcs().read(os.fspath(path), file)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file
    path = local_path(path)
    try:
        return open(path, "rb")
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from error


def exists(path: str | os.PathLike) -> bool:
    """Returns whether there is a file or directory of that name."""
    if is_remote(path):
        return is_object(path) or is_directory(path)
    return os.path.exists(local_path(path))


def is_object(path: str | os.PathLike) -> bool:
    """Returns whether there is an object of that very name in a bucket."""
    path = _remote_path(path)
    # Consoles make empty objects "a/" that stand for directories.
    return "/" in path.removeprefix(_REMOTE) and not path.endswith("/") and generation(path) != 0


def is_directory(path: str | os.PathLike) -> bool:
    """Returns whether there is a directory of that name; in a bucket, whether there is anything below it."""
    if is_remote(path):
        return _gcs().has_children(os.fspath(path))
    return os.path.isdir(local_path(path))


def list_files(directory: str | os.PathLike) -> list[str]:
    """Returns the files below a directory, as sorted paths relative to it, with forward slashes.

    Links to files count as files; links to directories are not entered. A link to nothing is listed, so that whoever
    reads it can say so; FIFOs, sockets and devices are not, since reading one may never end.

    Raises:
        FileError: there is no such directory, or a directory below it cannot be read.
    """
    if is_remote(directory):
        names = list(generations(directory))
        if not names:
            raise FileError(f"{directory}: no such directory, or nothing in it")
        return names
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


def list_names(directory: str | os.PathLike) -> list[str]:
    """Returns the sorted names of what lies right in a directory; none, where a bucket has nothing of that name.

    Raises:
        FileError: it cannot be read.
    """
    if is_remote(directory):
        return _gcs().list_names(os.fspath(directory))
    try:
        return sorted(os.listdir(local_path(directory)))
    except OSError as error:
        raise FileError(f"{directory}: cannot be read ({error.strerror})") from error


def match_names(names: Iterable[str], pattern: str) -> list[str]:
    """Returns those of some paths that a pattern matches, as glob does: ** stands for directories of any depth.

    A name that begins with a dot is matched only by a pattern that begins with one.
    """
    return [name for name in names if _matches(name.split("/"), pattern.split("/"))]


def make_directories(path: str | os.PathLike) -> None:
    """Makes a directory and those above it, where they are missing; a bucket needs none.

    Raises:
        FileError: it cannot be made.
    """
    if is_remote(path):
        return
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
    if is_remote(path):
        _gcs().remove(os.fspath(path))
        return
    path = local_path(path)
    try:
        os.remove(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileError(f"{path}: cannot be removed ({error.strerror})") from error


def remove_directory(path: str | os.PathLike) -> None:
    """Removes a directory, here or in a bucket, with all that is in it; one that is not there is no error.

    Raises:
        FileError: something cannot be removed.
    """
    if is_remote(path):
        remove_all(join(path, name) for name in generations(path))
        return
    path = local_path(path)
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileError(f"{error.filename}: cannot be removed ({error.strerror})") from error


def rename(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Gives a file its name, in place of any file that had it, and makes that last through a power cut.

    In a bucket for some time both names are there; each is whole.

    Raises:
        FileError: it cannot be renamed.
        ChangedError: another process has written the target meanwhile; in a bucket only.
    """
    if is_remote(source) and is_remote(target):
        _gcs().rename(os.fspath(source), os.fspath(target))
        return
    source, target = local_path(source), local_path(target)
    try:
        os.replace(source, target)
        sync(os.path.dirname(target) or ".")
    except OSError as error:
        raise FileError(f"{target}: cannot be written ({error.strerror})") from error


def temporary_name(path: str | os.PathLike) -> str:
    """Returns a name beside `path` that nobody else uses; `TEMPORARY` recognizes it."""
    return f"{os.fspath(path)}.tmp-{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a new file for writing; on leaving it is on the disk or in the bucket, or, after an exception, gone.

    Raises:
        FileError: the file cannot be made or written, or there is one already.
    """
    if is_remote(path):
        with _scratch_file() as file:
            yield file
            if _gcs().write(os.fspath(path), file, generation=0) is None:
                raise ChangedError(f"{path}: cannot be written: it is there already")
        return
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
        ChangedError: another process has written it since it was opened; in a bucket only.
    """
    if is_remote(path):
        replaced = generation(path)
        with _scratch_file() as file:
            yield file
            _replace(os.fspath(path), file, replaced)
        return
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
        ChangedError: another process writes it at the same time; in a bucket only.
    """
    with atomic_write(path) as file:
        file.write(data)


def generation(path: str | os.PathLike) -> int:
    """Returns the number of an object's content, which every write changes; 0 where there is no object.

    Raises:
        FileError: it cannot be asked for.
    """
    found = _gcs().stat(_remote_path(path))
    return found.generation if found is not None else 0


def generations(directory: str | os.PathLike) -> dict[str, int]:
    """Returns the generation of each object below a directory of a bucket, by its sorted path relative to it.

    Raises:
        FileError: the bucket cannot be listed.
    """
    return _gcs().generations(_remote_path(directory))


def read_with_generation(path: str | os.PathLike) -> tuple[bytes, int]:
    """Returns an object's content and the generation that has this content.

    Raises:
        MissingError: there is no such object.
        FileError: it cannot be read.
    """
    content = io.BytesIO()
    found = _gcs().read(_remote_path(path), content)
    return content.getvalue(), found


def write_if_generation(path: str | os.PathLike, data: bytes, generation: int) -> int | None:
    """Writes an object in place of one generation of it, and no other: of all who try, one succeeds.

    Args:
        path: the object.
        data: its new content.
        generation: the one to replace; 0 writes only where there is no object.

    Returns:
        The new generation, or None if the object has another one than that given; then it is untouched.

    Raises:
        FileError: it cannot be written.
    """
    return _gcs().write(_remote_path(path), io.BytesIO(data), generation=generation)


def remove_if_generation(path: str | os.PathLike, generation: int) -> bool:
    """Removes one generation of an object, and no other.

    Returns:
        Whether the object is gone; False if it has another generation, which is untouched.

    Raises:
        FileError: it cannot be removed.
    """
    return _gcs().remove(_remote_path(path), generation=generation)


def upload(source: str | os.PathLike, target: str | os.PathLike, *, if_generation: int | None = None) -> int:
    """Copies a file of this machine into a bucket, in place of any object that is there.

    Args:
        source: the file.
        target: the object.
        if_generation: the one to replace, 0 for none; by default the one that is there now.

    Returns:
        The object's generation.

    Raises:
        ChangedError: the object has another generation, because another process has written it.
        FileError: the file cannot be read or the object cannot be written.
    """
    target = _remote_path(target)
    with open_binary(local_path(source)) as file:
        return _replace(target, file, generation(target) if if_generation is None else if_generation)


def download(source: str | os.PathLike, target: str | os.PathLike, *, generation: int | None = None) -> int:
    """Copies an object, checked against its CRC-32C, to a file of this machine, which appears whole.

    Args:
        source: the object.
        target: the file; directories above it are made.
        generation: which of its generations; the newest by default.

    Returns:
        The generation of what was copied.

    Raises:
        MissingError: there is no such object.
        FileError: it cannot be read, or the file cannot be written.
    """
    target = local_path(target)
    make_directories(os.path.dirname(target) or ".")
    with atomic_write(target) as file:
        return _gcs().read(_remote_path(source), file, generation=generation)


def upload_all(directory: str | os.PathLike, target: str | os.PathLike, names: Iterable[str]) -> dict[str, int]:
    """Copies files of a directory into a directory of a bucket, several at once.

    Args:
        directory: of this machine.
        target: in a bucket.
        names: paths relative to both.

    Returns:
        The generation of each, by its name. Where this returns, all are there.

    Raises:
        FileError: as of `upload`; some may be there then.
    """
    names = list(names)
    done = concurrently(lambda name: upload(join(directory, name), join(target, name)), names)
    return dict(zip(names, done, strict=True))


def download_all(
    source: str | os.PathLike, directory: str | os.PathLike, names: Iterable[str] | None = None
) -> dict[str, int]:
    """Copies objects below a directory of a bucket to a directory of this machine, several at once.

    Args:
        source: in a bucket.
        directory: of this machine; it is made.
        names: paths relative to both; by default all that are there.

    Returns:
        The generation of each, by its name. Where this returns, all are there.

    Raises:
        MissingError: one of them is not there.
        FileError: as of `download`; some may be there then.
    """
    names = list(generations(source) if names is None else names)
    for name in names:
        # A bucket may hold names that lead elsewhere.
        if posixpath.isabs(name) or posixpath.normpath(name) != name or name.startswith("../"):
            raise FileError(f"{join(source, name)}: cannot be a file below {os.fspath(directory)}: rename it")
    make_directories(directory)
    done = concurrently(lambda name: download(join(source, name), join(directory, name)), names)
    return dict(zip(names, done, strict=True))


def remove_all(paths: Iterable[str]) -> None:
    """Removes files, several at once; one that is not there is no error.

    Raises:
        FileError: one cannot be removed.
    """
    collections.deque(concurrently(remove, paths), maxlen=0)


def stage(path: str | os.PathLike) -> str:
    """Returns a path of this machine with the content of a file: its own, or that of a copy in the local cache.

    A copy is named by the object and its generation, is made once a machine, and may be deleted at any time.

    Raises:
        MissingError: there is no such object.
        FileError: it cannot be read.
    """
    if not is_remote(path):
        return local_path(path)
    path = os.fspath(path)
    newest = generation(path)
    if not newest:
        raise MissingError(f"{path}: no such object")
    digest = hashlib.sha256(path.encode()).hexdigest()
    copy = os.path.join(cache_directory(), f"{digest[:32]}-{newest}-{posixpath.basename(path)[-100:]}")
    if not os.path.exists(copy):
        download(path, copy, generation=newest)
    return copy


def cache_directory() -> str:
    """Returns a directory for what may be deleted at any time: in the user's cache, or in the temporary directory.

    Raises:
        FileError: neither can be written to.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for parent in (home, tempfile.gettempdir()):
        directory = os.path.join(parent, "sostenuto")
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK):
            return directory
    raise FileError(
        f"cannot write to {home} nor to {tempfile.gettempdir()}: set XDG_CACHE_HOME to a writable directory"
    )


def concurrently(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, bytes_each: int = 0
) -> Generator[_Result]:
    """Yields what a function returns for each item, in their order, with several calls under way ahead of the reader.

    It is for what waits, such as requests to a bucket.

    Args:
        function: called in other threads.
        items: what it is called with.
        bytes_each: memory that a call or its result may take, so that all under way together take no more than
            `_AHEAD_BYTES`, or one at a time is called.

    Raises:
        Exception: what the function raises, at its item's turn; calls that have not begun by then are not made.
    """
    ahead = min(2 * _THREADS, max(1, _AHEAD_BYTES // max(1, bytes_each)))
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


def close() -> None:
    """Closes the connections to buckets, if there are any; the next use opens new ones."""
    if "sostenuto.storage.gcs" in sys.modules:
        _gcs().close()


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


def _gcs() -> ModuleType:
    """Imports the library only where a path asks for it: it takes a second."""
    from sostenuto.storage import gcs

    return gcs


def _remote_path(path: str | os.PathLike) -> str:
    path = os.fspath(path)
    if not is_remote(path):
        raise UserError(f"{path}: is no path in a bucket, expected gs://BUCKET/NAME")
    return path


def _replace(target: str, file: BinaryIO, replaced: int) -> int:
    written = _gcs().write(target, file, generation=replaced)
    if written is None:
        raise ChangedError(
            f"{target}: was written by another process meanwhile, so this one left it alone: let only one write there"
        )
    return written


def _scratch_file() -> BinaryIO:
    """Returns a nameless temporary file, which lives in memory while it is small."""
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=2**24))


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Returns whether the parts of a path match those of a pattern, as in glob."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (
            bool(parts) and not parts[0].startswith(".") and _matches(parts[1:], pattern)
        )
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
