"""A package index on loopback (PEP 503), with wheels that a test makes: what pip and uv ask for, without a network."""

import hashlib
import http.server
import importlib.metadata
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


def write_wheel(
    directory: Path,
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    extras: Sequence[str] = (),
    script: str = "",
) -> Path:
    """Writes a wheel of one module, which prints its version when it is run.

    Args:
        directory: for the file.
        name: of the package and its module.
        version: of the package.
        requires: requirements.
        extras: extras that the package offers.
        script: name of a command that runs the module.
    """
    metadata = [f"Name: {name}", f"Version: {version}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = {
        f"{name}/__init__.py": f'VERSION = "{version}"\ndef main():\n    print("{name}", VERSION)\n'.encode(),
        f"{name}/part.py": b"",
    }
    points = f"[console_scripts]\n{script} = {name}:main\n" if script else ""
    return _write(directory, name, version, metadata, files, points)


def write_uv_wheel(directory: Path) -> Path:
    """Writes a wheel of the uv in this Python environment, where `make` installed it."""
    program = Path(sys.executable).with_name("uv")
    content = program.read_bytes()
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    version = said.stdout.split()[1]
    metadata = ["Name: uv", f"Version: {version}"]
    return _write(directory, "uv", version, metadata, {f"uv-{version}.data/scripts/uv": content}, "")


def write_installed_wheel(directory: Path, name: str) -> Path:
    """Writes a wheel of a package of pure Python in this Python environment."""
    distribution = importlib.metadata.distribution(name)
    path = directory / f"{name}-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in distribution.files or []:
            if ".." not in file.parts and file.suffix != ".pyc":
                archive.write(str(distribution.locate_file(file)), str(file))
    return path


def _write(
    directory: Path, name: str, version: str, metadata: list[str], files: Mapping[str, bytes], points: str
) -> Path:
    information = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{information}/METADATA": "\n".join(["Metadata-Version: 2.1", *metadata, ""]).encode(),
        f"{information}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **({f"{information}/entry_points.txt": points.encode()} if points else {}),
    }
    rows = [f"{path},,{len(content)}" for path, content in contents.items()]
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in contents.items():
            entry = zipfile.ZipInfo(file)
            entry.external_attr = (0o100755 if "/scripts/" in file else 0o100644) << 16
            archive.writestr(entry, content)
        archive.writestr(f"{information}/RECORD", "\n".join([*rows, f"{information}/RECORD,,", ""]))
    return path


class PackageIndex:
    """Serves the wheels of a directory while it is open.

    Attributes:
        url: of the index, for PIP_INDEX_URL.
        stalled: a part of file names: a request for such a file gets no answer.
        requests: the paths that were asked for.
    """

    def __init__(self, directory: Path) -> None:
        self.stalled = ""
        self.requests: list[str] = []
        self.stall = threading.Event()
        self._end = threading.Event()
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.requests.append(self.path)
                name = self.path.rstrip("/").rpartition("/")[2]
                if index.stalled and index.stalled in self.path:
                    index.stall.set()
                    index._end.wait(60)
                    return
                if self.path.startswith("/simple/"):
                    files = sorted(directory.glob(f"{name.replace('-', '_')}-*.whl"))
                    links = [f'<a href="/files/{file.name}#sha256={sha256(file)}">{file.name}</a>' for file in files]
                    self._answer("".join(["<!DOCTYPE html><html><body>", *links, "</body></html>"]).encode(), files)
                else:
                    file = directory / name
                    self._answer(file.read_bytes() if file.exists() else b"", file.exists())

            do_HEAD = do_GET  # uv asks for the size of a file first

            def _answer(self, body: bytes, found: object) -> None:
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "text/html" if self.path.startswith("/simple/") else "application/zip")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def sha256(file: Path) -> str:
    """Returns the hash of a file, as a lock contains it."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
