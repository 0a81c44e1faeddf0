"""Remote workdirs: a run trains in a local directory, whose files are uploaded in the background.

The bucket is authoritative: a run starts from its files, whatever an earlier run left on this machine. At any moment
the bucket holds a workdir that another machine can resume (`trainer.workdir.transfer`).
"""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import ChangedError, FileError, HeldError, LostError, UserError
from sostenuto.storage.lease import LOCK_NAME, Lease
from trainer.checkpoints import manager
from trainer.config import CONFIG_NAME, Config
from trainer.workdir import layout
from trainer.workdir.background_uploader import BackgroundUploader
from trainer.workdir.transfer import fetch_newest_checkpoint, manifest_rank, stale_names, unit_of, upload_sort_key, warn

logger = logging.getLogger(__name__)

_CACHE_NAME = "workdirs"  # directory of the cache in which remote runs train
_ABANDONED_SECONDS = 60.0  # age after which an unlocked directory belongs to a killed process
_GROWING = (layout.METRICS_NAME, layout.SUMMARIES_NAME)


class LocalWorkdir:
    """A local workdir; a context manager that holds its lock."""

    def __init__(self, directory: str) -> None:
        self.directory = self.name = directory  # where the run reads and writes; as the user named the workdir
        self._lock: BinaryIO | None = None

    def __enter__(self) -> "LocalWorkdir":
        """Returns the workdir."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.close()

    def claim(self, config: Config, manifest: Manifest, versions: Mapping[str, str]) -> None:
        """Claims the workdir as `layout.claim_workdir`; then its directory has all files that a resumed run needs."""
        self._lock = layout.claim_workdir(config, manifest, self.directory, versions)

    def fetch(self, train_step: int) -> None:
        """Downloads a checkpoint that the chief resumes from."""

    def publish(self) -> None:
        """Uploads the directory's current state in the background."""

    def wait(self) -> None:
        """Waits until the published state is uploaded or has failed."""

    def flush(self) -> None:
        """Uploads the directory's current state and waits."""


