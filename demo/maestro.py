"""Downloads MAESTRO v3.0.0's MIDI from its publisher: `python -m demo.maestro`.

What has arrived stays beside the target as `*.part` and the next run goes on from there. The file takes its name only
when its sha256 is right.
"""

import hashlib
import os
import time
from pathlib import Path

import requests
from absl import flags

from sostenuto import cli, storage
from sostenuto.errors import UserError
from sostenuto.progress import ProgressCounter

MAESTRO_URL = "https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0/maestro-v3.0.0-midi.zip"
MAESTRO_SHA256 = "70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c"

ATTEMPTS = 6
FIRST_WAIT = 1.0  # seconds; doubled after each attempt
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16  # bytes: what a cut connection loses at most
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Interrupted(Exception):
    """The transfer broke off in a way that another attempt may mend."""


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    sha256: str,
    attempts: int = ATTEMPTS,
    first_wait: float = FIRST_WAIT,
    quiet: bool = False,
) -> bool:
    """Downloads a file, going on where an earlier attempt or run broke off.

    Args:
        url: where the file is.
        target: the file to write; left alone if it is there and right.
        sha256: what its content must hash to, in hexadecimal.
        attempts: how often to try in all.
        first_wait: seconds to wait after the first failed attempt; doubled after each one.
        quiet: whether to show no progress.

    Returns:
        Whether anything was downloaded.

    Raises:
        UserError: if the target is there with another content, if the server refuses the file or cannot be reached,
            or if what it sent has another sha256.
    """
    target = Path(target)
    if target.exists():
        _check(target, sha256, advice="remove it to download it again")
        return False
    storage.make_directories(target.parent)
    part = _Part(target)
    for attempt in range(attempts):
        if attempt:
            time.sleep(first_wait * 2 ** (attempt - 1))
        try:
            _transfer(url, part, quiet=quiet)
            break
        except _Interrupted as error:
            reason = error
    else:
        kept = f"; the {part.size():,} bytes that arrived are kept, run it again to go on" if part.size() else ""
        raise UserError(f"{url}: gave up after {attempts} attempts ({reason}){kept}")
    try:
        _check(part.path, sha256, advice="it is removed, run it again")
    except UserError:
        part.discard()
        raise
    storage.rename(part.path, target)
    part.discard()
    return True


class _Part:
    """The file so far, and beside it the server's ETag for it: a later run resumes only the very same file."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._etag_path = target.with_name(f"{target.name}.part.etag")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def etag(self) -> str:
        return self._etag_path.read_text(encoding="latin-1") if self._etag_path.exists() else ""

    def restart(self, etag: str) -> None:
        self.discard()
        # A weak ETag does not promise the same bytes: nothing to resume by.
        if etag and not etag.startswith("W/"):
            self._etag_path.write_text(etag, encoding="latin-1")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._etag_path.unlink(missing_ok=True)


def _transfer(url: str, part: _Part, *, quiet: bool) -> None:
    """Makes one attempt to bring the rest of the file."""
    headers = {"Accept-Encoding": "identity"}  # the bytes as they are stored: ranges count in them
    if part.size() and part.etag():
        headers |= {"Range": f"bytes={part.size()}-", "If-Range": part.etag()}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable and "Range" in headers:
                return  # nothing is left to send; the sha256 tells whether what is here is the file
            _refuse_failure(url, response)
            if not _continues(response, part.size()):
                part.restart(response.headers.get("ETag", ""))
            _append(response, part, quiet=quiet)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _Interrupted(_in_short(error)) from error
    except requests.RequestException as error:
        raise UserError(f"{url}: cannot be downloaded ({_in_short(error)})") from error
    except OSError as error:
        raise UserError(f"{part.path}: cannot be written ({error.strerror})") from error


def _refuse_failure(url: str, response: requests.Response) -> None:
    if response.status_code in TRY_AGAIN:
        raise _Interrupted(f"the server answered {response.status_code} {response.reason}")
    if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
        raise UserError(f"{url}: the server answered {response.status_code} {response.reason}; is the address right?")


def _continues(response: requests.Response, size: int) -> bool:
    """Says whether the body goes on where the part ends; a server without ranges sends the whole file again."""
    if response.status_code != requests.codes.partial_content:
        return False
    if not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
        raise _Interrupted(f"asked for bytes from {size}, got {response.headers.get('Content-Range')!r}")
    return True


def _append(response: requests.Response, part: _Part, *, quiet: bool) -> None:
    length = response.headers.get("Content-Length")
    total = part.size() + int(length) if length else None
    with (
        open(part.path, "ab") as file,
        ProgressCounter(total=total, unit="byte", description=f"Downloading {part.path.stem}", quiet=quiet) as meter,
    ):
        meter.advance(part.size())
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            meter.advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _check(path: Path, sha256: str, *, advice: str) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise UserError(f"{path}: its sha256 is {found}, expected {sha256}; {advice}")


def _in_short(error: Exception) -> str:
    """Names the innermost cause: requests wraps the reason into several layers of its own."""
    reason: BaseException = error
    while isinstance(inner := getattr(reason, "reason", None) or next(iter(reason.args), None), BaseException):
        reason = inner
    text = reason.args[0] if reason.args and isinstance(reason.args[0], str) else str(reason)
    return " ".join(text.split()) or type(reason).__name__


def main(url: str, output: str, *, sha256: str, quiet: bool) -> None:
    """Downloads MAESTRO and says where it is."""
    fresh = download(url, output, sha256=sha256, quiet=quiet)
    if not quiet:
        print(f"{output}: {'downloaded' if fresh else 'is there already'}, its sha256 is right")


if __name__ == "__main__":
    cli.start_group("download")
    _OUTPUT = flags.DEFINE(
        cli.Path("FILE", False), "output", None, "File to write. A complete download of that name is kept."
    )
    _URL = flags.DEFINE(
        cli.Text("URL"), "url", None, "Address to download from, such as a mirror. (default: the publisher's)"
    )
    _SHA256 = flags.DEFINE(cli.Text("HEX"), "sha256", MAESTRO_SHA256, "SHA-256 that the file must have.")
    cli.run(
        lambda: main(
            _URL.value or MAESTRO_URL,
            cli.require_flag(_OUTPUT),
            sha256=cli.require_flag(_SHA256),
            quiet=cli.QUIET.value,
        ),
        usage="--output=FILE [flags]\n\nDownloads MAESTRO v3.0.0's MIDI from its publisher. A second run resumes.",
        required=(_OUTPUT,),
        examples=("--output=corpora/maestro-v3.0.0-midi.zip",),
    )
