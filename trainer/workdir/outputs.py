"""Output directories of commands: checks before the work, and exclusive access while files are replaced."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator

from sostenuto import storage
from sostenuto.data.manifest import MANIFEST_NAME
from sostenuto.errors import FileError, HeldError, UserError
from sostenuto.storage.lease import LOCK_NAME, Lease, Lock, hold
from trainer.config import CONFIG_NAME
from trainer.workdir.layout import (
    BEST_NAME,
    CHECKPOINTS_NAME,
    EXPORT_LAST,
    EXPORT_NAME,
    RUN_NAME,
    SUMMARIES_NAME,
    resolved,
)

WAIT_SECONDS = 60.0  # for another process that writes a page or sound

_MARKERS = [CONFIG_NAME, RUN_NAME]  # files of every workdir
_PARTS = (CHECKPOINTS_NAME, BEST_NAME, EXPORT_NAME, SUMMARIES_NAME)


def check_output_directory(directory: str) -> None:
    """Raises UserError if the value of --output is a file, a dataset, a workdir, an export or a part of one."""
    if storage.is_object(directory) if storage.is_remote(directory) else os.path.isfile(directory):
        raise UserError(f"--output: {directory} is a file, expected a directory. Choose another name")
    kinds = [
        ("a dataset", directory, [MANIFEST_NAME]),
        ("a workdir", directory, _MARKERS),
        ("an export", directory, EXPORT_LAST),
    ]
    part = resolved(directory)
    while (parent := os.path.dirname(part)) != part:
        if os.path.basename(part) in _PARTS:
            kinds += [("part of a workdir", parent, _MARKERS), ("part of an export", parent, EXPORT_LAST)]
        part = parent
    for kind, path, names in kinds:
        if all(storage.exists(storage.join(path, name)) for name in names):
            raise UserError(
                f"--output: {directory} is {kind}, which may contain only its own files. Choose another directory"
            )


@contextlib.contextmanager
def hold_output(directory: str, *, name: str = LOCK_NAME, wait: float = 0.0) -> Iterator[Lock | Lease]:
    """Holds a directory while its files are replaced; raises UserError if another process has it for `wait` seconds."""
    deadline = time.monotonic() + wait
    storage.make_directories(directory)
    while True:
        try:
            held = hold(directory, name)
            break
        except HeldError as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{directory}: {error} is writing there. Wait for it, or choose another directory"
                ) from error
        time.sleep(0.1)
    with contextlib.closing(held):
        yield held


def check_writable(directory: str) -> None:
    """Raises FileError if files cannot be written in a directory, which need not exist; leaves none."""
    if storage.is_remote(directory):
        probe = storage.temporary_name(storage.join(directory, "probe"))
        storage.write_bytes_atomic(probe, b"")
        storage.remove(probe)
        return
    existing = os.path.abspath(storage.local_path(directory))
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise FileError(
            f"{directory}: cannot be written ({existing}: {error.strerror}). Choose another --output"
        ) from error
