"""Bytes to and from objects of a bucket: counted downloads and uploads in parts."""

import base64
from typing import BinaryIO

import google_crc32c
import requests
from google.api_core import exceptions
from google.cloud.storage import Blob

from sostenuto.storage.gcs_client import TIMEOUT, connect, retry

CHUNK_BYTES = 8 * 2**20
"""The size of a part; a fault repeats only one part."""


class LimitReachedError(Exception):
    """The download has reached its limit."""


class DownloadSink:
    """A file to download into that counts and checksums the bytes, and ends a download at its limit."""

    def __init__(self, file: BinaryIO, limit: int | None) -> None:
        self._file, self._limit = file, limit
        self._checksum = google_crc32c.Checksum()
        self.length = 0

    @property
    def crc32c(self) -> str:
        """The CRC-32C of the bytes so far, as the bucket writes it."""
        return base64.b64encode(self._checksum.digest()).decode()

    def write(self, data: bytes) -> int:
        """Writes a part of the download; raises LimitReachedError if it has more bytes than wanted."""
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


def upload_in_chunks(blob: Blob, file: BinaryIO, size: int, generation: int) -> int:
    """Sends an object in parts; after a fault, continues from the number of bytes that the server has.

    The library's own loop over the parts fails after a 5xx between two of them.
    """
    blob.crc32c = crc32c(file)
    session = connect().session
    url = blob.create_resumable_upload_session(
        content_type="application/octet-stream",
        size=size,
        if_generation_match=generation,
        checksum=None,
        retry=retry(),
        timeout=TIMEOUT,
    )
    received: int | None = 0

    def send_next() -> int | None:
        nonlocal received
        if received is None:
            data, content_range = b"", f"bytes */{size}"
        else:
            file.seek(received)
            data = file.read(CHUNK_BYTES)
            content_range = f"bytes {received}-{received + len(data) - 1}/{size}"
        received = None
        response = session.put(url, data=data, headers={"Content-Range": content_range}, timeout=TIMEOUT)
        if response.status_code == requests.codes.permanent_redirect:
            # "bytes=0-8388607"; absent if the server has no bytes.
            received = int(response.headers.get("Range", "bytes=0--1").split("-", 1)[1]) + 1
            return None
        if not response.ok:
            raise exceptions.from_http_response(response)
        return int(response.json()["generation"])

    while (written := retry()(send_next)()) is None:
        pass
    return written


def crc32c(file: BinaryIO) -> str:
    """Returns a file's CRC-32C as the bucket writes it."""
    checksum = google_crc32c.Checksum()
    file.seek(0)
    while data := file.read(2**20):
        checksum.update(data)
    return base64.b64encode(checksum.digest()).decode()
