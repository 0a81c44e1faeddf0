"""Reader of a corpus's files, with limits on the directory, the members and the unpacked size of a zip file."""

import contextlib
import errno
import io
import os
import posixpath
import zipfile
from collections.abc import Iterator, Sequence

from sostenuto import storage
from sostenuto.errors import FileError, MidiDecodeError, UserError
from sostenuto.music.midi import is_midi_name

# Limits against hostile archives. A member takes about 100 bytes of the directory at the end of a zip file, and 600
# bytes of memory. Deflate shrinks performances to a third and loops to a hundredth.
MAX_MEMBERS = 2_000_000
MAX_DIRECTORY_BYTES = 256 * MAX_MEMBERS
MAX_INFLATION = 100
HARMLESS_BYTES = 2**30
# Other methods of zip files have no limit on the size that a few bytes unpack to.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Errors of one local file; others, and all of a bucket, are those of a disk or a network.
_FILE_ERRORS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR)


class Reader(contextlib.ExitStack):
    """Reads the files of a corpus, and keeps its zip file, if any, open until it is closed."""

    def __init__(self, archive: str | None) -> None:
        super().__init__()
        self._archive = archive
        self._zip = None if archive is None else self.enter_context(open_zip(archive))

    def read_many(self, locations: Sequence[str], *, limit: int) -> Iterator[bytes | MidiDecodeError]:
        """Yields what `read` returns for each file, or its MidiDecodeError; fetches remote files ahead."""

        def read(location: str) -> bytes | MidiDecodeError:
            try:
                return self.read(location, limit=limit)
            except MidiDecodeError as error:
                return error

        if self._zip is None and any(map(storage.is_remote, locations)):
            return storage.concurrently(read, locations)
        return map(read, locations)

    def read(self, location: str, *, limit: int) -> bytes:
        """Returns the first `limit` bytes of a file.

        Raises:
            MidiDecodeError: the file itself is at fault.
            FileError: the disk or the bucket is.
        """
        if self._zip is None:
            try:
                return storage.read_bytes(location, limit=limit)
            except FileError as error:
                cause = error.__cause__
                if not isinstance(cause, OSError) or cause.errno not in _FILE_ERRORS:
                    raise
                raise MidiDecodeError(location, "unreadable", f"cannot be opened ({cause.strerror})") from error
        try:
            method = self._zip.getinfo(location).compress_type
            if method not in _COMPRESSIONS:
                raise ValueError(f"compressed by method {method}, expected stored or deflated")
            # Decompresses no more than the limit, even if the archive declares a smaller size.
            with self._zip.open(location) as member:
                return member.read(limit)
        # zipfile has no common base class for the errors of corrupt and encrypted members.
        except Exception as error:
            # A corrupt archive can lead to an invalid position, EINVAL.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise FileError(f"{self._archive}: cannot be read ({error.strerror})") from error
            raise MidiDecodeError(location, "unreadable", f"cannot be read from the zip file ({error})") from error


def list_zip(
    path: str, *, max_members: int = MAX_MEMBERS, harmless_bytes: int = HARMLESS_BYTES
) -> list[tuple[str, str]]:
    """Returns paths below the top of a zip file with their members' names; raises a UserError beyond a limit."""
    with open_zip(path) as archive:
        # A name may be empty, which `is_dir` does not expect.
        members = [member for member in archive.infolist() if not member.filename.endswith("/")]
    if len(members) > max_members:
        raise UserError(f"{path}: holds {len(members):,} members, more than the {max_members:,} allowed. Unpack it")
    size = os.path.getsize(storage.local_copy(path))
    unpacked = sum(member.file_size for member in members if is_midi_name(member.filename))
    if unpacked > max(MAX_INFLATION * size, harmless_bytes):
        raise UserError(
            f"{path}: holds {size:,} bytes that would become {unpacked:,} of MIDI, more than {MAX_INFLATION} times as "
            "many. Such an archive is rejected, since no corpus shrinks so well"
        )
    return [(_normalize(member.filename), member.filename) for member in members]


def _normalize(name: str) -> str:
    """Returns a member's path below the archive's top."""
    # Absolute names and names with ".." are safe: nothing is read or written under them. Old programs of Windows write
    # backslashes between directories, which the format does not allow.
    return posixpath.normpath("/" + name.replace("\\", "/")).lstrip("/")


@contextlib.contextmanager
def open_zip(path: str, *, max_directory_bytes: int = MAX_DIRECTORY_BYTES) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file, also gs://; raises a UserError if it is none, or its directory is too large."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_BoundedFile(storage.local_copy(path), max_directory_bytes))
            archive = stack.enter_context(zipfile.ZipFile(file))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(f"{path}: cannot be read as a zip file ({error}). Download it again") from error
        yield archive


class _BoundedFile(io.FileIO):
    """A file with a limit on the size of one read: zipfile reads the whole directory at once."""

    def __init__(self, path: str, max_bytes: int) -> None:
        super().__init__(path)
        self._max_bytes = max_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._max_bytes:
            raise zipfile.BadZipFile(f"its directory claims {size:,} bytes, allowed are {self._max_bytes:,}")
        return super().read(size)
