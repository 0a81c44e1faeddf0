"""The download, against a real HTTP server on loopback."""

import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.maestro import CHUNK, download
from sostenuto.errors import UserError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ETAG = '"one"'


class Publisher(http.server.ThreadingHTTPServer):
    """Serves CONTENT, with the faults that a test asks for; `requests` keeps the Range of each request or None."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.etag = ETAG
        self.takes_ranges = True
        self.cut_after: list[int] = []  # bytes of the body to send before closing, one request each
        self.statuses: list[int] = []  # answers to give instead of the file, one request each
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/maestro.zip"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        publisher = self.server
        asked = self.headers.get("Range")
        publisher.requests.append(asked)
        if publisher.statuses:
            self.send_error(publisher.statuses.pop(0))
            return
        start = 0
        if asked and publisher.takes_ranges and self.headers.get("If-Range") == publisher.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        body = publisher.content[start:]
        if not body:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            end, size = len(publisher.content) - 1, len(publisher.content)
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        if publisher.etag:
            self.send_header("ETag", publisher.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: publisher.cut_after.pop(0)] if publisher.cut_after else body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "corpora" / "maestro.zip"


def fetch(publisher: Publisher, target: Path, *, sha256: str = SHA256, attempts: int = 4) -> bool:
    return download(publisher.url, target, sha256=sha256, attempts=attempts, first_wait=0, quiet=True)


def resumed_at(request: str | None) -> int:
    return int(request.removeprefix("bytes=").removesuffix("-")) if request else 0


def assert_nothing_but(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_brings_the_whole_file_and_nothing_else(publisher: Publisher, target: Path) -> None:
    assert fetch(publisher, target)
    assert_nothing_but(target)
    assert publisher.requests == [None]


def test_resumes_after_a_cut_connection(publisher: Publisher, target: Path) -> None:
    publisher.cut_after = [300_000, 200_000]
    fetch(publisher, target)
    assert_nothing_but(target)
    first, second, third = (resumed_at(request) for request in publisher.requests)
    assert first == 0
    assert 300_000 - CHUNK <= second <= 300_000
    assert second + 200_000 - CHUNK <= third <= second + 200_000


def test_a_later_run_resumes(publisher: Publisher, target: Path) -> None:
    publisher.cut_after = [300_000, 200_000]
    with pytest.raises(UserError, match=r"gave up after 2 attempts \(Connection broken.* bytes .* run it again"):
        fetch(publisher, target, attempts=2)
    assert not target.exists()
    fetch(publisher, target)
    assert_nothing_but(target)
    assert resumed_at(publisher.requests[-1]) >= 500_000 - 2 * CHUNK


def test_starts_again_when_the_publisher_changed_the_file(publisher: Publisher, target: Path) -> None:
    publisher.content, publisher.etag, publisher.cut_after = b"old" * 100_000, '"old"', [200_000]
    with pytest.raises(UserError, match="gave up"):
        fetch(publisher, target, attempts=1)
    publisher.content, publisher.etag = CONTENT, ETAG
    fetch(publisher, target)
    assert_nothing_but(target)


@pytest.mark.parametrize(("takes_ranges", "etag"), [(False, ETAG), (True, ""), (True, 'W/"weak"')])
def test_starts_again_where_the_server_cannot_resume(
    publisher: Publisher, target: Path, takes_ranges: bool, etag: str
) -> None:
    publisher.takes_ranges, publisher.etag, publisher.cut_after = takes_ranges, etag, [300_000]
    fetch(publisher, target)
    assert_nothing_but(target)


def test_a_complete_part_is_renamed(publisher: Publisher, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("maestro.zip.part").write_bytes(CONTENT)
    target.with_name("maestro.zip.part.etag").write_text(ETAG)
    fetch(publisher, target)
    assert_nothing_but(target)
    assert publisher.requests == [f"bytes={len(CONTENT)}-"]


def test_tries_again_when_the_server_is_busy(publisher: Publisher, target: Path) -> None:
    publisher.statuses = [503, 429]
    fetch(publisher, target)
    assert_nothing_but(target)


def test_does_not_retry_after_404(publisher: Publisher, target: Path) -> None:
    publisher.statuses = [404]
    with pytest.raises(UserError, match="404 Not Found"):
        fetch(publisher, target)
    assert len(publisher.requests) == 1


def test_a_wrong_checksum_leaves_nothing(publisher: Publisher, target: Path) -> None:
    with pytest.raises(UserError, match=f"its sha256 is {SHA256}, expected 00ff"):
        fetch(publisher, target, sha256="00ff")
    assert list(target.parent.iterdir()) == []


def test_a_right_file_is_left_alone(publisher: Publisher, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert not fetch(publisher, target)
    assert publisher.requests == []


def test_a_wrong_file_of_that_name_is_rejected_and_kept(publisher: Publisher, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(UserError, match="remove it to download it again"):
        fetch(publisher, target)
    assert target.read_bytes() == b"mine"
    assert publisher.requests == []


def test_no_server_is_one_line_that_says_why(publisher: Publisher, target: Path) -> None:
    url = publisher.url
    publisher.server_close()
    with pytest.raises(UserError, match=r"gave up after 2 attempts .*Connection refused") as raised:
        download(url, target, sha256=SHA256, attempts=2, first_wait=0, quiet=True)
    assert "\n" not in str(raised.value)


def test_the_command_says_what_it_did_and_ends_with_its_status(publisher: Publisher, target: Path) -> None:
    command = [sys.executable, "-m", "demo.maestro", f"--output={target}", f"--url={publisher.url}"]
    wrong = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "sha256" in wrong.stderr
    right = subprocess.run([*command, f"--sha256={SHA256}"], capture_output=True, text=True, timeout=60)
    assert (right.returncode, right.stderr) == (0, "")
    assert right.stdout == f"{target}: downloaded, its sha256 is right\n"
    assert_nothing_but(target)
