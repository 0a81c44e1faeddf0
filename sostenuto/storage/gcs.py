"""Google Cloud Storage. Only `sostenuto.storage` imports this module, and only for a gs:// path.

Every request is repeated after a 429, a 5xx or a cut connection, with growing pauses, for up to five minutes; for one
minute while nothing has ever answered, as without a network. A write carries the generation that it replaces, so that
of two writers one is told; and a mark of its own, by which a repeated request whose first answer was lost knows its own
work again. What is downloaded is checked against the object's CRC-32C here, because the library does not where it had
to take up a download again.
"""

import base64
import contextlib
import io
import logging
import os
import re
import threading
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import google.auth
import google_crc32c
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.auth import credentials as google_credentials
from google.auth import exceptions as auth_exceptions
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage import Blob, Client
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from sostenuto.errors import FileError, UnavailableError, UserError
from sostenuto.storage import ChangedError, MissingError

CHUNK_BYTES = 8 * 2**20
"""Objects larger than this are sent in parts of this size, of which a fault repeats but one."""

_RETRY = DEFAULT_RETRY.with_delay(initial=0.25, multiplier=2, maximum=30)
_PATIENCE, _FIRST_PATIENCE = 300, 60  # seconds of repeating a request: where others were answered, and before
_TIMEOUT = 60  # seconds without a byte, after which a connection counts as cut
_CONNECTIONS = 256  # kept open; urllib3 warns where more are wanted
_MARK = "sostenuto-write"
_URI = re.compile(r"gs://([a-z0-9][-_.a-z0-9]{1,220}[a-z0-9])(?:/(.*))?", re.DOTALL)
_PERMISSION = re.compile(r"storage\.[a-z]+\.[a-zA-Z]+")


class Stat(NamedTuple):
    """What is known of an object without reading it."""

    generation: int
    size: int
    crc32c: str
    mark: str


class _Connection(NamedTuple):
    made_for: tuple[int, str | None]
    client: Client
    session: AuthorizedSession
    anonymous: bool
    answered: threading.Event


_connecting = threading.Lock()
_connection: _Connection | None = None


def stat(uri: str) -> Stat | None:
    """Returns what is known of an object, or None if there is none, nor perhaps a bucket."""
    bucket, name = _split(uri, "an object")
    with _explained(uri, "storage.objects.get"):
        blob = _connect().client.bucket(bucket).get_blob(name, retry=_retry(), timeout=_TIMEOUT)
    if blob is None:
        return None
    return Stat(int(blob.generation), int(blob.size), blob.crc32c or "", (blob.metadata or {}).get(_MARK, ""))


def has_children(uri: str) -> bool:
    """Returns whether objects lie below a name; below a bucket alone there always is something, if the bucket is."""
    bucket, name = _split(uri)
    prefix = _prefix(name)
    with _explained(uri, "storage.objects.list"):
        found = any(True for _ in _list(bucket, prefix, max_results=1))
    return found or not prefix


def generations(uri: str) -> dict[str, int]:
    """Returns the generation of each object below a name, by its name relative to it."""
    bucket, name = _split(uri)
    prefix = _prefix(name)
    with _explained(uri, "storage.objects.list"):
        found = {blob.name[len(prefix) :]: int(blob.generation) for blob in _list(bucket, prefix)}
    # Consoles make empty objects "a/" that stand for directories.
    return {name: generation for name, generation in sorted(found.items()) if name and not name.endswith("/")}


def list_names(uri: str) -> list[str]:
    """Returns the names of the objects and directories right below a name."""
    bucket, name = _split(uri)
    prefix = _prefix(name)
    with _explained(uri, "storage.objects.list"):
        blobs = _list(bucket, prefix, delimiter="/")
        files = [blob.name for blob in blobs]
        names = {found[len(prefix) :].rstrip("/") for found in (*files, *blobs.prefixes)}
    return sorted(filter(None, names))


