"""Bytes to and from objects of a bucket: counted downloads and uploads in parts."""

from collections.abc import Callable
from typing import Any, BinaryIO, TypeAlias

import google_crc32c
import requests
from google.api_core import exceptions
from google.cloud.storage import Blob

from sostenuto.storage.gcs_client import connect
from sostenuto.storage.gcs_retry import TIMEOUT
from sostenuto.storage.local import crc32c, encode_crc32c

CHUNK_BYTES = 8 * 2**20
"""The size of a part; a fault repeats only one part."""
_MAX_SESSIONS = 20  # of one upload, each from the beginning

Retry: TypeAlias = Callable[[Callable[[], Any]], Callable[[], Any]]


class LimitReachedError(Exception):
    """The download has reached its limit."""


class DownloadSink:
    """A file to download into that counts and checksums the bytes, and ends a download at its limit."""

    def __init__(self, file: BinaryIO, limit: int | None, on_data: Callable[[], None]) -> None:
        self._file, self._limit, self._on_data = file, limit, on_data
        self._checksum = google_crc32c.Checksum()
        self.length = 0

    @property
    def crc32c(self) -> str:
        """The CRC-32C of the bytes so far, as the bucket writes it."""
        return encode_crc32c(self._checksum)

    def write(self, data: bytes) -> int:
        """Writes a part of the download; raises LimitReachedError if it has more bytes than wanted."""
        self._on_data()
        kept = data if self._limit is None else data[: self._limit - self.length]
        self._file.write(kept)
        self._checksum.update(data)
        self.length += len(kept)
        if len(kept) < len(data):
            raise LimitReachedError
        return len(data)

    def seek(self, position: int) -> None:
        """Goes back to the beginning, where the library must repeat a download that the server decompresses."""
        self._file.seek(position)
        self._file.truncate()
        self.length = position


def upload_in_chunks(blob: Blob, file: BinaryIO, size: int, generation: int, *, retry: Retry) -> int:
    """Sends an object in parts; after a fault, continues from the number of bytes that the server has.

    The library's own loop over the parts fails after a 5xx between two of them, and if the server ends the session.
    """
    blob.crc32c = crc32c(file)
    upload = _Upload(blob, file, size, generation)
    while (written := retry(upload.send_next)()) is None:
        pass
    return written


class _Upload:
    """An upload in parts. The URL of its session is a credential: no error contains it."""

    def __init__(self, blob: Blob, file: BinaryIO, size: int, generation: int) -> None:
        self._blob, self._file, self._size, self._generation = blob, file, size, generation
        self._url: str | None = None
        self._received: int | None = None  # bytes; None if unknown
        self._sessions = 0

    def send_next(self) -> int | None:
        """Sends the next part, or asks for the number of received bytes; returns the generation at the end."""
        if self._url is None:
            self._url, self._received = self._begin(), 0
        sent = self._received
        if sent is None:
            data, content_range = b"", f"bytes */{self._size}"
        else:
            self._file.seek(sent)
            data = self._file.read(CHUNK_BYTES)
            content_range = f"bytes {sent}-{sent + len(data) - 1}/{self._size}"
        self._received = None
        response = connect().session.put(self._url, data=data, headers={"Content-Range": content_range})
        if response.status_code == requests.codes.permanent_redirect:
            # "bytes=0-8388607"; absent if the server has no bytes.
            self._received = int(response.headers.get("Range", "bytes=0--1").split("-", 1)[1]) + 1
            if self._received == sent:
                raise exceptions.ServiceUnavailable("no byte of the part was received", response=response)
            return None
        if response.status_code in (requests.codes.not_found, requests.codes.gone):
            # The session has ended: another one sends the object from its beginning.
            self._url = None
            raise exceptions.ServiceUnavailable("the session has ended", response=response)
        if not response.ok:
            raise exceptions.from_http_status(response.status_code, response.reason, response=response)
        return int(response.json()["generation"])

    def _begin(self) -> str:
        """Returns the URL of a new session."""
        self._sessions += 1
        if self._sessions > _MAX_SESSIONS:
            raise exceptions.RetryError(f"the server ended {_MAX_SESSIONS} sessions of this upload", cause=None)
        return self._blob.create_resumable_upload_session(
            content_type="application/octet-stream",
            size=self._size,
            if_generation_match=self._generation,
            checksum=None,
            retry=None,
            timeout=TIMEOUT,
        )
