"""A small Google Cloud Storage server on loopback, with the preconditions and checksums that emulators lack.

It speaks the JSON API as far as google-cloud-storage uses it: list, read (also ranges), write in one request or in
parts, copy, delete; it gives generations and checksums, enforces ifGenerationMatch, and injects faults. In a test,
the fixture `gcs` of conftest.py starts one with the bucket "bucket" and sets STORAGE_EMULATOR_HOST, which child
processes inherit:

    def test_something(gcs):
        gcs.put("gs://bucket/a/b", b"data")     # as another process would; a new generation each time
        assert gcs.get("gs://bucket/a/b") == b"data"
        assert gcs.names("gs://bucket/a/") == ["b"]         # all below, relative
        gcs.contents("gs://bucket/a/")          # {"b": b"data"}
        gcs.generation("gs://bucket/a/b")       # 0 where there is none
        gcs.delete("gs://bucket/a/b")

Settings, which may change at any time:

    gcs.error_rate = 0.1      # of the requests get one of RANDOM_FAULTS, from a seeded generator
    gcs.fault_of = function   # called with (method, path); returns one of FAULTS for this request, a Refusal or None
    gcs.requester_pays.add("bucket")    # 400 for requests that name no project to bill (userProject)
    gcs.latency = 0.05        # seconds that each request waits
    gcs.page_size = 2         # of listings
    gcs.forbid("bucket", "storage.objects.create")  # 403 for what needs the permission; forbid("bucket") for all of it
    gcs.allow("bucket")       # takes all of that back
    gcs.omits_zeros = False   # Google's testbench leaves out zeros, such as the `size` of empty objects
    gcs.needs_credentials = True    # 401 without the token "loopback"; see below
    gcs.before = function     # called with (method, path) of each request, in its thread, before anything is done
    gcs.before_change = function    # called with the name of an object that a request writes or deletes, likewise

What happened: `gcs.requests` lists (method, path with query) of all requests, `gcs.faults` counts the injected ones,
and `gcs.fault_names` by name.

    with GcsServer(buckets=["one", "two"], error_rate=0.1, seed=3) as server:
        server.url            # for STORAGE_EMULATOR_HOST

It also plays the metadata server of a virtual machine or of a pod with workload identity: with GCE_METADATA_HOST and
GCE_METADATA_IP set to `server.address`, google.auth gets the token "loopback" for the service account
robot@example.iam.gserviceaccount.com. (API_ENDPOINT_OVERRIDE=server.url reaches the objects with credentials.)
"""

import base64
import collections
import contextlib
import hashlib
import json
import random
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

import google_crc32c

TOKEN = "loopback"
ACCOUNT = "robot@example.iam.gserviceaccount.com"

RANDOM_FAULTS = {
    "refuse": "503 instead of the work",
    "too many": "429 with Retry-After instead of the work",
    "fail after": "503 after the work",
    "cut before": "the connection ends instead of the work",
    "cut after": "the connection ends after the work, whose answer is lost",
    "cut within": "the connection ends within the answer",
    "gone": "410, and the session of an upload in parts is gone; 503 for other requests",
    "forgotten": "404 likewise",
    "damage": "another byte in the content of an object, with the hash of the right one; 503 for other requests",
}
FAULTS = {
    **RANDOM_FAULTS,
    "stall": "no answer until the server ends or the client gives up",
    "stall within": "half an answer, then nothing",
}


class _Object(NamedTuple):
    data: bytes
    generation: int
    resource: dict[str, Any]