def read(uri: str, file: BinaryIO, *, limit: int | None = None, generation: int | None = None) -> int:
    """Writes an object to a file, whole and checked, and returns its generation.

    Args:
        uri: the object.
        file: an open file, at its beginning.
        limit: ends after so many bytes, unchecked, if there are more.
        generation: which of the object's generations; the newest by default.
    """
    bucket, name = _split(uri, "an object")
    attempts = 3
    for attempt in range(attempts):
        file.seek(0)
        file.truncate()
        sink = _Sink(file, limit)
        blob = _connect().client.bucket(bucket).blob(name, generation=generation)
        try:
            with _explained(uri, "storage.objects.get"), contextlib.suppress(_EnoughError):
                blob.download_to_file(sink, retry=_retry(), timeout=_TIMEOUT, checksum="crc32c")
                # Bytes that the library has decompressed are not those of the checksum; it checks them itself.
                if blob.crc32c and not blob.content_encoding and sink.crc32c != blob.crc32c:
                    raise DataCorruption(None, "CRC-32C does not match")
            return int(blob.generation or 0)
        except DataCorruption as error:
            if attempt == attempts - 1:
                raise FileError(f"{uri}: was read {attempts} times with another checksum than the bucket's") from error
        except MissingError:
            # Replaced while a cut download was being taken up again.
            if not sink.length or generation is not None or attempt == attempts - 1:
                raise
    raise AssertionError


def read_range(uri: str, start: int, length: int) -> bytes:
    """Returns some bytes of an object, unchecked: the bucket knows the checksum of the whole alone."""
    bucket, name = _split(uri, "an object")
    blob = _connect().client.bucket(bucket).blob(name)
    with _explained(uri, "storage.objects.get"):
        return blob.download_as_bytes(
            start=start, end=start + length - 1, retry=_retry(), timeout=_TIMEOUT, checksum=None
        )


def write(uri: str, file: BinaryIO, *, generation: int) -> int | None:
    """Makes an object of a file and returns its generation, or None if there is another than the given one.

    Args:
        uri: the object.
        file: an open file; all of it is written.
        generation: of the object that is to be replaced; 0 for none.
    """
    bucket, name = _split(uri, "an object")
    size = file.seek(0, io.SEEK_END)
    mark = uuid.uuid4().hex
    try:
        with _explained(uri, "storage.objects.create"):
            blob = _connect().client.bucket(bucket).blob(name)
            blob.metadata = {_MARK: mark}
            if size > CHUNK_BYTES:
                return _write_in_chunks(blob, file, size, generation)
            blob.upload_from_file(
                file,
                rewind=True,
                size=size,
                content_type="application/octet-stream",
                if_generation_match=generation,
                checksum="crc32c",
                retry=_retry(),
                timeout=_TIMEOUT,
            )
            return int(blob.generation)
    except ChangedError:
        there = stat(uri)
        return there.generation if there is not None and there.mark == mark else None


def remove(uri: str, *, generation: int | None = None) -> bool:
    """Removes an object; returns False if there is one, but of another generation."""
    bucket, name = _split(uri, "an object")
    try:
        with _explained(uri, "storage.objects.delete"):
            blob = _connect().client.bucket(bucket).blob(name)
            blob.delete(if_generation_match=generation, retry=_retry(), timeout=_TIMEOUT)
    except MissingError:
        return True
    except ChangedError:
        return False
    return True


def rename(source: str, target: str) -> None:
    """Gives an object another name, in place of any object that has it: a copy within the bucket, then a removal."""
    there, replaced = stat(source), stat(target)
    if there is None:
        raise MissingError(f"{source}: no such object")
    source_bucket, source_name = _split(source)
    target_bucket, target_name = _split(target, "an object")
    client = _connect().client
    blob = client.bucket(target_bucket).blob(target_name)
    old = client.bucket(source_bucket).blob(source_name, generation=there.generation)
    try:
        with _explained(target, "storage.objects.create"):
            token = None
            while True:
                token, _, _ = blob.rewrite(
                    old,
                    token=token,
                    if_generation_match=replaced.generation if replaced else 0,
                    retry=_retry(),
                    timeout=_TIMEOUT,
                )
                if token is None:
                    break
    except ChangedError:
        # Its own work, if the answer to it was lost.
        found = stat(target)
        if found is None or (found.size, found.crc32c) != (there.size, there.crc32c):
            raise
    remove(source, generation=there.generation)


