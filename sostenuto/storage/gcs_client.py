"""The process's Google Cloud Storage client: credentials, retries and error messages."""

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from typing import NamedTuple

import google.auth
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.auth import credentials as google_credentials
from google.auth import exceptions as auth_exceptions
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage import Client
from google.cloud.storage.retry import DEFAULT_RETRY

from sostenuto.errors import ChangedError, FileError, MissingError, UnavailableError, UserError

RETRY = DEFAULT_RETRY.with_delay(initial=0.25, multiplier=2, maximum=30)
RETRY_SECONDS = 300
# Until the first answer of any request: without a network there will be none.
FIRST_RETRY_SECONDS = 60
TIMEOUT = 60  # seconds without a byte, after which a connection counts as cut

_CONNECTIONS = 256  # kept open; urllib3 warns about more
_URI = re.compile(r"gs://([a-z0-9][-_.a-z0-9]{1,220}[a-z0-9])(?:/(.*))?", re.DOTALL)
_PERMISSION = re.compile(r"storage\.[a-z]+\.[a-zA-Z]+")
_LOGIN_REMEDY = (
    "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a service account's key, or "
    "run where workload identity provides a service account"
)


class _Connection(NamedTuple):
    """A client and the environment that it was created in."""

    environment: tuple[int, str | None]  # the process and STORAGE_EMULATOR_HOST
    client: Client
    session: AuthorizedSession
    anonymous: bool
    answered: threading.Event


_lock = threading.Lock()
_connection: _Connection | None = None


def connect() -> _Connection:
    """Returns this process's client; a forked child creates its own, because processes cannot share a socket."""
    global _connection
    environment = (os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST"))
    with _lock:
        if _connection is None or _connection.environment != environment:
            _connection = _new_connection(environment)
        return _connection


def close() -> None:
    """Closes the connections; the next request opens new ones."""
    global _connection
    with _lock:
        if _connection is not None:
            _connection.session.close()
            _connection.client.close()
        _connection = None


def retry() -> Retry:
    """Returns the retry policy of a request made now."""
    return RETRY.with_timeout(RETRY_SECONDS if connect().answered.is_set() else FIRST_RETRY_SECONDS)


def split_uri(uri: str, *, needs_name: bool = False) -> tuple[str, str]:
    """Returns bucket and name; raises UserError for an invalid URI, or one without a needed name."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise UserError(f"{uri}: not a path of Google Cloud Storage. Expected gs://BUCKET/NAME")
    bucket, name = match[1], match[2] or ""
    if needs_name and not name:
        raise UserError(f"{uri}: got only a bucket, expected an object. Add its name: gs://{bucket}/NAME")
    return bucket, name


@contextlib.contextmanager
def translate_errors(uri: str, permission: str) -> Iterator[None]:
    """Raises the library's errors as ours, for a request that needs a permission: one line each, with a remedy."""
    try:
        yield
    except exceptions.NotFound as error:
        raise _not_found(uri) from error
    except exceptions.PreconditionFailed as error:
        raise ChangedError(f"{uri}: another process changed it first. Let only one process write to it") from error
    except (exceptions.Unauthorized, exceptions.Forbidden) as error:
        raise _denied(uri, permission, error) from error
    except auth_exceptions.GoogleAuthError as error:
        if connect().anonymous:
            raise _denied(uri, permission, error) from error
        raise FileError(f"{uri}: the credentials cannot be used ({_brief(error)}). {_LOGIN_REMEDY}") from error
    except (exceptions.RetryError, exceptions.ServerError, exceptions.TooManyRequests) as error:
        raise UnavailableError(f"{uri}: the bucket does not answer ({_brief(error)}). Try again later") from error
    except requests.RequestException as error:
        raise UnavailableError(f"{uri}: cannot be reached ({_brief(error)}). Check the network") from error
    except exceptions.GoogleAPIError as error:
        raise FileError(f"{uri}: the request was rejected ({_brief(error)})") from error


def _new_connection(environment: tuple[int, str | None]) -> _Connection:
    """Creates a client that shares its session with uploads in parts."""
    credentials = google_credentials.AnonymousCredentials() if environment[1] else _credentials()
    session = AuthorizedSession(credentials)
    answered = threading.Event()

    def receive(response: requests.Response, *args: object, **options: object) -> None:
        answered.set()
        if not response.ok:
            # The library would leave the connection of a rejected download open.
            try:
                _ = response.content
            finally:
                response.close()

    session.hooks["response"].append(receive)
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    # Without a project: a bucket's name is enough to find objects.
    client = Client(project=None, credentials=credentials, _http=session)
    anonymous = isinstance(credentials, google_credentials.AnonymousCredentials)
    return _Connection(environment, client, session, anonymous, answered)


def _credentials() -> google_credentials.Credentials:
    """Returns the environment's credentials, or anonymous ones, which suffice for a public bucket."""
    # It warns if there is no project, which is not needed.
    logging.getLogger("google.auth._default").setLevel(logging.ERROR)
    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except auth_exceptions.DefaultCredentialsError as error:
        key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        if key:
            raise FileError(
                f"GOOGLE_APPLICATION_CREDENTIALS={key}: cannot be used ({_brief(error)}). Set it to the path of a "
                "service account's key or of another credentials file of Google Cloud"
            ) from error
        return google_credentials.AnonymousCredentials()
    return credentials


def _not_found(uri: str) -> FileError:
    """Returns the error for a missing object or bucket."""
    bucket, name = split_uri(uri)
    blobs = connect().client.list_blobs(bucket, prefix=name or None, retry=retry(), timeout=TIMEOUT, max_results=1)
    try:
        next(iter(blobs), None)
    except exceptions.NotFound:
        return FileError(f"{uri}: there is no bucket {bucket}. Correct its name or create it")
    except (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError, requests.RequestException):
        pass
    return MissingError(f"{uri}: no such object")


def _denied(uri: str, permission: str, error: Exception) -> FileError:
    """Returns the error for a request that the credentials do not permit."""
    bucket, _ = split_uri(uri)
    connection = connect()
    if connection.anonymous and not connection.environment[1]:
        return FileError(f"{uri}: no credentials were found, and bucket {bucket} is not public. {_LOGIN_REMEDY}")
    match = _PERMISSION.search(str(error))
    account = getattr(connection.session.credentials, "service_account_email", None) or "the current account"
    return FileError(
        f"{uri}: {account} lacks the permission {match[0] if match else permission} on bucket {bucket}. Grant it, for "
        "instance by the role roles/storage.objectUser"
    )


def _brief(error: BaseException) -> str:
    """Returns the first cause of an error in one line of bounded length."""
    cause = getattr(error, "cause", None) or error
    text = " ".join(str(getattr(cause, "message", None) or cause).split())
    return text if len(text) <= 200 else f"{text[:200]}…"
