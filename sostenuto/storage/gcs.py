"""Google Cloud Storage behind `sostenuto.storage`, which imports this module only for a gs:// path.

A write replaces one given generation, so that only one of two concurrent writers succeeds; its ID tells a retry whose
answer was lost that the object is its own. Downloads are checked here: the library does not check resumed ones.
"""

import contextlib
import functools
import io
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from google.cloud.storage import Blob
from google.cloud.storage.exceptions import DataCorruption

from sostenuto.errors import ChangedError, FileError, MissingError
from sostenuto.storage.gcs_client import CREATE, DELETE, GET, LIST, bucket_of, connect, request, split_uri
from sostenuto.storage.gcs_streams import CHUNK_BYTES, DownloadSink, LimitReachedError, upload_in_chunks

_READ_ATTEMPTS = 3
_WRITE_ID = "sostenuto-write"


def stat(uri: str) -> Blob | None:
    """Returns an object's properties, or None if there is no such object or bucket."""
    with request(uri, GET) as options:
        return _blob(uri).bucket.get_blob(split_uri(uri)[1], **options)


def generation(uri: str) -> int:
    """Returns an object's generation, or 0 if there is none."""
    current = stat(uri)
    return int(current.generation) if current is not None else 0


def exists(uri: str) -> bool:
    """Returns whether there is an object of that name or below it."""
    return is_object(uri) or is_directory(uri)


def is_object(uri: str) -> bool:
    """Returns whether there is an object of exactly that name."""
    # Consoles create empty objects "a/" that stand for directories.
    return "/" in uri.removeprefix("gs://") and not uri.endswith("/") and generation(uri) != 0


def is_directory(uri: str) -> bool:
    """Returns whether there are objects below a name. An existing bucket always counts as non-empty."""
    with request(uri, LIST) as options:
        prefix, blobs = _list(uri, max_results=1, **options)
        return any(True for _ in blobs) or not prefix


def generations(uri: str) -> dict[str, int]:
    """Returns the generation of each object below a name, by its sorted name relative to it."""
    with request(uri, LIST) as options:
        prefix, blobs = _list(uri, **options)
        numbers = {blob.name[len(prefix) :]: int(blob.generation) for blob in blobs}
    return _without_markers(numbers)


def sizes(uri: str) -> dict[str, int]:
    """Returns the size of each object below a name, by its name relative to it."""
    with request(uri, LIST) as options:
        prefix, blobs = _list(uri, **options)
        # Emulators leave out a size of 0.
        return _without_markers({blob.name[len(prefix) :]: blob.size or 0 for blob in blobs})


def checksum(uri: str) -> tuple[int, str] | None:
    """Returns the size and the CRC-32C of an object, or None if there is no such object."""
    current = stat(uri)
    return None if current is None else (current.size or 0, current.crc32c)


def _without_markers(numbers: dict[str, int]) -> dict[str, int]:
    """Returns sorted entries without the empty objects "a/" of consoles, which stand for directories."""
    return {name: number for name, number in sorted(numbers.items()) if name and not name.endswith("/")}


def list_files(uri: str) -> list[str]:
    """Returns the names of the objects below a name, relative to it."""
    names = list(generations(uri))
    if not names:
        raise FileError(f"{uri}: no such directory, or an empty one")
    return names


def list_names(uri: str) -> list[str]:
    """Returns the sorted names of the objects and directories immediately below a name."""
    with request(uri, LIST) as options:
        prefix, blobs = _list(uri, delimiter="/", **options)
        files = [blob.name for blob in blobs]
        names = {name[len(prefix) :].rstrip("/") for name in (*files, *blobs.prefixes)}
    return sorted(filter(None, names))


def make_directories(uri: str) -> None:
    """Does nothing: a bucket has no directories."""


def read_bytes(uri: str, *, limit: int | None = None) -> bytes:
    """Returns the content of an object, at most `limit` bytes."""
    content = io.BytesIO()
    read(uri, content, limit=limit)
    return content.getvalue()


def read_range(uri: str, start: int, length: int) -> bytes:
    """Returns some bytes of an object, unchecked: the bucket has a checksum only of the whole."""
    with request(uri, GET) as options:
        return _blob(uri).download_as_bytes(start=start, end=start + length - 1, checksum=None, **options)