class Refusal(Exception):
    """An answer that is an error: its status, and Google's message and reason in its body."""

    def __init__(self, status: int, message: str, *, reason: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, headers or {}

    def answer(self, *, as_text: bool) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers and body; the body is a text where a download was asked for."""
        if as_text:
            return self.status, {**self.headers, "Content-Type": "text/html; charset=UTF-8"}, str(self).encode()
        details = [{"message": str(self), "domain": "global", "reason": self.reason}]
        body = {"error": {"code": self.status, "message": str(self), "errors": details}}
        return self.status, {**self.headers, "Content-Type": "application/json"}, json.dumps(body).encode()


class _Upload:
    """A write in parts."""

    def __init__(self, bucket: str, name: str, resource: dict[str, Any], precondition: str | None) -> None:
        self.bucket, self.name, self.resource, self.precondition = bucket, name, resource, precondition
        self.data = bytearray()
        self.finished: dict[str, Any] | None = None


class GcsServer:
    """The server; a context manager. The module's docstring describes it."""

    def __init__(
        self, *, buckets: Iterable[str] = ("bucket",), error_rate: float = 0.0, seed: int = 0, latency: float = 0.0
    ) -> None:
        self.error_rate, self.latency, self.page_size = error_rate, latency, 1000
        self.needs_credentials, self.omits_zeros = False, True
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.before_change: Callable[[str], None] = lambda name: None
        self.fault_of: Callable[[str, str], str | Refusal | None] = lambda method, path: None
        self.requester_pays: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.faults = 0
        self.fault_names: collections.Counter[str] = collections.Counter()
        self.ended = threading.Event()
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._buckets: dict[str, dict[str, _Object]] = {name: {} for name in buckets}
        self._forbidden: set[tuple[str, str | None]] = set()
        self._uploads: dict[str, _Upload] = {}
        self._sessions = 0
        self._generation = 1_700_000_000_000_000
        self._sockets: set[socket.socket] = set()

    def __enter__(self) -> Self:
        storage = self

        class Handler(_Handler):
            server_of_objects = storage

        self._http = _HttpServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._http.server_address[1]}"
        self.url = f"http://{self.address}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        with self._lock:
            for connection in self._sockets:
                _cut(connection)

    def put(self, uri: str, data: bytes, **resource: Any) -> int:
        """Writes an object and returns its generation; `resource` adds fields such as contentEncoding."""
        bucket, name = _split(uri)
        with self._lock:
            return int(self._store(bucket, name, data, resource)["generation"])

    def get(self, uri: str) -> bytes:
        """Returns an object's content; a KeyError if there is none."""
        bucket, name = _split(uri)
        with self._lock:
            return self._buckets[bucket][name].data

    def generation(self, uri: str) -> int:
        """Returns an object's generation, 0 if there is none."""
        bucket, name = _split(uri)
        with self._lock:
            found = self._buckets[bucket].get(name)
        return found.generation if found else 0

    def delete(self, uri: str) -> None:
        """Removes an object; a KeyError if there is none."""
        bucket, name = _split(uri)
        with self._lock:
            del self._buckets[bucket][name]

    def contents(self, uri: str) -> dict[str, bytes]:
        """Returns the objects below a URI, by name relative to it."""
        bucket, prefix = _split(uri)
        with self._lock:
            return {
                name[len(prefix) :]: found.data
                for name, found in sorted(self._buckets[bucket].items())
                if name.startswith(prefix)
            }

    def names(self, uri: str) -> list[str]:
        """Returns the sorted names of the objects below a URI, relative to it."""
        return list(self.contents(uri))

    def forbid(self, bucket: str, *permissions: str) -> None:
        """Rejects requests that need one of the permissions, or all requests."""
        with self._lock:
            self._forbidden |= {(bucket, permission) for permission in permissions or (None,)}

    def take_over(self, directory: str, lock: bytes, *, change: int) -> dict[str, bytes]:
        """Lets another process take a directory over at its n-th change from now on, the lock's own apart.

        Returns a dict that then has the objects of that moment. The request waits for 50 ms, as if its process were
        stopped for longer than a renewal of 20 ms.
        """
        left, taken = change, {}

        def count(name: str) -> None:
            nonlocal left
            if not name.endswith(".lock"):
                left -= 1
                if left == 0:
                    self.put(f"{directory}/.lock", lock)
                    taken.update(self.contents(f"{directory}/"))
                    time.sleep(0.05)

        self.before_change = count
        return taken

    def allow(self, bucket: str) -> None:
        """Permits all requests again."""
        with self._lock:
            self._forbidden = {(name, permission) for name, permission in self._forbidden if name != bucket}

    # The actions of requests. Each is called under the lock, and raises Refusal.

    def list_objects(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        objects = self._objects(bucket, "storage.objects.list")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        found: dict[str, dict[str, Any] | None] = {}
        for name in sorted(objects):
            if name.startswith(prefix):
                head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
                if cut:
                    found[f"{prefix}{head}{delimiter}"] = None
                else:
                    found[name] = objects[name].resource
        names = [name for name in sorted(found) if name > query.get("pageToken", "")]
        page = names[: min(int(query.get("maxResults", self.page_size)), self.page_size)]
        answer: dict[str, Any] = {"kind": "storage#objects"}
        answer["items"] = [found[name] for name in page if found[name] is not None]
        answer["prefixes"] = [name for name in page if found[name] is None]
        if len(page) < len(names):
            answer["nextPageToken"] = page[-1]
        return answer

    def find(self, bucket: str, name: str, query: dict[str, str]) -> _Object:
        found = self._objects(bucket, "storage.objects.get").get(name)
        if found is None or query.get("generation", str(found.generation)) != str(found.generation):
            raise Refusal(404, f"No such object: {bucket}/{name}")
        return found

    def write(
        self, bucket: str, name: str, data: bytes, resource: dict[str, Any], precondition: str | None
    ) -> dict[str, Any]:
        self._check_write(bucket, name, precondition)
        if resource.get("crc32c", _crc32c(data)) != _crc32c(data):
            raise Refusal(400, f"Provided CRC32C {resource['crc32c']} doesn't match calculated {_crc32c(data)}")
        return self._store(bucket, name, data, resource)

    def begin_upload(self, bucket: str, name: str, resource: dict[str, Any], precondition: str | None) -> str:
        self._check_write(bucket, name, precondition)
        self._sessions += 1
        key = f"upload-{self._sessions}"
        self._uploads[key] = _Upload(bucket, name, resource, precondition)
        return key

    def continue_upload(self, key: str, content_range: str, data: bytes) -> tuple[int, dict[str, Any]]:
        """Returns the number of bytes received, and the object once it is complete."""
        upload = self._uploads.get(key)
        if upload is None:
            raise Refusal(404, f"No such upload: {key}")
        if upload.finished is not None:
            return len(upload.data), upload.finished
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", content_range)
        if match is None:
            raise Refusal(400, f"Invalid Content-Range: {content_range}")
        if match[1] is not None:
            start, end = int(match[1]), int(match[2])
            if start > len(upload.data) or end - start + 1 != len(data):
                raise Refusal(503, "bytes are missing")
            upload.data[start:] = data
            if match[3] != str(end + 1) and len(data) % 2**18:
                raise Refusal(400, "a part must be a multiple of 256 KiB")
        if match[3] != str(len(upload.data)):
            return len(upload.data), {}
        upload.finished = self.write(
            upload.bucket, upload.name, bytes(upload.data), upload.resource, upload.precondition
        )
        return len(upload.data), upload.finished

    def end_upload(self, key: str) -> None:
        """Forgets an upload in parts."""
        self._uploads.pop(key, None)

    def remove(self, bucket: str, name: str, precondition: str | None) -> None:
        objects = self._objects(bucket, "storage.objects.delete")
        if name not in objects:
            raise Refusal(404, f"No such object: {bucket}/{name}")
        self._check_precondition(objects, name, precondition)
        del objects[name]

    def copy(self, bucket: str, name: str, to_bucket: str, to_name: str, query: dict[str, str]) -> dict[str, Any]:
        source = self.find(
            bucket, name, {"generation": query["sourceGeneration"]} if "sourceGeneration" in query else {}
        )
        self._check_write(to_bucket, to_name, query.get("ifGenerationMatch"))
        kept = {key: source.resource[key] for key in ("contentType", "metadata") if key in source.resource}
        return self._store(to_bucket, to_name, source.data, kept)

    def bucket(self, bucket: str) -> dict[str, Any]:
        self._objects(bucket, "storage.buckets.get")
        return {"kind": "storage#bucket", "name": bucket, "location": "LOOPBACK"}

    def _objects(self, bucket: str, permission: str) -> dict[str, _Object]:
        if bucket not in self._buckets:
            raise Refusal(404, "The specified bucket does not exist.", reason="notFound")
        if self._forbidden & {(bucket, None), (bucket, permission)}:
            raise Refusal(
                403,
                f"{ACCOUNT} does not have {permission} access to the Google Cloud Storage object. "
                f"Permission '{permission}' denied on resource (or it may not exist).",
                reason="forbidden",
            )
        return self._buckets[bucket]

    def _check_write(self, bucket: str, name: str, precondition: str | None) -> None:
        objects = self._objects(bucket, "storage.objects.create")
        self._check_precondition(objects, name, precondition)
        if name in objects:
            self._objects(bucket, "storage.objects.delete")

    @staticmethod
    def _check_precondition(objects: dict[str, _Object], name: str, precondition: str | None) -> None:
        there = objects[name].generation if name in objects else 0
        if precondition is not None and int(precondition) != there:
            raise Refusal(
                412, "At least one of the pre-conditions you specified did not hold.", reason="conditionNotMet"
            )

    def _store(self, bucket: str, name: str, data: bytes, resource: dict[str, Any]) -> dict[str, Any]:
        self._generation += 1
        made = {
            "contentType": "application/octet-stream",
            **resource,
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "generation": str(self._generation),
            "metageneration": "1",
            "size": str(len(data)),
            "crc32c": _crc32c(data),
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        }
        self._buckets[bucket][name] = _Object(data, self._generation, made)
        return made

    def fault(self, method: str, path: str) -> str | Refusal | None:
        """Returns the fault to inject into a request, or None."""
        fault = self.fault_of(method, path)
        with self._lock:
            if fault is None and self._random.random() < self.error_rate:
                fault = self._random.choice(list(RANDOM_FAULTS))
            if fault is not None:
                self.faults += 1
                self.fault_names[fault if isinstance(fault, str) else "refusal"] += 1
        return fault


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Ignores the error: clients disconnect when they are killed, or have read enough."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server_of_objects: GcsServer

    def setup(self) -> None:
        super().setup()
        with self.server_of_objects._lock:
            self.server_of_objects._sockets.add(self.connection)

    def finish(self) -> None:
        with self.server_of_objects._lock:
            self.server_of_objects._sockets.discard(self.connection)
        super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server_of_objects
        url = urllib.parse.urlsplit(self.path)
        if url.path in ("/", "/computeMetadata") or url.path.startswith("/computeMetadata/"):
            return self._answer_as_metadata_server(url.path)
        server.requests.append((self.command, self.path))
        server.before(self.command, self.path)
        time.sleep(server.latency)
        fault = server.fault(self.command, self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        as_text = query.get("alt") == "media"
        if fault == "cut before":
            return self._cut()
        if fault == "stall":
            return self._stall()
        if isinstance(fault, Refusal):
            return self._send(*fault.answer(as_text=as_text))
        if refusal := _REFUSALS.get(self._applicable(fault, as_text=as_text) or ""):
            server.end_upload(query.get("upload_id", ""))
            return self._send(*refusal.answer(as_text=as_text))
        try:
            status, headers, data = self._do(url.path, query, body)
        except Refusal as refusal:
            status, headers, data = refusal.answer(as_text=as_text)
        if fault == "cut after":
            return self._cut()
        if fault == "fail after":
            return self._send(*_REFUSALS["refuse"].answer(as_text=as_text))
        if fault == "damage" and status == 200:
            data = bytes([data[0] ^ 1]) + data[1:] if data else b"?"
        return self._send(status, headers, data, broken=fault)

    def _applicable(self, fault: str | None, *, as_text: bool) -> str | None:
        """Returns the fault, or "refuse" for one that this request cannot have."""
        is_part = self.command == "PUT" and "upload_id" in self.path
        is_whole = as_text and "Range" not in self.headers
        if (fault in ("gone", "forgotten") and not is_part) or (fault == "damage" and not is_whole):
            return "refuse"
        return fault

    def _do(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        status, headers, data = self._handle(path, query, body)
        if self.server_of_objects.omits_zeros and headers.get("Content-Type") == "application/json":
            data = json.dumps(_without_zeros(json.loads(data))).encode()
        return status, headers, data

    def _handle(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        server = self.server_of_objects
        if server.needs_credentials and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Anonymous caller does not have storage.objects.get access.", reason="required")
        precondition = query.get("ifGenerationMatch")
        match = re.fullmatch(
            r"(/upload|/download)?/storage/v1/b/([^/]+)(/o)?(?:/([^/]+))?(?:/rewriteTo/b/(.*)/o/(.*))?", path
        )
        if match is None:
            raise Refusal(404, f"{path} is not served here")
        upload, _, in_objects, _, to_bucket, to_name = match.groups()
        bucket, name = (urllib.parse.unquote(part or "") for part in match.group(2, 4))
        if bucket in server.requester_pays and not query.get("userProject"):
            raise Refusal(400, "Bucket is a requester pays bucket but no user project provided.", reason="required")
        if changed := self._changed_name(upload, name, to_name, body):
            server.before_change(changed)
        with server._lock:
            match self.command:
                case "POST" if to_bucket:
                    made = server.copy(
                        bucket, name, urllib.parse.unquote(to_bucket), urllib.parse.unquote(to_name), query
                    )
                    return _json(
                        {
                            "done": True,
                            "totalBytesRewritten": made["size"],
                            "objectSize": made["size"],
                            "resource": made,
                        }
                    )
                case "POST" if upload and query.get("uploadType") == "multipart":
                    resource, data = _parts(self.headers["Content-Type"], body)
                    return _json(server.write(bucket, resource["name"], data, resource, precondition))
                case "POST" if upload and query.get("uploadType") == "resumable":
                    resource = json.loads(body)
                    key = server.begin_upload(bucket, resource["name"], resource, precondition)
                    status, headers, data = _json({})
                    return status, {**headers, "Location": f"{server.url}{self.path}&upload_id={key}"}, data
                case "PUT" if upload:
                    arrived, made = server.continue_upload(query["upload_id"], self.headers["Content-Range"], body)
                    if made:
                        return _json(made)
                    return 308, {"Range": f"bytes=0-{arrived - 1}"} if arrived else {}, b""
                case "DELETE" if name:
                    server.remove(bucket, name, precondition)
                    return 204, {}, b""
                case "GET" if name and query.get("alt") == "media":
                    return self._media(server.find(bucket, name, query))
                case "GET" if name:
                    return _json(server.find(bucket, name, query).resource)
                case "GET" if in_objects:
                    return _json(server.list_objects(bucket, query))
                case "GET":
                    return _json(server.bucket(bucket))
        raise Refusal(400, f"{self.command} {self.path} is not served here")

    def _changed_name(self, upload: str | None, name: str, copied_to: str | None, body: bytes) -> str:
        """Returns the name of the object that a request writes or deletes; "" for a part of an upload, and if none."""
        if self.command == "POST" and upload:
            is_multipart = "uploadType=multipart" in self.path
            resource = _parts(self.headers["Content-Type"], body)[0] if is_multipart else json.loads(body)
            return resource["name"]
        if self.command == "POST":
            return urllib.parse.unquote(copied_to or "")
        return name if self.command == "DELETE" else ""

    def _media(self, found: _Object) -> tuple[int, dict[str, str], bytes]:
        headers = {
            "Content-Type": found.resource["contentType"],
            "X-Goog-Generation": str(found.generation),
            "X-Goog-Hash": f"crc32c={found.resource['crc32c']},md5={found.resource['md5Hash']}",
            "X-Goog-Stored-Content-Length": str(len(found.data)),
        }
        if "contentEncoding" in found.resource:
            headers["Content-Encoding"] = found.resource["contentEncoding"]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return 200, headers, found.data
        start, end = int(match[1]), int(match[2] or len(found.data) - 1)
        if start >= len(found.data):
            raise Refusal(416, "The requested range cannot be satisfied.")
        part = found.data[start : end + 1]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(found.data)}"
        return 206, headers, part

    def _answer_as_metadata_server(self, path: str) -> None:
        headers = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}
        account = {
            "email": ACCOUNT,
            "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
            "aliases": ["default"],
        }
        if path.endswith("/token"):
            data = json.dumps({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"})
        elif path.endswith("/project-id"):
            headers["Content-Type"], data = "text/plain", "loopback-project"
        elif path.endswith("/universe-domain"):
            headers["Content-Type"], data = "text/plain", "googleapis.com"
        else:
            data = json.dumps(account)
        self._send(200, headers, data.encode())

    def _send(self, status: int, headers: dict[str, str], data: bytes, *, broken: object = None) -> None:
        is_broken = broken in ("cut within", "stall within")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if is_broken else data)
        self.wfile.flush()
        if broken == "stall within":
            self._stall()
        elif is_broken:
            self._cut()

    def _stall(self) -> None:
        """Answers nothing until the client has gone or the server ends."""
        self.connection.settimeout(0.05)
        while not self.server_of_objects.ended.is_set():
            with contextlib.suppress(TimeoutError):
                if not self.connection.recv(1):
                    break
        self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        _cut(self.connection)


_REFUSALS = {
    "refuse": Refusal(503, "Service Unavailable", reason="backendError"),
    "too many": Refusal(429, "Too many requests", reason="rateLimitExceeded", headers={"Retry-After": "0"}),
    "gone": Refusal(410, "The upload session is gone.", reason="backendError"),
    "forgotten": Refusal(404, "No such upload", reason="notFound"),
}


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # The client closed it first.
        connection.shutdown(socket.SHUT_RDWR)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name


def _crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


def _without_zeros(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_zeros(item) for key, item in value.items() if item not in ("0", 0) or item is False}
    return list(map(_without_zeros, value)) if isinstance(value, list) else value


def _json(value: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _parts(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the resource and the data of a multipart upload."""
    boundary = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode()).get_boundary()
    separator = f"--{boundary}".encode()
    # Split by hand: the email package would change line ends within the data.
    _, described, rest = body.split(separator, 2)
    resource = json.loads(described.partition(b"\r\n\r\n")[2])
    data = rest.partition(b"\r\n\r\n")[2]
    return resource, data[: data.rindex(b"\r\n" + separator)]
