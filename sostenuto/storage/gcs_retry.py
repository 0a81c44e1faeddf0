"""Retries of requests to a bucket, and the end of the process's patience: all its waits count together."""

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud.storage.retry import DEFAULT_RETRY

from sostenuto.storage.gcs_reason import reason

logger = logging.getLogger(__name__)

RETRY_SECONDS = 300.0
# Until the first answer of any request: without a network there will be none.
FIRST_RETRY_SECONDS = 60.0
LAST_SECONDS = 5.0  # for each request after that
WARN_SECONDS = 8.0  # without an answer, after which a warning is logged
TIMEOUT = 60.0  # seconds without a byte, after which a connection counts as cut

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
_POLL_SECONDS = 0.5

_Result = TypeVar("_Result")
# A generator of its own, so that pauses change no other random number.
_jitter = random.Random()


class Patience:
    """The time that the requests of a process have waited in vain, shared by its threads.

    Reads and writes are timed apart, since a bucket may answer only reads. Reads count from the first write in vain if
    none was answered since. After `RETRY_SECONDS` without an answer, each further request has `LAST_SECONDS`.

    Attributes:
        is_answered: whether any request has got an answer, an error included.
    """

    def __init__(self) -> None:
        self.is_answered = False
        self._lock = threading.Lock()
        self._silent_since: dict[bool, float] = {}  # by whether requests write
        self._answered = -math.inf  # time of the last answer of any request
        self._waiting = {False: 0, True: 0}
        self._subject, self._reason = "", ""  # of the warning
        self._has_warned, self._is_watched = False, False

    def retry(self, function: Callable[[], _Result], *, subject: str, is_write: bool) -> Callable[[], _Result]:
        """Returns a function that repeats another one while its errors are temporary and patience lasts.

        Raises RetryError at the end of patience.
        """

        def call() -> _Result:
            began = self._begin(subject, is_write)
            is_answered, pause = False, FIRST_PAUSE
            try:
                while True:
                    try:
                        result = function()
                        is_answered = True
                        return result
                    except Exception as error:
                        is_answered = not _is_temporary(error)
                        if is_answered:
                            raise
                        self._reason = f" ({reason(error)})"
                        left = self._deadline(is_write, began) - time.monotonic()
                        if left <= 0:
                            raise exceptions.RetryError("no answer", cause=error) from error
                        time.sleep(min(left, max(_retry_after(error), _jitter.uniform(pause / 2, pause))))
                        pause = min(2 * pause, LONGEST_PAUSE)
            finally:
                self._end(is_write, is_answered)

        return call

    def mark(self, *, is_write: bool) -> None:
        """Records an answer. If writes are answered, reads are too."""
        with self._lock:
            self._answered = time.monotonic()
            for kind in (False, True) if is_write else (False,):
                if self._waiting[kind]:
                    self._silent_since[kind] = time.monotonic()
                else:
                    self._silent_since.pop(kind, None)
            has_recovered = self._has_warned and not any(map(self._is_late, (False, True)))
            self._has_warned &= not has_recovered
        if has_recovered:
            logger.info(f"{self._subject}: answers again")

    def restart(self) -> None:
        """Restarts the time of writes, which had failed in the background, unless reads have waited too."""
        with self._lock:
            if True in self._silent_since:
                self._silent_since[True] = self._silent_since.get(False, time.monotonic())

    def timeout(self, *, is_write: bool) -> float:
        """Returns the timeout of a request made now."""
        now = time.monotonic()
        return min(TIMEOUT, self._deadline(is_write, now) - now)

    def _begin(self, subject: str, is_write: bool) -> float:
        """Records a waiting request; returns the time."""
        with self._lock:
            now = time.monotonic()
            self._waiting[is_write] += 1
            writes_since = self._silent_since.get(True, now)
            self._silent_since.setdefault(is_write, writes_since if writes_since > self._answered else now)
            if not self._has_warned and sum(self._waiting.values()) == 1:
                self._subject, self._reason = subject, ""
            if not self._is_watched:
                self._is_watched = True
                threading.Thread(target=self._watch, name="bucket", daemon=True).start()
            return now

    def _end(self, is_write: bool, is_answered: bool) -> None:
        """Records that a request no longer waits."""
        with self._lock:
            self._waiting[is_write] -= 1
        if is_answered:
            self.mark(is_write=is_write)

    def _deadline(self, is_write: bool, began: float) -> float:
        with self._lock:
            since = min(began, self._silent_since.get(is_write, began))
        return max(since + (RETRY_SECONDS if self.is_answered else FIRST_RETRY_SECONDS), began + LAST_SECONDS)

    def _is_late(self, is_write: bool) -> bool:
        since = self._silent_since.get(is_write)
        return since is not None and bool(self._waiting[is_write]) and time.monotonic() - since > WARN_SECONDS

    def _watch(self) -> None:
        """Warns once of requests without an answer; ends when none is waiting."""
        while True:
            with self._lock:
                if not any(self._waiting.values()):
                    self._is_watched = False
                    return
                late = [kind for kind in (False, True) if self._is_late(kind)]
                warns = bool(late) and not self._has_warned
                self._has_warned |= warns
            if warns:
                left = self._deadline(late[0], time.monotonic()) - time.monotonic()
                logger.warning(
                    f"{self._subject}: no answer for {WARN_SECONDS:.0f} s{self._reason}. "
                    f"Trying again for up to {left:.0f} s"
                )
            time.sleep(_POLL_SECONDS)


def _is_temporary(error: Exception) -> bool:
    """Returns whether a repetition may succeed. A server of credentials that does not answer is temporary too."""
    is_auth_temporary = isinstance(error, GoogleAuthError) and (
        error.retryable or isinstance(error.__cause__, TransportError)
    )
    return is_auth_temporary or DEFAULT_RETRY._predicate(error)


def _retry_after(error: Any) -> float:
    """Returns the seconds for which a server asks to wait."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    value = headers.get("Retry-After", "") if hasattr(headers, "get") else ""
    return float(value) if str(value).isdigit() else 0.0
