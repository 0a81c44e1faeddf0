"""Signs in a dataset's directory before the dataset is there: that preprocessing works on it, or why it failed.

`sostenuto preprocess --announce` writes it, and `sostenuto wait` reads it.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from sostenuto import storage
from sostenuto.data.manifest import MANIFEST_NAME
from sostenuto.errors import FileError, HeldError, TemporaryError, UserError
from sostenuto.text import counted

logger = logging.getLogger(__name__)

ALIVE_NAME, FAILED_NAME = "alive.json", "failed.json"
RENEW_SECONDS = 60.0


# ---- Writing ----


@contextlib.contextmanager
def announced(directory: str) -> Iterator[None]:
    """Renews a sign of life in a dataset's directory each minute, and leaves the reason if the body fails for good.

    A failure is for good unless a later attempt may succeed: an interruption, a temporary error, or another process
    that holds the directory is none.
    """
    storage.make_directories(directory)
    _remove(directory, FAILED_NAME)
    _renew(directory)
    ended = threading.Event()
    thread = threading.Thread(target=_keep_renewing, args=(directory, ended), daemon=True)
    thread.start()
    try:
        yield
    except (TemporaryError, HeldError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        with contextlib.suppress(UserError):
            _write(directory, FAILED_NAME, {"reason": reason})
        raise
    finally:
        ended.set()
        thread.join()
        _remove(directory, ALIVE_NAME)


def _keep_renewing(directory: str, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        _renew(directory)


def _renew(directory: str) -> None:
    """Writes a new sign of life."""
    try:
        _write(directory, ALIVE_NAME, {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()})
    except UserError as error:
        logger.warning(f"those who wait for the dataset see no sign of life: {error}")


def _write(directory: str, name: str, content: dict[str, Any]) -> None:
    storage.write_bytes_atomic(storage.join(directory, name), json.dumps(content).encode() + b"\n")


def _remove(directory: str, name: str) -> None:
    with contextlib.suppress(UserError):
        storage.remove(storage.join(directory, name))


# ---- Waiting ----

POLL_SECONDS = 10.0
LINE_SECONDS = 60.0
# A failure that was there before may be that of a former attempt, which the next one takes away as it starts.
FORMER_FAILURE_SECONDS = 300.0


def wait(directory: str, *, minutes: float) -> None:
    """Waits until a directory has a dataset, and tells every minute what it waits for.

    Raises:
        UserError: preprocessing failed for good, or gave no sign of life for so many minutes.
    """
    seconds = 60 * minutes
    patience = min(FORMER_FAILURE_SECONDS, seconds)
    begin = last_sign = time.monotonic()
    next_line = begin
    former_failure, sign = _read(directory, FAILED_NAME), _read(directory, ALIVE_NAME)
    while not storage.exists(storage.join(directory, MANIFEST_NAME)):
        now = time.monotonic()
        failure, newest = _read(directory, FAILED_NAME), _read(directory, ALIVE_NAME)
        if failure != former_failure:
            former_failure = b""
        if failure and (not former_failure or now - begin >= patience):
            raise UserError(f"{directory}: preprocessing failed: {_reason(failure)}. Start it again, then this job")
        if newest != sign:
            sign, last_sign = newest, now
        if now - last_sign >= seconds:
            raise UserError(
                f"{directory}: no dataset, and no sign of life from sostenuto preprocess --announce for "
                f"{minutes:g} minutes. Start it, then this job"
            )
        if now >= next_line:
            next_line += LINE_SECONDS
            logger.info(f"waiting for {directory}: {_describe(now - begin, now - last_sign, sign, failure, patience)}")
        time.sleep(min(POLL_SECONDS, seconds / 10))
    logger.info(f"found {directory}")


def _describe(waited: float, silent: float, sign: bytes, failure: bytes, patience: float) -> str:
    """Returns how long it has taken, and what is known of the dataset."""
    text = f"{counted(int(waited / 60), 'minute')} so far"
    if failure:
        return f"{text}; preprocessing failed, and has {patience / 60:g} minutes to start again: {_reason(failure)}"
    if not sign:
        return f"{text}; no sign of preprocessing yet"
    return f"{text}; it is being written" + (f", last sign of life {silent:.0f} s ago" if silent > LINE_SECONDS else "")


def _read(directory: str, name: str) -> bytes:
    """Returns a file's content; nothing if there is none, or the store does not answer."""
    try:
        return storage.read_bytes(storage.join(directory, name))
    except FileError:
        return b""


def _reason(failure: bytes) -> str:
    try:
        return str(json.loads(failure)["reason"])
    except (ValueError, KeyError, TypeError):
        return "its reason cannot be read"
