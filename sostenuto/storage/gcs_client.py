"""The process's Google Cloud Storage client: credentials, requests and error messages."""

import contextlib
import logging
import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import google.auth
import requests
from google.api_core import exceptions
from google.auth import credentials as google_credentials
from google.auth import exceptions as auth_exceptions
from google.auth.transport import DEFAULT_REFRESH_STATUS_CODES
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage import Bucket, Client

from sostenuto.errors import ChangedError, FileError, MissingError, UnavailableError, UserError
from sostenuto.storage.gcs_reason import reason, without_urls
from sostenuto.storage.gcs_retry import TIMEOUT, Patience
from sostenuto.storage.paths import user_project

GET, LIST, CREATE, DELETE = (f"storage.objects.{action}" for action in ("get", "list", "create", "delete"))

_CONNECTIONS = 256  # kept open; urllib3 warns about more
_URI = re.compile(r"gs://([a-z0-9][-_.a-z0-9]{1,220}[a-z0-9])(?:/(.*))?", re.DOTALL)
_PERMISSION = re.compile(r"(?:storage|serviceusage)\.[a-z]+\.[a-zA-Z]+")
_LOGIN_REMEDY = (
    "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a service account's key, or "
    "run where workload identity provides a service account"
)


class _Connection(NamedTuple):
    """A client and the environment that it was created in."""

    environment: tuple[int, str]  # the process and STORAGE_EMULATOR_HOST
    client: Client
    session: AuthorizedSession
    anonymous: bool
    patience: Patience


_lock = threading.Lock()
_connection: _Connection | None = None


def connect() -> _Connection:
    """Returns this process's client; a forked child creates its own, because processes cannot share a socket."""
    global _connection
    environment = (os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST", ""))
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


def bucket_of(uri: str) -> Bucket:
    """Returns the bucket of a URI, without a request."""
    return connect().client.bucket(split_uri(uri)[0], user_project=user_project())


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
def request(uri: str, permission: str) -> Iterator[dict[str, Any]]:
    """Yields the options of a request that needs a permission: how long to wait, and when to repeat it.

    Raises the library's errors as ours: one line each, with the server's reason and a remedy.
    """
    try:
        yield _options(uri, permission)
    except exceptions.NotFound as error:
        raise _not_found(uri, error) from error
    except exceptions.PreconditionFailed as error:
        raise ChangedError(f"{uri}: another process changed it first. Let only one process write to it") from error
    except (exceptions.Unauthorized, exceptions.Forbidden) as error:
        raise _denied(uri, error) from error
    except auth_exceptions.GoogleAuthError as error:
        raise FileError(f"{uri}: the credentials cannot be used ({reason(error)}). {_LOGIN_REMEDY}") from error
    except (exceptions.RetryError, exceptions.ServerError, exceptions.TooManyRequests) as error:
        raise UnavailableError(f"{uri}: the bucket does not answer ({reason(error)}). Try again later") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidProxyURL) as error:
        raise UserError(f"{uri}: the request cannot be sent ({reason(error)}). Correct HTTPS_PROXY") from error
    except requests.RequestException as error:
        raise UnavailableError(f"{uri}: cannot be reached ({reason(error)}). Check the network") from error
    except exceptions.GoogleAPIError as error:
        raise _rejected(uri, error) from error


def _options(uri: str, permission: str) -> dict[str, Any]:
    """Returns the options of the library's functions that send requests."""
    patience, subject = connect().patience, f"gs://{split_uri(uri)[0]}"

    def retry(function: Callable[[], Any]) -> Callable[[], Any]:
        return patience.retry(function, subject=subject, is_write=permission not in (GET, LIST))

    return {"retry": retry, "timeout": TIMEOUT}


class _Adapter(requests.adapters.HTTPAdapter):
    """Connections with the timeout that patience leaves, whose errors name no URL."""

    def __init__(self, patience: Patience) -> None:
        super().__init__(pool_maxsize=_CONNECTIONS)
        self._patience = patience

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, *, timeout: object = None, **options: Any
    ) -> requests.Response:
        """Sends a request."""
        timeout = self._patience.timeout(is_write=request.method not in ("GET", "HEAD"))
        try:
            response = super().send(request, timeout=timeout, **options)
        except requests.RequestException as error:
            raise type(error)(without_urls(error)) from None
        self._patience.is_answered = True
        return response