def read(uri: str, file: BinaryIO, *, limit: int | None = None, generation: int | None = None) -> int:
    """Downloads one generation of an object, by default the newest, into an open file; returns the generation.

    The download is checked, unless it stops at `limit` bytes.
    """
    for attempt in range(_READ_ATTEMPTS):
        file.seek(0)
        file.truncate()
        sink = DownloadSink(file, limit, functools.partial(connect().patience.mark, is_write=False))
        try:
            with request(uri, GET) as options, contextlib.suppress(LimitReachedError):
                blob = _blob(uri, generation=generation)
                blob.download_to_file(sink, checksum="crc32c", **options)
                # The checksum of a compressed object is not that of the bytes that the library has decompressed.
                if blob.crc32c and not blob.content_encoding and sink.crc32c != blob.crc32c:
                    raise DataCorruption(None, "CRC-32C does not match")
            return int(blob.generation or 0)
        except DataCorruption as error:
            if attempt == _READ_ATTEMPTS - 1:
                raise FileError(
                    f"{uri}: corrupt in {_READ_ATTEMPTS} downloads: their CRC-32C differs from the bucket's. "
                    "Check the network, then try again"
                ) from error
        except MissingError:
            # Replaced while an interrupted download was resumed.
            if not sink.length or generation is not None or attempt == _READ_ATTEMPTS - 1:
                raise
    raise AssertionError


@contextlib.contextmanager
def new_file(uri: str) -> Iterator[BinaryIO]:
    """Opens a file that is uploaded when the context ends, unless the object exists."""
    with _scratch_file() as file:
        yield file
        if write(uri, file, generation=0) is None:
            raise ChangedError(f"{uri}: cannot be written (it already exists)")


@contextlib.contextmanager
def atomic_write(uri: str) -> Iterator[BinaryIO]:
    """Opens a file that replaces the object when the context ends, unless another process has replaced it since."""
    replaced = generation(uri)
    with _scratch_file() as file:
        yield file
        replace(uri, file, replaced)


def replace(uri: str, file: BinaryIO, generation: int) -> int:
    """Writes a file to an object in place of one generation, and returns the new generation."""
    written = write(uri, file, generation=generation)
    if written is None:
        raise ChangedError(f"{uri}: another process wrote it first, so it was not replaced. Let only one write to it")
    return written


def write(uri: str, file: BinaryIO, *, generation: int) -> int | None:
    """Writes a file in place of one generation, 0 for none; returns the new one, or None if the object has another."""
    size = file.seek(0, io.SEEK_END)
    write_id = uuid.uuid4().hex
    try:
        with request(uri, CREATE) as options:
            blob = _blob(uri)
            blob.metadata = {_WRITE_ID: write_id}
            if size > CHUNK_BYTES:
                return upload_in_chunks(blob, file, size, generation, retry=options["retry"])
            blob.upload_from_file(
                file,
                rewind=True,
                size=size,
                content_type="application/octet-stream",
                if_generation_match=generation,
                checksum="crc32c",
                **options,
            )
            return int(blob.generation)
    except ChangedError:
        current = stat(uri)
        if current is None or (current.metadata or {}).get(_WRITE_ID) != write_id:
            return None
        return int(current.generation)


def remove(uri: str, *, generation: int | None = None) -> bool:
    """Deletes an object; returns False if it has another generation."""
    try:
        with request(uri, DELETE) as options:
            _blob(uri).delete(if_generation_match=generation, **options)
    except MissingError:
        return True
    except ChangedError:
        return False
    return True


def rename(source: str, target: str) -> None:
    """Copies an object within the bucket, in place of any object of the target's name, then deletes the source."""
    remove(source, generation=copy(source, target))


def copy(source: str, target: str) -> int:
    """Copies an object, in place of any object of the target's name, and returns the generation that was copied."""
    old, replaced = stat(source), stat(target)
    if old is None:
        raise MissingError(f"{source}: no such object")
    precondition = int(replaced.generation) if replaced is not None else 0
    if not old.size:
        # The library needs numbers in the answer that emulators leave out if they are 0.
        replace(target, io.BytesIO(), precondition)
        return int(old.generation)
    blob, source_blob = _blob(target), _blob(source, generation=old.generation)
    try:
        with request(target, CREATE) as options:
            token, is_done = None, False
            while not is_done:
                token, _, _ = blob.rewrite(source_blob, token=token, if_generation_match=precondition, **options)
                is_done = token is None
    except ChangedError:
        # This request's own copy, if the answer to it was lost.
        if checksum(target) != (old.size, old.crc32c):
            raise
    return int(old.generation)


def _blob(uri: str, *, generation: int | None = None) -> Blob:
    """Returns a reference to an object, without a request."""
    _, name = split_uri(uri, needs_name=True)
    return bucket_of(uri).blob(name, generation=generation)


def _list(uri: str, **options: Any) -> tuple[str, Any]:
    """Returns the prefix of the names below a URI, and an iterator over their objects."""
    _, name = split_uri(uri)
    prefix = f"{name.rstrip('/')}/" if name.strip("/") else ""
    return prefix, connect().client.list_blobs(bucket_of(uri), prefix=prefix or None, **options)


def _scratch_file() -> BinaryIO:
    """Returns a temporary file without a name, in memory while it is small."""
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=2**24))
