"""Uploads of directory snapshots in the background."""

import shutil
import threading
from collections.abc import Callable

from sostenuto.errors import UnavailableError
from trainer.workdir.transfer import warn


class BackgroundUploader:
    """Uploads snapshots in a thread; if they come faster than uploads, only the newest.

    While `is_awaited` is False, it warns of a storage that does not answer.
    """

    def __init__(self, upload: Callable[[str], None]) -> None:
        self._upload = upload
        self.error: BaseException | None = None  # of the last upload
        self.is_awaited = True
        self._changed = threading.Condition()
        self._snapshot: str | None = None
        self._is_uploading, self._is_stopped = False, False
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def publish(self, snapshot: str) -> None:
        """Uploads a snapshot in place of a waiting one, and deletes its directory; returns at once.

        It raises the error of the last upload, unless the storage only did not answer.
        """
        with self._changed:
            if self.error is not None and not isinstance(self.error, UnavailableError):
                shutil.rmtree(snapshot, ignore_errors=True)
                raise self.error
            if self._snapshot is not None:
                shutil.rmtree(self._snapshot, ignore_errors=True)
            self._snapshot = snapshot
            self._changed.notify_all()

    def wait(self) -> None:
        """Waits until the last snapshot is uploaded or has failed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._snapshot and not self._is_uploading)

    def stop(self) -> bool:
        """Stops the thread; returns True if everything was uploaded."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            return not (self._snapshot or self._is_uploading or self.error)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._snapshot is not None or self._is_stopped)
                if self._is_stopped:
                    return
                snapshot, self._snapshot, self._is_uploading = self._snapshot, None, True
                assert snapshot is not None
            error = None
            try:
                self._upload(snapshot)
            except BaseException as caught:  # Raised later, in the thread that waits.
                error = caught
            shutil.rmtree(snapshot, ignore_errors=True)
            if isinstance(error, UnavailableError) and not self.is_awaited:
                warn(f"{error}; training continues, and the next save is uploaded with all before it")
            with self._changed:
                self._is_uploading, self.error = False, error
                self._changed.notify_all()
