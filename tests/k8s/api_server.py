"""As much of a Kubernetes API server as `kubectl apply` and `kubectl create` speak to: it keeps what it is sent."""

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

Object = dict[str, Any]

# The server's resources: group and version, kind, name in paths, whether it has a namespace.
_SERVED = [
    ("v1", "Namespace", "namespaces", False),
    ("v1", "ServiceAccount", "serviceaccounts", True),
    ("v1", "ConfigMap", "configmaps", True),
    ("v1", "Service", "services", True),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims", True),
    ("v1", "Pod", "pods", True),
    ("batch/v1", "Job", "jobs", True),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", True),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", True),
    ("jobset.x-k8s.io/v1alpha2", "JobSet", "jobsets", True),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue", "localqueues", True),
]
_PATH = re.compile(
    r"/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
)


class Cluster:
    """What the server was sent.

    Args:
        validate: raises for an object that is to be refused.

    Attributes:
        objects: by kind and name.
        changes: kind and name of each that was sent, in order.
    """

    def __init__(self, validate: Callable[[Object], None]) -> None:
        self.validate = validate
        self.objects: dict[tuple[str, str], Object] = {}
        self.changes: list[tuple[str, str]] = []

    def discovery(self, path: str) -> Object | None:
        """What the server says of itself."""
        groups = sorted({group for group, *_ in _SERVED if "/" in group})
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            versions = [{"groupVersion": group, "version": group.partition("/")[2]} for group in groups]
            named = [
                {"name": one["groupVersion"].partition("/")[0], "versions": [one], "preferredVersion": one}
                for one in versions
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}
        for group in ("v1", *groups):
            if path == ("/api/v1" if group == "v1" else f"/apis/{group}"):
                resources = [
                    {
                        "name": plural,
                        "singularName": kind.lower(),
                        "namespaced": inside,
                        "kind": kind,
                        "verbs": ["create"],
                    }
                    for of, kind, plural, inside in _SERVED
                    if of == group
                ]
                return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources}
        return None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Object]:
        """Answers a request; its faults are reported as an API server would."""
        path = path.partition("?")[0]
        if method == "GET" and (told := self.discovery(path)):
            return 200, told
        match = _PATH.fullmatch(path)
        kinds = [kind for _, kind, plural, _ in _SERVED if match and plural == match["plural"]]
        if not match or not kinds:
            return _status(404, f"there is no {path}")
        if method == "GET":
            found = self.objects.get((kinds[0], match["name"]))
            return (200, found) if found else _status(404, f"{path} not found")
        if method != "POST":
            return _status(405, f"{method} {path}: what was applied has changed")
        return self._create(json.loads(body), kinds[0], match["namespace"])

    def _create(self, one: Object, kind: str, namespace: str | None) -> tuple[int, Object]:
        name = (one["kind"], one["metadata"]["name"])
        if one["kind"] != kind or one["metadata"].get("namespace") != namespace:
            return _status(400, f"{name} was sent to the {kind} of {namespace}")
        if namespace and ("Namespace", namespace) not in self.objects:
            return _status(404, f"namespaces {namespace} not found")
        if name in self.objects:
            return _status(409, f"{name} already exists")
        try:
            self.validate(one)
        except Exception as error:
            return _status(422, f"{name}: {error}")
        self.objects[name] = one
        self.changes.append(name)
        return 201, one


def _status(code: int, message: str) -> tuple[int, Object]:
    reasons = {400: "BadRequest", 404: "NotFound", 405: "MethodNotAllowed", 409: "AlreadyExists", 422: "Invalid"}
    return code, {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reasons[code],
        "code": code,
    }  # fmt: skip


@contextlib.contextmanager
def served(cluster: Cluster) -> Iterator[str]:
    """Serves a cluster while the context lasts; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, document = cluster.answer(self.command, self.path, body)
            data = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_PUT = _handle

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
