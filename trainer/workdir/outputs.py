"""Checks of the place that a command is to write to, made before its work begins."""

import os
import tempfile

from sostenuto import storage
from sostenuto.data.manifest import MANIFEST_NAME
from sostenuto.errors import FileError, UserError
from trainer.config import CONFIG_NAME
from trainer.workdir.layout import BEST_NAME, CHECKPOINTS_NAME, EXPORT_NAME, RUN_NAME, SUMMARIES_NAME, resolved

_MARKS = [CONFIG_NAME, RUN_NAME]  # what every workdir has
_PARTS = (CHECKPOINTS_NAME, BEST_NAME, EXPORT_NAME, SUMMARIES_NAME)


def require_own_place(directory: str) -> None:
    """Checks that a directory is no dataset, no workdir and no part of one, whose files have fixed names.

    Args:
        directory: where --output leads; it need not exist.

    Raises:
        UserError: it is one of them, or a file.
    """
    is_file = storage.is_object(directory) if storage.is_remote(directory) else os.path.isfile(directory)
    if is_file:
        raise UserError(f"--output: {directory} is a file. Expected a directory: choose another name")
    parent, name = os.path.split(resolved(directory))
    kinds = [("a dataset", directory, [MANIFEST_NAME]), ("a workdir", directory, _MARKS)]
    if name in _PARTS:
        kinds.append(("part of a workdir", parent, _MARKS))
    for kind, place, marks in kinds:
        if all(storage.exists(storage.join(place, mark)) for mark in marks):
            raise UserError(
                f"--output: {directory} is {kind}, which holds its own files alone. Choose another directory"
            )


def require_writable(directory: str) -> None:
    """Checks that files can be written in a directory, and leaves nothing there; it need not exist.

    Raises:
        FileError: they cannot.
    """
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
