"""Download of MAESTRO v3.0.0's MIDI from its publisher: `python -m demo.maestro`. A second run resumes the first."""

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

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16  # bytes: the most that a cut connection loses
_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_RETRIED_ERRORS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class _InterruptedError(Exception):
    """A transfer that another attempt may complete."""


def download(
    url: str, target: Path, *, sha256: str, attempts: int = 6, first_wait: float = 1.0, quiet: bool = False
) -> bool:
    """Downloads a file, or resumes that; returns False if the target exists with this SHA-256.

    Each failed attempt doubles the seconds before the next. A `*.part` has the bytes that arrived.

    Raises:
        UserError: the target exists with another content, the server fails, or the download has another SHA-256.
    """
    if target.exists():
        _check(target, sha256, remedy="remove it to download it again")
        return False
    storage.make_directories(target.parent)
    part, etag = (target.with_name(f"{target.name}.{suffix}") for suffix in ("part", "part.etag"))
    for attempt in range(attempts):
        if attempt:
            time.sleep(first_wait * 2 ** (attempt - 1))
        try:
            _fetch_rest(url, part, etag, quiet=quiet)
            break
        except _InterruptedError as error:
            reason = error
    else:
        size = part.stat().st_size if part.exists() else 0
        if size:
            remedy = f"; the {size:,} bytes that arrived are kept, run it again to resume"
        else:
            remedy = f". Check the network, or download that file elsewhere and put it at {target}"
        raise UserError(f"{url}: gave up after {attempts} attempts ({reason}){remedy}")
    try:
        _check(part, sha256, remedy="it is removed, run it again")
        storage.rename(part, target)
    finally:
        part.unlink(missing_ok=True)
        etag.unlink(missing_ok=True)
    return True


def _fetch_rest(url: str, part: Path, etag: Path, *, quiet: bool) -> None:
    """Makes one attempt to download the rest of `part`; `etag` has the server's ETag of what `part` contains."""
    headers = {"Accept-Encoding": "identity"}  # ranges count stored bytes
    start = part.stat().st_size if part.exists() and etag.exists() else 0
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": etag.read_text(encoding="latin-1")}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            status = f"the server answered {response.status_code} {response.reason}"
            match response.status_code:
                case 416 if start:
                    return  # the part is complete
                case 206:
                    content_range = response.headers.get("Content-Range", "")
                    if not content_range.startswith(f"bytes {start}-"):
                        raise _InterruptedError(f"asked for bytes from {start}, got {content_range!r}")
                case 200:
                    part.unlink(missing_ok=True)
                    etag.unlink(missing_ok=True)
                    tag = response.headers.get("ETag", "")
                    if tag and not tag.startswith("W/"):  # a weak one does not promise the same bytes
                        etag.write_text(tag, encoding="latin-1")
                case code if code in _RETRIED_STATUSES:
                    raise _InterruptedError(status)
                case _:
                    raise UserError(f"{url}: {status}; is the address right?")
            _append(response, part, quiet=quiet)
    except _RETRIED_ERRORS as error:
        raise _InterruptedError(_innermost_reason(error)) from error
    except requests.RequestException as error:
        raise UserError(f"{url}: cannot be downloaded ({_innermost_reason(error)})") from error
    except OSError as error:
        raise UserError(f"{part}: cannot be written ({error.strerror})") from error


def _append(response: requests.Response, part: Path, *, quiet: bool) -> None:
    with open(part, "ab") as file:
        start, length = file.tell(), response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with ProgressCounter(total=total, unit="byte", description=f"Downloading {part.stem}", quiet=quiet) as counter:
            counter.advance(start)
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                counter.advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _check(path: Path, sha256: str, *, remedy: str) -> None:
    with open(path, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        raise UserError(f"{path}: its sha256 is {actual}, expected {sha256}; {remedy}")


def _innermost_reason(error: Exception) -> str:
    """Returns the cause that requests wraps into several layers, on one line."""
    reason: BaseException = error
    while isinstance(inner := getattr(reason, "reason", None) or next(iter(reason.args), None), BaseException):
        reason = inner
    text = reason.args[0] if reason.args and isinstance(reason.args[0], str) else str(reason)
    return " ".join(text.split()) or type(reason).__name__


def main() -> None:
    """Downloads MAESTRO."""
    output = Path(cli.require_flag(_OUTPUT))
    is_new = download(_URL.value or MAESTRO_URL, output, sha256=cli.require_flag(_SHA256), quiet=cli.QUIET.value)
    cli.print_result(f"{output}: {'downloaded' if is_new else 'is there already'}, its sha256 is right")


if __name__ == "__main__":
    cli.start_group("download")
    _OUTPUT = flags.DEFINE(cli.Path("FILE", False), "output", None, "File to write; a complete download is kept.")
    _URL = flags.DEFINE(
        cli.Text("URL"), "url", None, "Address to download from, such as a mirror. (default: the publisher's)"
    )
    _SHA256 = flags.DEFINE(cli.Text("HEX"), "sha256", MAESTRO_SHA256, "SHA-256 that the file must have.")
    cli.run(
        main,
        usage="--output=FILE [flags]\n\nDownloads MAESTRO v3.0.0's MIDI from its publisher. A second run resumes.",
        required=(_OUTPUT,),
        examples=("--output=corpora/maestro-v3.0.0-midi.zip",),
    )
