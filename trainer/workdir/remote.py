"""Workdirs in a bucket: a run trains in a directory of this machine, and what it saves is uploaded while it goes on.

The bucket is the truth. A run begins with what lies there, whatever this machine may still have of an earlier one; and
at any moment the bucket holds a workdir from which another machine can go on as if nothing had happened:

- A checkpoint's manifest, without which it is none, follows its other files, and it is taken away before they are.
- The best weights and the reports come before the checkpoint that tells of them, as they do on a disk. A resumed run
  removes reports that are later than its checkpoint, but could not make up for those that are missing.
- Older checkpoints are removed once a newer one is whole; and result.json, by which a run is over, comes last.

What is uploaded is what there was right after a save: links to files that nobody changes any more, copies of those that
grow. So training need not wait for the bucket; and where saves come faster than uploads, only the newest is uploaded.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import ChangedError, FileError, HeldError, LostError, MissingError, UnavailableError, UserError
from sostenuto.storage.lease import LOCK_NAME, Lease
from trainer.checkpoints import manager
from trainer.config import CONFIG_NAME, Config
from trainer.workdir import layout

logger = logging.getLogger(__name__)

_HOMES_NAME = "workdirs"  # in the cache, for the directories in which runs train
_LEFT_SECONDS = 60.0  # after which a directory that no process holds was left by one that was killed
_TRIES = 5  # to fetch a checkpoint while a run that goes on replaces it

# In this order. What is not named comes with the reports.
_BEFORE_REPORTS = (CONFIG_NAME, layout.BEST_NAME)
_AFTER_REPORTS = (layout.RUN_NAME, layout.CHECKPOINTS_NAME, layout.EXPORT_NAME, layout.RESULT_NAME)
_GROWING = (layout.METRICS_NAME, layout.SUMMARIES_NAME)
# Within a checkpoint and an export: what says that the other files are there.
_LAST = (manager.MANIFEST, *layout.EXPORT_LAST)


class LocalWorkdir:
    """A workdir of this machine, which needs no mirror; it has the methods of `RemoteWorkdir`. A context manager.

    Attributes:
        directory: where the run reads and writes.
        named: the workdir, as the user calls it.
    """

    def __init__(self, directory: str) -> None:
        self.directory = self.named = directory

    def __enter__(self) -> "LocalWorkdir":
        """Returns it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Lets go of it."""

    def begin(self, config: Config, manifest: Manifest, versions: Mapping[str, str]) -> BinaryIO:
        """As `workdir.begin`, after which the directory has all that a run goes on from."""
        return layout.begin(config, manifest, self.directory, versions)

    def fetch(self, train_step: int) -> None:
        """Gets the checkpoint of that train_step, which the chief goes on from."""

    def publish(self) -> None:
        """Has all uploaded that is in the directory now; returns at once."""

    def wait(self) -> None:
        """Waits until what was published is uploaded, or cannot be for now."""

    def settle(self) -> None:
        """Publishes, and waits until all is uploaded."""


class RemoteWorkdir(LocalWorkdir):
    """A workdir in a bucket, and the directory of this machine that it is mirrored in; a context manager.

    The directory is made on entering, and removed on leaving unless it holds what could not be uploaded.

    Args:
        uri: the workdir.
        max_to_keep: how many checkpoints there are to be.
    """

    def __init__(self, uri: str, *, max_to_keep: int) -> None:
        self._uri, self._max_to_keep = uri.rstrip("/"), max_to_keep
        self.named = self._uri
        self._lease: Lease | None = None
        self._there: dict[str, int] = {}  # the bucket's objects and their generations
        self._sent: dict[str, _Look] = {}  # how files looked when they were uploaded or fetched
        self._changed = threading.Condition()
        self._taken: str | None = None
        self._begun, self._uploading, self._over = False, False, False
        self._settling = True  # whether somebody waits, who will be told of an outage
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._upload_all, name="mirror", daemon=True)

    def __enter__(self) -> "RemoteWorkdir":
        """Returns it."""
        self._home, self._held = _new_home(self._uri)
        self.directory = os.path.join(self._home, "workdir")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Uploads what a run that failed has saved, and lets go of the workdir."""
        is_clean = True
        if self._lease is not None:
            # Who presses Ctrl-C twice does not want to wait, for a bucket least of all.
            if self._begun and self._error is None and kind is not None and issubclass(kind, Exception):
                try:
                    self.settle()
                except UserError as error:
                    _warn(error)
            with self._changed:
                is_lost = isinstance(self._error, LostError)
                is_clean = is_lost or not self._begun or not (self._taken or self._uploading or self._error)
                self._over = True
                self._changed.notify_all()
            if kind is not KeyboardInterrupt:
                self._lease.close()
        if is_clean:
            shutil.rmtree(self._home, ignore_errors=True)
        self._held.close()

    def begin(self, config: Config, manifest: Manifest, versions: Mapping[str, str]) -> BinaryIO:
        """As `workdir.begin`, with what lies in the bucket; no other process trains in it from now on.

        Raises:
            Busy: another process trains in it.
            UserError: the bucket cannot be read or written.
        """
        try:
            self._lease = Lease(self._uri)
        except HeldError as error:
            raise layout.WorkdirLockedError(
                f"{self._uri}: {error} is training in it: wait for it, or use another workdir"
            ) from error
        self._there = storage.generations(self._uri)
        if self._there:
            logger.info(f"fetching what is in {self._uri}")
        loose = (CONFIG_NAME, layout.RUN_NAME, *_GROWING)
        storage.download_all(
            self._uri, self.directory, [name for name in self._there if name.partition("/")[0] in loose]
        )
        for name in (layout.BEST_NAME, layout.CHECKPOINTS_NAME):
            _fetch_newest(storage.join(self._uri, name), os.path.join(self.directory, name))
        for name in storage.list_files(self.directory):
            self._sent[name] = _look_at(os.path.join(self.directory, name))
        lock = layout.begin(config, manifest, self.directory, versions)
        try:
            self._remove([layout.RESULT_NAME])
            self._thread.start()
            self.publish()
            self.wait()
            if self._error is not None:
                raise self._error
        except BaseException:
            lock.close()
            raise
        self._begun, self._settling = True, False
        return lock

    def fetch(self, train_step: int) -> None:
        """Gets the checkpoint of that train_step, which the chief goes on from."""
        name = f"{layout.CHECKPOINTS_NAME}/{manager.name_of(train_step)}"
        storage.download_all(storage.join(self._uri, name), os.path.join(self.directory, name))

    def publish(self) -> None:
        """Has all uploaded that is in the directory now, in place of what is not uploaded yet; returns at once.

        Raises:
            LostError: another process has taken the workdir over.
            FileError: the bucket refused what was to be uploaded; not, if it only did not answer.
        """
        taken = self._take()
        with self._changed:
            if self._error is not None and not isinstance(self._error, UnavailableError):
                shutil.rmtree(taken, ignore_errors=True)
                raise self._error
            if self._taken is not None:
                shutil.rmtree(self._taken, ignore_errors=True)
            self._taken = taken
            self._changed.notify_all()

    def wait(self) -> None:
        """Waits until what was published is uploaded, or cannot be for now."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken and not self._uploading)

    def settle(self) -> None:
        """Publishes, and waits until all is uploaded.

        Raises:
            LostError: another process has taken the workdir over.
            FileError: it cannot be; it stays in the directory, which the message names.
        """
        self._settling = True
        logger.info(f"uploading to {self._uri}")
        self.publish()
        self.wait()
        if isinstance(self._error, FileError):
            raise type(self._error)(
                f"{self._error}; what could not be uploaded is in {self.directory} until training is started again, "
                "which goes on from what the bucket has"
            ) from self._error
        if self._error is not None:
            raise self._error

    def _take(self) -> str:
        """Makes a directory with all files as they are now."""
        taken = tempfile.mkdtemp(prefix="taken-", dir=self._home)
        try:
            for name in _files(self.directory):
                source, target = os.path.join(self.directory, name), os.path.join(taken, name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                if name.partition("/")[0] in _GROWING:
                    shutil.copy2(source, target)
                else:
                    os.link(source, target)
        except OSError as error:
            shutil.rmtree(taken, ignore_errors=True)
            raise FileError(
                f"{taken}: cannot be written ({error.strerror}): make room, then give the same command again"
            ) from error
        return taken

    def _upload_all(self) -> None:
        """The thread: uploads what was taken last, again and again."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._taken is not None or self._over)
                if self._over:
                    return
                taken, self._taken, self._uploading = self._taken, None, True
                assert taken is not None
            error: BaseException | None = None
            try:
                self._upload(taken)
            except BaseException as caught:  # To be raised where somebody waits for it.
                error = caught
            shutil.rmtree(taken, ignore_errors=True)
            if isinstance(error, UnavailableError) and not self._settling:
                _warn(f"{error}; training goes on, and the next save is uploaded with all before it")
            with self._changed:
                self._uploading, self._error = False, error
                self._changed.notify_all()

    def _upload(self, taken: str) -> None:
        """Makes the bucket hold what was taken; what has not changed is there already."""
        assert self._lease is not None
        self._lease.check_held()
        names = storage.list_files(taken)
        looks = {name: _look_at(os.path.join(taken, name)) for name in names}
        changed = [name for name in names if looks[name] != self._sent.get(name)]
        # Half replaced, a checkpoint or export must not pass for whole.
        begun = {_whole(name) for name in changed if not _lateness(name)} - {""}
        self._remove([name for name in self._there if _lateness(name) and _whole(name) in begun])
        ordered = sorted(changed, key=_order)
        for name in ordered:
            if name != layout.RESULT_NAME:
                self._put(taken, name, looks[name])
        self._remove(sorted(self._stale(names), key=_lateness, reverse=True))
        if layout.RESULT_NAME in ordered:
            self._put(taken, layout.RESULT_NAME, looks[layout.RESULT_NAME])

    def _put(self, taken: str, name: str, look: "_Look") -> None:
        assert self._lease is not None
        source, target = os.path.join(taken, name), storage.join(self._uri, name)
        try:
            generation = storage.upload(source, target, if_generation=self._there.get(name, 0))
        except ChangedError:
            # One that has lost the workdir to this process was still uploading; this one's is the later word.
            self._lease.check_held(now=True)
            generation = storage.upload(source, target)
        self._there[name], self._sent[name] = generation, look

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._there:
                storage.remove(storage.join(self._uri, name))
                del self._there[name]
                self._sent.pop(name, None)

    def _stale(self, names: list[str]) -> list[str]:
        """What the bucket has of checkpoints and exports that are no more."""
        stale = []
        for group, keep in ((layout.CHECKPOINTS_NAME, self._max_to_keep), (layout.BEST_NAME, 1)):
            here, there = _train_steps(names, group), _train_steps(self._there, group)
            if here:
                gone = manager.steps_to_delete(there, max(here), keep)
                stale += [name for name in self._there if _train_steps([name], group) & gone]
        if any(name.startswith(f"{layout.EXPORT_NAME}/") for name in names):
            stale += [name for name in self._there if name.startswith(f"{layout.EXPORT_NAME}/") and name not in names]
        return stale


