"""Zip files, opened and listed within limits on their directory, their members and their unpacked size."""

import contextlib
import io
import os
import posixpath
import zipfile
from collections.abc import Iterator

from sostenuto import storage
from sostenuto.errors import UserError
from sostenuto.music.midi import is_midi_name

# Limits against hostile archives. A member takes about 100 bytes of the directory at the end of a zip file, and 600
# bytes of memory. Deflate shrinks performances to a third and loops to a hundredth.
MAX_MEMBERS = 2_000_000
MAX_DIRECTORY_BYTES = 256 * MAX_MEMBERS
MAX_INFLATION = 100
HARMLESS_BYTES = 2**30


def list_zip(path: str, *, max_members: int = MAX_MEMBERS, harmless_bytes: int = HARMLESS_BYTES) -> dict[str, str]:
    """Returns the member names of a zip file by their paths below its top.

    Absolute names and names with ".." are safe: nothing is read or written under them. An unpacked size up to
    `harmless_bytes` is allowed at any inflation.

    Raises:
        UserError: the file is no zip file, two members have the same path, or a limit is exceeded.
    """
    with open_zip(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) > max_members:
        raise UserError(f"{path}: holds {len(members):,} members, more than the {max_members:,} allowed. Unpack it")
    size = os.path.getsize(storage.local_copy(path))
    unpacked = sum(member.file_size for member in members if is_midi_name(member.filename))
    if unpacked > max(MAX_INFLATION * size, harmless_bytes):
        raise UserError(
            f"{path}: holds {size:,} bytes that would become {unpacked:,} of MIDI, more than {MAX_INFLATION} times as "
            "many. Such an archive is rejected, since no corpus shrinks so well"
        )
    names: dict[str, str] = {}
    for member in members:
        name = posixpath.normpath("/" + member.filename).lstrip("/")
        if name in names and is_midi_name(name):
            raise UserError(f"{path}: holds {name} more than once. Remove all but one of these members")
        names[name] = member.filename
    return names


@contextlib.contextmanager
def open_zip(path: str, *, max_directory_bytes: int = MAX_DIRECTORY_BYTES) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file, also gs://, unless its directory exceeds the limit.

    Raises:
        UserError: the file is no zip file, or its directory is too large.
    """
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
