"""Transfers between a workdir in a bucket and this machine, in an order that keeps the workdir resumable.

- A checkpoint's manifest follows its other files, and is deleted before them.
- The best weights and the reports come before the checkpoint that refers to them, as they do on a disk. A resumed run
  removes reports later than its checkpoint, but cannot replace missing ones.
- Older checkpoints are deleted once a newer one is complete. result.json, which ends a run, comes last.
"""

import collections
import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence

from sostenuto import storage
from sostenuto.errors import MissingError, UserError
from sostenuto.storage.lease import Lease, Lock
from trainer.checkpoints import manager
from trainer.config import CONFIG_NAME
from trainer.workdir import layout

logger = logging.getLogger(__name__)

_TRIES = 5  # to fetch a checkpoint while its run replaces it
# In this order; files with other names are uploaded between both groups, with the reports.
_BEFORE_REPORTS = (CONFIG_NAME, layout.BEST_NAME)
_AFTER_REPORTS = (layout.RUN_NAME, layout.CHECKPOINTS_NAME, layout.EXPORT_NAME, layout.RESULT_NAME)
_MANIFESTS = (manager.MANIFEST, *layout.EXPORT_LAST)


@contextlib.contextmanager
def download_weights(directory: str) -> Iterator[str]:
    """Yields a local directory with the newest weights of a workdir, those of best/ if there are any."""
    if not storage.is_remote(directory):
        yield directory
        return
    logger.info(f"fetching the newest weights of {directory}")
    with tempfile.TemporaryDirectory() as copy:
        best = storage.join(directory, layout.BEST_NAME)
        if not fetch_newest_checkpoint(best, os.path.join(copy, layout.BEST_NAME)):
            if any(name.endswith(manager.MANIFEST) for name in storage.generations(best)):
                raise corrupt_best_error(directory)
            name = layout.CHECKPOINTS_NAME
            fetch_newest_checkpoint(storage.join(directory, name), os.path.join(copy, name))
        yield copy


def corrupt_best_error(workdir: str) -> UserError:
    """Returns the error for a workdir or an export without readable best weights."""
    if layout.load_export(workdir):
        return UserError(
            f"{storage.join(workdir, layout.BEST_NAME)}: the weights of the export are missing or corrupt. Copy the "
            "whole directory again, or export again"
        )
    return UserError(
        f"{storage.join(workdir, layout.BEST_NAME)}: the best weights are corrupt. Delete {layout.RESULT_NAME} in "
        f"{workdir}, if it is there, and repeat the training command: it replaces them by the best that remain"
    )


@contextlib.contextmanager
def upload_on_exit(directory: str, held: Lock | Lease, *, last: Sequence[str]) -> Iterator[str]:
    """Yields a local directory to write in: the given one, or one that is uploaded there on exit, `last` at last.

    `held` is checked before each request.
    """
    if not storage.is_remote(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory() as copy:
        yield copy
        logger.info(f"uploading to {directory}")
        generations = storage.generations(directory)
        held.check_held(now=True)

        def upload(name: str) -> None:
            held.check_held()
            source, target = os.path.join(copy, name), storage.join(directory, name)
            storage.upload(source, target, if_generation=generations.get(name, 0))

        for name in generations.keys() & set(last):
            held.check_held()
            storage.remove_generation(storage.join(directory, name), generations.pop(name))
        names = [name for name in storage.list_files(copy) if name not in last]
        collections.deque(storage.concurrently(upload, names), maxlen=0)
        held.check_held(now=True)
        for name in last:
            upload(name)


def fetch_newest_checkpoint(source: str, target: str) -> bool:
    """Downloads the newest valid checkpoint of a remote directory; returns False if it has none."""
    for attempt in range(_TRIES):
        names = storage.generations(source)
        steps = [name.split("/")[0] for name in names if name.count("/") == 1 and name.endswith(manager.MANIFEST)]
        try:
            for step in sorted(filter(str.isdigit, steps), key=int, reverse=True):
                copy = os.path.join(target, step)
                files = [name.partition("/")[2] for name in names if name.startswith(f"{step}/")]
                storage.download_all(storage.join(source, step), copy, files)
                if manager.read_checkpoint(copy):
                    return True
                shutil.rmtree(copy)
                warn(f"checkpoint {storage.join(source, step)} is corrupt; skipping it")
            return False
        except MissingError:
            # Its run has just replaced it by a newer one.
            shutil.rmtree(target, ignore_errors=True)
            if attempt == _TRIES - 1:
                raise
    raise AssertionError


def warn(problem: object) -> None:
    """Logs a warning on one line."""
    logger.warning(" ".join(str(problem).split()))


def upload_sort_key(name: str) -> tuple[int, int, int, str]:
    """Returns the sort key of a file: the newest checkpoint first, its manifest after its other files."""
    top = name.partition("/")[0]
    if top in _BEFORE_REPORTS:
        rank = _BEFORE_REPORTS.index(top) - len(_BEFORE_REPORTS)
    else:
        rank = _AFTER_REPORTS.index(top) + 1 if top in _AFTER_REPORTS else 0
    newest = max(checkpoint_steps([name], top), default=0)
    return rank, -newest, manifest_rank(name), name


def unit_of(name: str) -> str:
    """Returns the checkpoint or export to which a file belongs, or an empty string."""
    top, *_ = parts = name.split("/")
    if top == layout.EXPORT_NAME:
        return top
    return "/".join(parts[:2]) if top in (layout.BEST_NAME, layout.CHECKPOINTS_NAME) else ""


def manifest_rank(name: str) -> int:
    """Returns a number above 0 for the manifest of a checkpoint or export, which completes it."""
    base = os.path.basename(name)
    return _MANIFESTS.index(base) + 1 if unit_of(name) and base in _MANIFESTS else 0


def checkpoint_steps(names: Iterable[str], group: str) -> set[int]:
    """Returns the train_steps of the checkpoints in checkpoints/ or best/ to which files belong."""
    parts = (name.split("/") for name in names)
    return {int(part[1]) for part in parts if len(part) > 2 and part[0] == group and part[1].isdigit()}


def stale_names(remote: Collection[str], local: Collection[str], *, max_to_keep: int) -> list[str]:
    """Returns the remote files of deleted checkpoints and exports, manifests first."""
    stale = []
    for group in (layout.CHECKPOINTS_NAME, layout.BEST_NAME):
        local_steps, remote_steps = checkpoint_steps(local, group), checkpoint_steps(remote, group)
        if local_steps:
            deleted = remote_steps - local_steps
            if group == layout.CHECKPOINTS_NAME:  # Of these, only the newest is downloaded.
                deleted = manager.steps_to_delete(remote_steps, max(local_steps), max_to_keep)
            stale += [name for name in remote if checkpoint_steps([name], group) & deleted]
    if any(unit_of(name) == layout.EXPORT_NAME for name in local):
        stale += [name for name in remote if unit_of(name) == layout.EXPORT_NAME and name not in local]
    return sorted(stale, key=manifest_rank, reverse=True)