class RemoteWorkdir(LocalWorkdir):
    """A workdir in a bucket, and the local directory in which its run trains; a context manager.

    The local directory is deleted on exit unless it holds files that could not be uploaded.
    """

    def __init__(self, uri: str, *, max_to_keep: int) -> None:
        super().__init__("")
        self.name = uri.rstrip("/")
        self._max_to_keep = max_to_keep
        self._lease: Lease | None = None
        self._remote: dict[str, int] = {}  # generation of each remote file
        self._uploaded: dict[str, tuple[int, int]] = {}  # state of each local file at its transfer
        self._uploader = BackgroundUploader(self._upload)
        self._is_claimed = False

    def __enter__(self) -> "RemoteWorkdir":
        """Creates the local directory."""
        self._home, self._home_lock = _create_home(self.name)
        self.directory = os.path.join(self._home, "workdir")
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Uploads what a failed run has saved, and releases the workdir."""
        super().__exit__(kind, *error)
        is_clean = True
        if self._lease is not None:
            # Skip the upload after a second Ctrl-C, and if another process has the workdir.
            is_failure = kind is not None and issubclass(kind, Exception) and not issubclass(kind, LostError)
            if self._is_claimed and self._uploader.error is None and is_failure:
                try:
                    self.flush()
                except UserError as flush_error:
                    warn(flush_error)
            is_uploaded = self._uploader.stop()
            is_clean = is_uploaded or not self._is_claimed or isinstance(self._uploader.error, LostError)
            if kind is not KeyboardInterrupt:
                self._lease.close()
        if is_clean:
            shutil.rmtree(self._home, ignore_errors=True)
        self._home_lock.close()

    def claim(self, config: Config, manifest: Manifest, versions: Mapping[str, str]) -> None:
        """Claims the workdir and downloads its files; raises WorkdirLockedError if another process trains in it."""
        try:
            self._lease = Lease(self.name)
        except HeldError as error:
            raise layout.WorkdirLockedError(
                f"{self.name}: {error} is training in it. Wait for it, or use another workdir"
            ) from error
        layout.check_workdir(config, manifest, self.name)
        self._remote = storage.generations(self.name)
        if self._remote:
            logger.info(f"fetching what is in {self.name}")
        groups = (CONFIG_NAME, layout.RUN_NAME, layout.BEST_NAME, *_GROWING)
        names = [name for name in self._remote if name.partition("/")[0] in groups]
        storage.download_all(self.name, self.directory, names)
        checkpoints = storage.join(self.name, layout.CHECKPOINTS_NAME)
        fetch_newest_checkpoint(checkpoints, os.path.join(self.directory, layout.CHECKPOINTS_NAME))
        for name in storage.list_files(self.directory):
            self._uploaded[name] = _file_state(os.path.join(self.directory, name))
        super().claim(config, manifest, versions)
        self._remove([layout.RESULT_NAME])
        self._uploader.start()
        self.publish()
        self.wait()
        if self._uploader.error is not None:
            raise self._uploader.error
        self._is_claimed, self._uploader.is_awaited = True, False

    def fetch(self, train_step: int) -> None:
        """Downloads a checkpoint that the chief resumes from."""
        name = f"{layout.CHECKPOINTS_NAME}/{manager.checkpoint_name(train_step)}"
        storage.download_all(storage.join(self.name, name), os.path.join(self.directory, name))

    def publish(self) -> None:
        """Uploads the directory's current state in the background; raises the error of an earlier upload."""
        self._uploader.publish(self._snapshot())

    def wait(self) -> None:
        """Waits until the published state is uploaded or has failed."""
        self._uploader.wait()

    def flush(self) -> None:
        """Uploads the directory's current state and waits; files that cannot be uploaded stay in the directory."""
        self._uploader.is_awaited = True
        storage.restart_patience()
        logger.info(f"uploading to {self.name}")
        self.publish()
        self.wait()
        error = self._uploader.error
        if isinstance(error, FileError):
            raise type(error)(
                f"{error}; the files that could not be uploaded are in {self.directory} until training is started "
                "again, which resumes from the bucket's files"
            ) from error
        if error is not None:
            raise error
        assert self._lease is not None
        try:
            self._lease.check_held(now=True)
        except LostError:
            # Its request was under way when another process took over: the run there is not finished.
            if generation := self._remote.get(layout.RESULT_NAME):
                storage.remove_generation(storage.join(self.name, layout.RESULT_NAME), generation)
            raise

    def _snapshot(self) -> str:
        """Creates a directory with the current state of all files: links to finished ones, copies of growing ones."""
        snapshot = tempfile.mkdtemp(prefix="snapshot-", dir=self._home)
        try:
            for name in _list_finished(self.directory):
                source, target = os.path.join(self.directory, name), os.path.join(snapshot, name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                if name.partition("/")[0] in _GROWING:
                    shutil.copy2(source, target)
                else:
                    os.link(source, target)
        except OSError as error:
            shutil.rmtree(snapshot, ignore_errors=True)
            raise FileError(
                f"{snapshot}: cannot be written ({error.strerror}). Make room, then repeat the command"
            ) from error
        return snapshot

    def _upload(self, snapshot: str) -> None:
        """Uploads the changed files of a snapshot, and deletes stale remote files."""
        names = storage.list_files(snapshot)
        states = {name: _file_state(os.path.join(snapshot, name)) for name in names}
        changed = [name for name in names if states[name] != self._uploaded.get(name)]
        # Without its manifest, a half replaced checkpoint or export does not count as complete.
        replaced = {unit_of(name) for name in changed if not manifest_rank(name)} - {""}
        self._remove([name for name in self._remote if manifest_rank(name) and unit_of(name) in replaced])
        ordered = sorted(changed, key=upload_sort_key)
        for name in ordered:
            if name != layout.RESULT_NAME:
                self._upload_file(snapshot, name, states[name])
        self._remove(stale_names(self._remote, names, max_to_keep=self._max_to_keep))
        if layout.RESULT_NAME in ordered:
            assert self._lease is not None
            self._lease.check_held(now=True)
            self._upload_file(snapshot, layout.RESULT_NAME, states[layout.RESULT_NAME])

    def _upload_file(self, snapshot: str, name: str, state: tuple[int, int]) -> None:
        assert self._lease is not None
        source, target = os.path.join(snapshot, name), storage.join(self.name, name)
        self._lease.check_held()
        try:
            generation = storage.upload(source, target, if_generation=self._remote.get(name, 0))
        except ChangedError:
            # A process that lost the workdir to this one may still have been uploading; this upload wins.
            self._lease.check_held(now=True)
            generation = storage.upload(source, target)
        self._remote[name], self._uploaded[name] = generation, state

    def _remove(self, names: Iterable[str]) -> None:
        """Deletes remote files that this process or its predecessors have written."""
        assert self._lease is not None
        for name in names:
            if name in self._remote:
                path = storage.join(self.name, name)
                self._lease.check_held()
                if not storage.remove_generation(path, self._remote[name]):
                    # As in `_upload_file`: the last request of a process that has lost the workdir.
                    self._lease.check_held(now=True)
                    storage.remove(path)
                del self._remote[name]
                self._uploaded.pop(name, None)


def open_workdir(directory: str, *, max_to_keep: int) -> LocalWorkdir:
    """Returns a local or remote workdir to train in; a context manager."""
    if storage.is_remote(directory):
        return RemoteWorkdir(directory, max_to_keep=max_to_keep)
    return LocalWorkdir(directory)


def _file_state(path: str) -> tuple[int, int]:
    """Returns the size and the time of change of a file."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _list_finished(directory: str) -> list[str]:
    """Lists all files but temporary ones and locks."""
    return [
        name
        for name in storage.list_files(directory)
        if not any(part.endswith(LOCK_NAME) or storage.TEMPORARY.search(part) for part in name.split("/"))
    ]


def _create_home(uri: str) -> tuple[str, BinaryIO]:
    """Creates the local directory of a remote workdir, and deletes those of killed processes; returns its lock too."""
    homes = os.path.join(storage.cache_directory(), _CACHE_NAME)
    storage.make_directories(homes)
    prefix = f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}-"
    for name in os.listdir(homes):
        path = os.path.join(homes, name)
        with contextlib.suppress(OSError, FileError):
            # A new directory may not be locked yet.
            if name.startswith(prefix) and time.time() - os.stat(path).st_mtime > _ABANDONED_SECONDS:
                lock = storage.lock(os.path.join(path, LOCK_NAME))
                if lock is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    lock.close()
    try:
        home = tempfile.mkdtemp(prefix=prefix, dir=homes)
        os.mkdir(os.path.join(home, "workdir"))
    except OSError as error:
        raise FileError(f"{homes}: no directory can be created in it ({error.strerror})") from error
    lock = storage.lock(os.path.join(home, LOCK_NAME))
    assert lock is not None
    return home, lock
