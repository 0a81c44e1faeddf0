"""Checkpoints that are whole or not there.

A checkpoint is a directory named by its train_step. It is written under another name, checksummed, and renamed when
complete; a reader checks the sums, and passes over a damaged one to the one before it.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from notes import storage
from notes.errors import UserError

_VARIABLES = "variables"
_MANIFEST = "checkpoint.json"
_UNFINISHED = ".unfinished-"

Variables = Mapping[str, Sequence[tf.Variable]]


class Saved(NamedTuple):
    """A checkpoint that was found whole.

    Attributes:
        path: its directory.
        train_step: train_steps done when it was written.
        extra: what was stored beside the variables.
    """

    path: str
    train_step: int
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints of one directory.

    Args:
        directory: where they are, created when first needed.
        keep: how many to keep; older ones are removed after each save.
    """

    def __init__(self, directory: str, *, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def save(self, train_step: int, variables: Variables, extra: Mapping[str, Any]) -> None:
        """Writes a checkpoint, replacing one of the same train_step.

        Args:
            train_step: train_steps done.
            variables: groups of variables; a restore names the same groups.
            extra: JSON values to keep beside them.
        """
        os.makedirs(self._directory, exist_ok=True)
        self._remove_unfinished()
        unfinished = tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._directory)
        # The variables by group and place: through a Keras model's own object graph most of them would be missed.
        tf.train.Checkpoint(**{name: list(group) for name, group in variables.items()}).write(
            os.path.join(unfinished, _VARIABLES)
        )
        files = {}
        for name in sorted(os.listdir(unfinished)):
            files[name] = _checksum(os.path.join(unfinished, name))
            storage.sync(os.path.join(unfinished, name))
        manifest = {"train_step": train_step, "extra": dict(extra), "files": files}
        with storage.atomic_write(os.path.join(unfinished, _MANIFEST)) as file:
            file.write(json.dumps(manifest, indent=1).encode())
        final = os.path.join(self._directory, f"{train_step:08d}")
        if os.path.exists(final):
            os.rename(final, tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._directory))
        os.rename(unfinished, final)
        storage.sync(self._directory)
        self._remove_unfinished()
        paths = self._paths()
        # Later ones are damaged, or of a run that was killed and went on from an earlier train_step.
        place = paths.index(final)
        for other in (*paths[:place], *paths[place + self._keep :]):
            shutil.rmtree(other, ignore_errors=True)

    def latest(self) -> Saved | None:
        """The newest checkpoint that is whole, or None; damaged newer ones are named on stderr."""
        for path in self._paths():
            try:
                with open(os.path.join(path, _MANIFEST), "rb") as file:
                    manifest = json.load(file)
                saved = Saved(path, manifest["train_step"], manifest["extra"])
                whole = saved.train_step == int(os.path.basename(path)) and all(
                    _checksum(os.path.join(path, name)) == checksum for name, checksum in manifest["files"].items()
                )
            except (OSError, ValueError, KeyError):
                whole = False
            if whole:
                return saved
            print(f"checkpoint {path} is damaged: passed over", file=sys.stderr)
        return None

    def _paths(self) -> list[str]:
        """The checkpoints' directories, newest first."""
        if not os.path.isdir(self._directory):
            return []
        names = sorted((name for name in os.listdir(self._directory) if name.isdigit()), key=int, reverse=True)
        return [os.path.join(self._directory, name) for name in names]

    def _remove_unfinished(self) -> None:
        for name in os.listdir(self._directory):
            if name.startswith(_UNFINISHED):
                shutil.rmtree(os.path.join(self._directory, name), ignore_errors=True)


def restore(saved: Saved, variables: Variables) -> None:
    """Reads a checkpoint's variables; groups that are not named are left alone.

    Raises:
        UserError: the checkpoint was written by another architecture.
    """
    path = os.path.join(saved.path, _VARIABLES)
    reader = tf.train.load_checkpoint(path)
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    groups = {name: list(group) for name, group in variables.items()}
    for name, group in groups.items():
        # Compared before anything is read: TensorFlow would stop half-way, with a page of warnings.
        there = {key: (shape, types[key]) for key, shape in shapes.items() if key.startswith(f"{name}/")}
        here = {
            f"{name}/{index}/.ATTRIBUTES/VARIABLE_VALUE": (variable.shape.as_list(), variable.dtype)
            for index, variable in enumerate(group)
        }
        if there != here:
            raise UserError(
                f"{saved.path}: not a checkpoint of this config: its {name} has {len(there)} variables of which "
                f"{sum(there.get(key) == value for key, value in here.items())} fit, expected {len(here)}"
            )
    tf.train.Checkpoint(**groups).read(path).assert_existing_objects_matched().expect_partial()


def _checksum(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