def mirrored(directory: str, *, max_to_keep: int) -> LocalWorkdir:
    """What a run trains in: the workdir itself, or the mirror of one in a bucket."""
    return (
        RemoteWorkdir(directory, max_to_keep=max_to_keep) if storage.is_remote(directory) else LocalWorkdir(directory)
    )


@contextlib.contextmanager
def copied(directory: str) -> Iterator[str]:
    """A directory of this machine, while the context lasts, with a workdir's newest weights, best/ before others."""
    if not storage.is_remote(directory):
        yield directory
        return
    logger.info(f"fetching the newest weights of {directory}")
    with tempfile.TemporaryDirectory() as copy:
        for name in (layout.BEST_NAME, layout.CHECKPOINTS_NAME):
            if _fetch_newest(storage.join(directory, name), os.path.join(copy, name)):
                break
        yield copy


@contextlib.contextmanager
def uploaded(directory: str, *, last: Sequence[str]) -> Iterator[str]:
    """A directory of this machine to write into: the given one or, where that is in a bucket, one that is copied there.

    Args:
        directory: where the files go.
        last: those that say that all others are there; in a bucket they come after them, in this order.
    """
    if not storage.is_remote(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory() as copy:
        yield copy
        logger.info(f"uploading to {directory}")
        storage.remove_all(storage.join(directory, name) for name in last)
        storage.upload_all(copy, directory, [name for name in storage.list_files(copy) if name not in last])
        for name in last:
            storage.upload_all(copy, directory, [name])


class _Look(NamedTuple):
    """What differs when a file has changed."""

    size: int
    changed_ns: int


def _look_at(path: str) -> _Look:
    found = os.stat(path)
    return _Look(found.st_size, found.st_mtime_ns)


def _files(directory: str) -> list[str]:
    """All files that have their own names by now."""
    return [
        name
        for name in storage.list_files(directory)
        if not any(
            part == LOCK_NAME or part.startswith(manager.UNFINISHED) or storage.TEMPORARY.search(part)
            for part in name.split("/")
        )
    ]


def _place(name: str) -> int:
    """Where a file comes in the order of uploads; 0 among the reports."""
    top = name.partition("/")[0]
    if top in _BEFORE_REPORTS:
        return _BEFORE_REPORTS.index(top) - len(_BEFORE_REPORTS)
    return _AFTER_REPORTS.index(top) + 1 if top in _AFTER_REPORTS else 0


def _whole(name: str) -> str:
    """The checkpoint or export that a file is part of, which is of use only when it is whole; empty if of none."""
    top, *_ = parts = name.split("/")
    if top == layout.EXPORT_NAME:
        return top
    return "/".join(parts[:2]) if top in (layout.BEST_NAME, layout.CHECKPOINTS_NAME) else ""


def _lateness(name: str) -> int:
    """Above 0 for what says that all of a checkpoint or export is there, and so comes last."""
    base = os.path.basename(name)
    return _LAST.index(base) + 1 if _whole(name) and base in _LAST else 0


def _order(name: str) -> tuple[int, int, int, str]:
    """By what files are uploaded one after the other: the newest checkpoint first, each whole before the next."""
    train_steps = _train_steps([name], name.partition("/")[0])
    return _place(name), -max(train_steps, default=0), _lateness(name), name


def _train_steps(names: Iterable[str], group: str) -> set[int]:
    """Those of the checkpoints in checkpoints/ or best/ that files belong to."""
    parts = (name.split("/") for name in names)
    return {int(part[1]) for part in parts if len(part) > 2 and part[0] == group and part[1].isdigit()}


def _fetch_newest(source: str, target: str) -> bool:
    """Copies the newest whole checkpoint of a directory of a bucket; returns whether there was one."""
    for attempt in range(_TRIES):
        there = storage.generations(source)
        found = [name.split("/")[0] for name in there if name.count("/") == 1 and name.endswith(manager.MANIFEST)]
        try:
            for name in sorted(filter(str.isdigit, found), key=int, reverse=True):
                copy = os.path.join(target, name)
                files = [file.partition("/")[2] for file in there if file.startswith(f"{name}/")]
                storage.download_all(storage.join(source, name), copy, files)
                if manager.is_whole(copy):
                    return True
                shutil.rmtree(copy)
                _warn(f"checkpoint {storage.join(source, name)} is damaged: passed over")
            return False
        except MissingError:
            # A run that goes on has removed it meanwhile, and has a newer one.
            shutil.rmtree(target, ignore_errors=True)
            if attempt == _TRIES - 1:
                raise
    raise AssertionError


def _new_home(uri: str) -> tuple[str, BinaryIO]:
    """Makes a directory for the mirror of a workdir; returns it with the lock that says that it is in use.

    What processes that were killed have left of that workdir is removed.
    """
    homes = os.path.join(storage.cache_directory(), _HOMES_NAME)
    storage.make_directories(homes)
    prefix = f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}-"
    for name in os.listdir(homes):
        path = os.path.join(homes, name)
        with contextlib.suppress(OSError, FileError):
            # A new one may not have been locked yet.
            if name.startswith(prefix) and time.time() - os.stat(path).st_mtime > _LEFT_SECONDS:
                lock = storage.lock(os.path.join(path, LOCK_NAME))
                if lock is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    lock.close()
    try:
        home = tempfile.mkdtemp(prefix=prefix, dir=homes)
        os.mkdir(os.path.join(home, "workdir"))
    except OSError as error:
        raise FileError(f"{homes}: no directory can be made there ({error.strerror})") from error
    lock = storage.lock(os.path.join(home, LOCK_NAME))
    assert lock is not None
    return home, lock


def _warn(trouble: object) -> None:
    logger.warning(" ".join(str(trouble).split()))