def close() -> None:
    """Closes the connections; the next request opens new ones."""
    global _connection
    with _connecting:
        if _connection is not None:
            _connection.session.close()
            _connection.client.close()
        _connection = None


class _EnoughError(Exception):
    """As many bytes have come as were wanted."""


class _Sink:
    """A file to download into, which knows length and checksum, and ends a download that is long enough."""

    def __init__(self, file: BinaryIO, limit: int | None) -> None:
        self._file, self._limit = file, limit
        self._checksum = google_crc32c.Checksum()
        self.length = 0

    @property
    def crc32c(self) -> str:
        return base64.b64encode(self._checksum.digest()).decode()

    def write(self, data: bytes) -> int:
        wanted = data if self._limit is None else data[: self._limit - self.length]
        self._file.write(wanted)
        self._checksum.update(data)
        self.length += len(wanted)
        if len(wanted) < len(data):
            raise _EnoughError
        return len(data)

    def seek(self, position: int) -> None:
        """Back to the beginning, where the library must repeat a download that the server decompresses."""
        self._file.seek(position)
        self._file.truncate()
        self.length = position


def _write_in_chunks(blob: Blob, file: BinaryIO, size: int, generation: int) -> int:
    """Sends an object in parts; after a fault it asks how much has arrived, and goes on from there.

    The library's own loop over the parts gives up after a 5xx between two of them.
    """
    blob.crc32c = _checksum(file)
    session = _connect().session
    url = blob.create_resumable_upload_session(
        content_type="application/octet-stream",
        size=size,
        if_generation_match=generation,
        checksum=None,
        retry=_retry(),
        timeout=_TIMEOUT,
    )
    arrived: int | None = 0

    def send_next() -> int | None:
        nonlocal arrived
        if arrived is None:
            data, content_range = b"", f"bytes */{size}"
        else:
            file.seek(arrived)
            data = file.read(CHUNK_BYTES)
            content_range = f"bytes {arrived}-{arrived + len(data) - 1}/{size}"
        arrived = None
        response = session.put(url, data=data, headers={"Content-Range": content_range}, timeout=_TIMEOUT)
        if response.status_code == requests.codes.permanent_redirect:
            # "bytes=0-8388607"; without it, nothing has arrived.
            arrived = int(response.headers.get("Range", "bytes=0--1").split("-", 1)[1]) + 1
            return None
        if not response.ok:
            raise exceptions.from_http_response(response)
        return int(response.json()["generation"])

    while (written := _retry()(send_next)()) is None:
        pass
    return written


def _checksum(file: BinaryIO) -> str:
    checksum = google_crc32c.Checksum()
    file.seek(0)
    while data := file.read(2**20):
        checksum.update(data)
    return base64.b64encode(checksum.digest()).decode()


def _split(uri: str, wanted: str = "") -> tuple[str, str]:
    """Returns bucket and name.

    Raises:
        UserError: it is no such URI; or has no name, where an object is wanted.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise UserError(f"{uri}: is no path of Google Cloud Storage, expected gs://BUCKET/NAME")
    bucket, name = match[1], match[2] or ""
    if wanted and not name:
        raise UserError(f"{uri}: names a bucket, expected {wanted} in it: gs://{bucket}/NAME")
    return bucket, name


def _prefix(name: str) -> str:
    return f"{name.rstrip('/')}/" if name.strip("/") else ""


def _list(bucket: str, prefix: str, **options: Any) -> Any:
    return _connect().client.list_blobs(bucket, prefix=prefix or None, retry=_retry(), timeout=_TIMEOUT, **options)


def _connect() -> _Connection:
    """Returns this process's client; a forked child makes its own, since two must not share a socket."""
    global _connection
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    wanted = (os.getpid(), emulator)
    with _connecting:
        if _connection is None or _connection.made_for != wanted:
            found = google_credentials.AnonymousCredentials() if emulator else _credentials()
            session = AuthorizedSession(found)
            answered = threading.Event()

            def received(response: requests.Response, *args: object, **options: object) -> None:
                answered.set()
                if not response.ok:
                    # Of a download that is refused, the library would leave the connection open.
                    try:
                        _ = response.content
                    finally:
                        response.close()

            session.hooks["response"].append(received)
            adapter = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            # Without a project: objects are found by their bucket alone.
            client = Client(project=None, credentials=found, _http=session)
            anonymous = isinstance(found, google_credentials.AnonymousCredentials)
            _connection = _Connection(wanted, client, session, anonymous, answered)
        return _connection


