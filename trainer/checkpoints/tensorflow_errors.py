"""Errors of TensorFlow's reads and writes of files."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from sostenuto.errors import FileError


def describe(error: BaseException) -> str:
    """Returns the reason of a failed read or write; TensorFlow's without the name of a temporary file."""
    if isinstance(error, tf.errors.OpError):
        return error.message.splitlines()[0].rpartition("; ")[2].split(" [")[0]
    return getattr(error, "strerror", None) or str(error)


@contextlib.contextmanager
def translate_errors(path: str) -> Iterator[None]:
    """Raises an error of TensorFlow, as on a full disk, as a FileError."""
    try:
        yield
    except tf.errors.OpError as error:
        raise FileError(f"{path}: cannot be written ({describe(error)}). Make room, then repeat the command") from error
