"""Reads the files of a corpus."""

import functools
import zipfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from beam_preprocess.corpus.archive import open_zip
from sostenuto import storage
from sostenuto.errors import UserError

# Other methods of zip files have no limit on the size that a few bytes unpack to.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Reader:
    """Reads the files of a corpus; a context manager, so that a zip file is opened once for many files.

    Args:
        archive: the path of the zip file that contains the files, or None.
    """

    def __init__(self, archive: str | None) -> None:
        self._archive = archive
        self._zip = None if archive is None else open_zip(archive)

    def __enter__(self) -> Self:
        """Returns the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the zip file."""
        self.close()

    def close(self) -> None:
        """Closes the zip file."""
        if self._zip is not None:
            self._zip.close()

    def read_many(self, locations: Sequence[str], *, limit: int) -> Iterator[bytes | UserError]:
        """Yields the first `limit` bytes of each file, or the error; fetches files of a bucket ahead of the consumer.

        A file in a bucket takes as long as decoding hundreds, most of it waiting.
        """
        read = functools.partial(self._read_or_error, limit=limit)
        if self._zip is None and any(map(storage.is_remote, locations)):
            return storage.concurrently(read, locations)
        return map(read, locations)

    def _read_or_error(self, location: str, *, limit: int) -> bytes | UserError:
        try:
            return self.read(location, limit=limit)
        except UserError as error:
            return error

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
