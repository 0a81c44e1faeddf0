"""Reads the files of a corpus."""

import contextlib
import functools
import zipfile
from collections.abc import Iterator, Sequence

from beam_preprocess.corpus.archive import open_zip
from sostenuto import storage
from sostenuto.errors import UserError

# Other methods of zip files have no limit on the size that a few bytes unpack to.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Reader(contextlib.ExitStack):
    """Reads the files of a corpus, and keeps its zip file open until it is closed.

    Args:
        archive: the path of the zip file that contains the files, or None.
    """

    def __init__(self, archive: str | None) -> None:
        super().__init__()
        self._archive = archive
        self._zip = None if archive is None else self.enter_context(open_zip(archive))

    def read_many(self, locations: Sequence[str], *, limit: int) -> Iterator[bytes | UserError]:
        """Yields the first `limit` bytes of each file, or the error; fetches files in a bucket ahead of their use."""
        read = functools.partial(self._read_or_error, limit=limit)
        if self._zip is None and any(map(storage.is_remote, locations)):
            return storage.concurrently(read, locations)
        return map(read, locations)

    def read(self, location: str, *, limit: int) -> bytes:
        """Returns the first `limit` bytes of a file.

        Raises:
            UserError: the file cannot be read.
        """
        if self._zip is None:
            return storage.read_bytes(location, limit=limit)
        try:
            method = self._zip.getinfo(location).compress_type
            if method not in _COMPRESSIONS:
                raise ValueError(f"compressed by method {method}, expected stored or deflated")
            # Decompresses no more than the limit, even if the archive declares a smaller size.
            with self._zip.open(location) as member:
                return member.read(limit)
        # zipfile has no common base class for the errors of corrupt and encrypted members.
        except Exception as error:
            raise UserError(f"{location}: cannot be read from {self._archive} ({error})") from error

    def _read_or_error(self, location: str, *, limit: int) -> bytes | UserError:
        try:
            return self.read(location, limit=limit)
        except UserError as error:
            return error
