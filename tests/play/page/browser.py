"""The browser of the page's tests: URLs, keys by their place, the mouse, fingers and files."""

import base64
import pathlib
import time
from typing import Any

from tests.trainer.browser import Page

TIMEOUT = 60  # seconds


class PlayPage(Page):
    """A page that is served."""

    def wait(self, expression: str) -> Any:
        """Waits until an expression is true, and returns its value."""
        until = time.monotonic() + TIMEOUT
        while not (value := self.run(expression)):
            assert time.monotonic() < until, f"{expression} did not become true"
            time.sleep(0.03)
        return value

    def key_down(self, code: str, key: str = "") -> None:
        """Presses a key of the computer, named by its place."""
        self._call("Input.dispatchKeyEvent", type="keyDown", code=code, key=key or code[-1].lower())

    def key_up(self, code: str, key: str = "") -> None:
        """Releases a key of the computer."""
        self._call("Input.dispatchKeyEvent", type="keyUp", code=code, key=key or code[-1].lower())

    def type_key(self, code: str, key: str = "") -> None:
        """Presses and releases a key of the computer."""
        self.key_down(code, key)
        self.key_up(code, key)

    def mouse(self, kind: str, x: float, y: float, *, held: bool = True) -> None:
        """Sends "mousePressed", "mouseMoved" or "mouseReleased"."""
        self._call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if held else "none",
            buttons=int(held and kind != "mouseReleased"), clickCount=1,
        )  # fmt: skip

    def touch(self, kind: str, *points: tuple[int, float, float]) -> None:
        """Sends "touchStart", "touchMove" or "touchEnd" with the fingers on the screen, each (id, x, y)."""
        fingers = [{"id": finger, "x": x, "y": y} for finger, x, y in points]
        self._call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def click(self, selector: str) -> None:
        """Clicks the middle of an element."""
        x, y = self.middle(selector)
        self.mouse("mouseMoved", x, y, held=False)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def middle(self, selector: str) -> tuple[float, float]:
        """Returns the middle of an element."""
        box = self.run(
            f"(() => {{ const box = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [box.left + box.width / 2, box.top + box.height / 2]; })()"
        )
        return box[0], box[1]

    def drop(self, data: bytes, name: str) -> None:
        """Drops a file on the page, by events of its own."""
        self.run(
            f"""(() => {{
              const bytes = Uint8Array.from(atob({base64.b64encode(data).decode()!r}), (c) => c.charCodeAt(0));
              const dataTransfer = new DataTransfer();
              dataTransfer.items.add(new File([bytes], {name!r}));
              for (const type of ["dragover", "drop"]) document.body.dispatchEvent(
                new DragEvent(type, {{ dataTransfer, bubbles: true, cancelable: true }}));
            }})()"""
        )

    def phone(self, width: int, height: int, *, dark: bool = False, still: bool = False) -> None:
        """Looks at the page as a phone does."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=True)
        self._call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=5)
        self.prefer(dark=dark, still=still)

    def desk(self) -> None:
        """Looks at the page as a computer with a mouse does."""
        self._call("Emulation.setDeviceMetricsOverride", width=1360, height=850, deviceScaleFactor=1, mobile=False)
        self._call("Emulation.setTouchEmulationEnabled", enabled=False)
        self.prefer()

    def prefer(self, *, dark: bool = False, still: bool = False) -> None:
        """Sets the player's preferences."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self._call("Emulation.setEmulatedMedia", media="", features=features)

    def save_downloads(self, folder: pathlib.Path) -> None:
        """Has the browser save downloads in a folder."""
        session, self._session = self._session, None
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self._session = session

    def grant(self, *permissions: str) -> None:
        """Grants permissions to the page."""
        session, self._session = self._session, None
        self._call("Browser.grantPermissions", permissions=list(permissions))
        self._session = session

    def accessibility_tree(self) -> list[dict[str, Any]]:
        """Returns the nodes that assistive technology sees."""
        return self._call("Accessibility.getFullAXTree")["nodes"]
