"""Headless Chromium, driven over a pipe by the DevTools protocol."""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_TIMEOUT = 60  # seconds for an answer, which takes 0.1 s on an idle machine


class Page:
    """A page in a browser.

    Attributes:
        errors: exceptions, messages on the console, and violations of its policy.
        requests: URLs of its requests, without data URLs.
    """

    def __init__(self, read: int, write: int) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._read, self._write = read, write
        self._buffer = b""
        self._events: list[str] = []
        self._last = 0
        self._session: str | None = None
        targets = self._call("Target.getTargets")["targetInfos"]
        (target,) = [target for target in targets if target["type"] == "page"]  # the empty page at the start
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, path: pathlib.Path) -> None:
        """Opens a file and waits until it is loaded."""
        self.open_url(path.as_uri())

    def open_url(self, url: str) -> None:
        """Opens a URL and waits until it is loaded."""
        self._events.clear()
        self._call("Page.navigate", url=url)
        until = time.monotonic() + _TIMEOUT
        while "Page.loadEventFired" not in self._events:
            self._receive(until)

    def run(self, script: str) -> Any:
        """Returns the value of an expression, after a promise is fulfilled."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def look(self, *, width: int, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Sets the window's size, light or dark, and screen or paper."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def point(self, x: float, y: float) -> None:
        """Moves the pointer, in pixels of the window."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Presses a key."""
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self, path: pathlib.Path, *, whole: bool = False) -> None:
        """Writes a screenshot as PNG; `whole` includes what is below the window."""
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        until = time.monotonic() + _TIMEOUT
        while True:
            answer = self._receive(until)
            if answer.get("id") == self._last:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], max(until - time.monotonic(), 0))[0], (
                "the browser does not answer"
            )
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        method, parameters = message.get("method", ""), message.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.errors.append(str(parameters["args"]))
        elif method == "Log.entryAdded":
            self.errors.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith("data:"):
            self.requests.append(parameters["request"]["url"])
        return message


@contextlib.contextmanager
def browser(profile: pathlib.Path, page_class: type[Page] = Page) -> Iterator[Any]:
    """Starts Chromium; ends it on exit.

    Args:
        profile: an empty directory for its files.
        page_class: of the page.
    """
    assert CHROMIUM is not None
    to_browser, write = os.pipe()
    read, from_browser = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4.
    command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
    flags = [
        "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--mute-audio", "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(
        ["bash", "-c", command, "bash", CHROMIUM, *flags],
        pass_fds=(to_browser, from_browser),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(to_browser)
        os.close(from_browser)
        try:
            yield page_class(read, write)
        finally:
            # Chromium and its children exit when the pipe is closed.
            os.close(write)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            os.close(read)