def _retry() -> Retry:
    return _RETRY.with_timeout(_PATIENCE if _connect().answered.is_set() else _FIRST_PATIENCE)


def _credentials() -> google_credentials.Credentials:
    """Returns what the environment holds: a service account, a user's login, workload identity; or nobody's.

    Nobody's will do for a public bucket.
    """
    # It warns where it finds no project, which nothing here needs.
    logging.getLogger("google.auth._default").setLevel(logging.ERROR)
    try:
        found, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except auth_exceptions.DefaultCredentialsError as error:
        key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        if key:
            raise FileError(
                f"GOOGLE_APPLICATION_CREDENTIALS={key}: cannot be used ({_brief(error)}): expected the path of a "
                "service account's key or another credentials file of Google Cloud"
            ) from error
        return google_credentials.AnonymousCredentials()
    return found


@contextlib.contextmanager
def _explained(uri: str, permission: str) -> Iterator[None]:
    """Turns the library's errors into one line each that says what to do.

    Args:
        uri: what is read or written.
        permission: what is needed for it, should the server not say.
    """
    try:
        yield
    except exceptions.NotFound as error:
        raise _not_found(uri) from error
    except exceptions.PreconditionFailed as error:
        raise ChangedError(
            f"{uri}: was changed by another process meanwhile, so it was not written: let only one write there"
        ) from error
    except (exceptions.Unauthorized, exceptions.Forbidden) as error:
        raise _denied(uri, permission, error) from error
    except auth_exceptions.GoogleAuthError as error:
        if _connect().anonymous:
            raise _denied(uri, permission, error) from error
        raise FileError(f"{uri}: the credentials cannot be used ({_brief(error)}): {_HOW_TO_LOG_IN}") from error
    except (exceptions.RetryError, exceptions.ServerError, exceptions.TooManyRequests) as error:
        raise UnavailableError(f"{uri}: the bucket does not answer ({_brief(error)}): try again later") from error
    except requests.RequestException as error:
        raise UnavailableError(f"{uri}: cannot be reached ({_brief(error)}): check the network") from error
    except exceptions.GoogleAPIError as error:
        raise FileError(f"{uri}: was refused ({_brief(error)})") from error


_HOW_TO_LOG_IN = (
    "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a service account's key, or "
    "run where workload identity gives a service account"
)


def _not_found(uri: str) -> FileError:
    bucket, name = _split(uri)
    try:
        next(iter(_list(bucket, name, max_results=1)), None)
    except exceptions.NotFound:
        return FileError(f"{uri}: there is no bucket {bucket}: correct its name, or make it first")
    except (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError, requests.RequestException):
        pass
    return MissingError(f"{uri}: no such object")


def _denied(uri: str, permission: str, error: Exception) -> FileError:
    bucket, _ = _split(uri)
    connection = _connect()
    if connection.anonymous and not connection.made_for[1]:
        return FileError(f"{uri}: no credentials were found, and bucket {bucket} is not public: {_HOW_TO_LOG_IN}")
    named = _PERMISSION.search(str(error))
    who = getattr(connection.session.credentials, "service_account_email", None) or "the account in use"
    return FileError(
        f"{uri}: {who} lacks the permission {named[0] if named else permission} on bucket {bucket}: grant it, for "
        "instance by the role roles/storage.objectUser"
    )


def _brief(error: BaseException) -> str:
    """Returns the first cause of an error in one line of bounded length."""
    cause = getattr(error, "cause", None) or error
    text = " ".join(str(getattr(cause, "message", None) or cause).split())
    return text if len(text) <= 200 else f"{text[:200]}…"