def _new_connection(environment: tuple[int, str]) -> _Connection:
    """Creates a client that shares its session with uploads in parts."""
    endpoint = _emulator(environment[1])
    credentials = google_credentials.AnonymousCredentials() if endpoint else _credentials()
    anonymous = isinstance(credentials, google_credentials.AnonymousCredentials)
    # Anonymous credentials cannot be refreshed: the failure would hide the server's reason.
    session = AuthorizedSession(credentials, refresh_status_codes=() if anonymous else DEFAULT_REFRESH_STATUS_CODES)

    def receive(response: requests.Response, *args: object, **options: object) -> None:
        if not response.ok:
            # The library would leave the connection of a rejected download open.
            try:
                _ = response.content
            finally:
                response.close()

    session.hooks["response"].append(receive)
    patience = Patience()
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(patience))
    # Otherwise the library requests each bucket's properties, for traces of OpenTelemetry.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    # Without a project: a bucket's name is enough to find objects.
    client = Client(
        project=None,
        credentials=credentials,
        _http=session,
        client_options={"api_endpoint": endpoint} if endpoint else None,
    )
    return _Connection(environment, client, session, anonymous, patience)


def _emulator(address: str) -> str:
    """Returns the URL of an emulator, without a slash at its end; empty if there is none."""
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    try:
        parts = urllib.parse.urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        is_valid = False
    if address and not is_valid:
        raise UserError(f"STORAGE_EMULATOR_HOST: got {address}, expected http://HOST:PORT. Correct or unset it")
    return url if address else ""


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
                f"GOOGLE_APPLICATION_CREDENTIALS={key}: cannot be used ({reason(error)}). Set it to the path of a "
                "service account's key or of another credentials file of Google Cloud"
            ) from error
        return google_credentials.AnonymousCredentials()
    return credentials


def _not_found(uri: str, error: Exception) -> FileError:
    """Returns the error for a missing object or bucket."""
    bucket, name = split_uri(uri)
    try:
        options = _options(uri, LIST)
        next(iter(connect().client.list_blobs(bucket_of(uri), prefix=name or None, max_results=1, **options)), None)
    except exceptions.NotFound:
        return FileError(f"{uri}: there is no bucket {bucket} ({reason(error)}). Correct its name or create it")
    except (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError, requests.RequestException):
        return MissingError(f"{uri}: no such object ({reason(error)})")
    return MissingError(f"{uri}: no such object")


def _denied(uri: str, error: Exception) -> FileError:
    """Returns the error for a request that the credentials do not permit."""
    bucket, why = split_uri(uri)[0], reason(error)
    connection = connect()
    if connection.anonymous and not connection.environment[1]:
        return FileError(
            f"{uri}: no credentials were found, and bucket {bucket} is not public ({why}). {_LOGIN_REMEDY}"
        )
    account = getattr(connection.session.credentials, "service_account_email", None) or "the current account"
    if isinstance(error, exceptions.Unauthorized):
        return FileError(f"{uri}: the credentials of {account} are not accepted ({why}). {_LOGIN_REMEDY}")
    match = _PERMISSION.search(why)
    if match is None:
        return FileError(f"{uri}: {account} is refused ({why}). Correct that with the owner of bucket {bucket}")
    if match[0].startswith("storage."):
        place, role = f"bucket {bucket}", "roles/storage.objectUser"
    else:
        place, role = f"project {user_project()}", "roles/serviceusage.serviceUsageConsumer"
    problem = f"{account} lacks the permission {match[0]} on {place} ({why})"
    return FileError(f"{uri}: {problem}. Grant it, for instance by the role {role}")


def _rejected(uri: str, error: Exception) -> FileError:
    """Returns the error for a request that is wrong in another way."""
    why = reason(error)
    if "requester pays" in why.lower():
        return FileError(
            f"{uri}: the bucket's owner does not pay for requests ({why}). Pass --gcs_user_project=PROJECT"
        )
    return FileError(f"{uri}: the request was rejected ({why})")
