"""A program that runs as long as something else is waited for."""

import contextlib
import logging
import subprocess
import threading
from collections.abc import Iterator

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
GRACE_SECONDS = 10.0


@contextlib.contextmanager
def kept_running(command: list[str]) -> Iterator[None]:
    """Runs a program, again whenever it ends, and ends it when the body does."""
    ended, lock = threading.Event(), threading.Lock()
    process = subprocess.Popen(command)

    def keep() -> None:
        nonlocal process
        while True:
            status = process.wait()
            if ended.is_set():
                return
            logger.info(f"the program ended with status {status}; it starts again in {PAUSE_SECONDS:g} s")
            ended.wait(PAUSE_SECONDS)
            with lock:
                if ended.is_set():
                    return
                process = subprocess.Popen(command)

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        with lock:
            ended.set()
        process.terminate()
        keeper.join(GRACE_SECONDS)
        process.kill()
        process.wait()
