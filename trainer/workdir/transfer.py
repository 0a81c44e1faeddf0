"""Transfers between a workdir in a bucket and this machine."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence

from sostenuto import storage
from sostenuto.errors import MissingError
from trainer.checkpoints import manager
from trainer.workdir import layout

logger = logging.getLogger(__name__)

_TRIES = 5  # to fetch a checkpoint while its run replaces it


@contextlib.contextmanager
def download_weights(directory: str) -> Iterator[str]:
    """Yields a local directory with the newest weights of a workdir, those of best/ if there are any."""
    if not storage.is_remote(directory):
        yield directory
        return
    logger.info(f"fetching the newest weights of {directory}")
    with tempfile.TemporaryDirectory() as copy:
        for name in (layout.BEST_NAME, layout.CHECKPOINTS_NAME):
            if fetch_newest_checkpoint(storage.join(directory, name), os.path.join(copy, name)):
                break
        yield copy


@contextlib.contextmanager
def upload_on_exit(directory: str, *, last: Sequence[str]) -> Iterator[str]:
    """Yields a local directory to write in: the given one, or one that is uploaded there on exit, `last` at last."""
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
