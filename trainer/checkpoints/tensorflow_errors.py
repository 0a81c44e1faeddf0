"""Errors of TensorFlow's writes to files."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from sostenuto.errors import FileError


def describe(error: tf.errors.OpError) -> str:
    """Returns the reason in TensorFlow's message, which begins with the name of a temporary file."""
    return error.message.splitlines()[0].rpartition("; ")[2].split(" [")[0]


@contextlib.contextmanager
def translate_errors(path: str) -> Iterator[None]:
    """Raises an error of TensorFlow, as on a full disk, as a FileError."""
    try:
        yield
    except tf.errors.OpError as error:
        raise FileError(f"{path}: cannot be written ({describe(error)}). Make room, then repeat the command") from error
