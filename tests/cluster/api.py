"""A Kubernetes API as JSON over HTTP, reached through `kubectl proxy`, which knows how to log in."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

Object = dict[str, Any]

_PATCH = "application/strategic-merge-patch+json"
_TIMEOUT = 60  # seconds
_WATCH = 5  # seconds; a watch is started again as often, and a caller that ends waits as long


class ApiError(Exception):
    """A refused request.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """Requests to one cluster.

    Args:
        url: of `kubectl proxy`.
    """

    def __init__(self, url: str) -> None:
        self._address = str(urlsplit(url).netloc)

    def get(self, path: str, **parameters: object) -> Object:
        return json.loads(self.text(path, **parameters))

    def items(self, path: str, **parameters: object) -> list[Object]:
        return self.get(path, **parameters)["items"]

    def text(self, path: str, **parameters: object) -> str:
        return self._request("GET", _with(path, parameters))

    def post(self, path: str, body: Object) -> Object:
        return json.loads(self._request("POST", path, body))

    def patch(self, path: str, body: Object) -> Object:
        return json.loads(self._request("PATCH", path, body, _PATCH))

    def delete(self, path: str, **parameters: object) -> None:
        self._request("DELETE", _with(path, parameters))

    def watch(self, path: str, **parameters: object) -> Iterator[tuple[str, Object]]:
        """Yields (ADDED, MODIFIED or DELETED, object) for all objects, then for changes, until the server closes."""
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT)
        try:
            connection.request("GET", _with(path, {**parameters, "watch": 1, "timeoutSeconds": _WATCH}))
            response = connection.getresponse()
            if response.status != 200:
                raise ApiError(response.status, response.read().decode())
            while line := response.readline():
                event = json.loads(line)
                yield event["type"], event["object"]
        finally:
            connection.close()

    def _request(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> str:
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, body=data, headers={"Content-Type": kind})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        finally:
            connection.close()
        if response.status >= 400:
            raise ApiError(response.status, text)
        return text


def _with(path: str, parameters: dict[str, object]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path
