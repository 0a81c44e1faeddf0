"""Atomic checkpoints: directories named by their train_step.

Each is written under another name, checksummed, and renamed when complete. A reader skips a corrupt one.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sostenuto import storage
from sostenuto.data.json_record import is_file_name
from sostenuto.errors import FileError, UserError, mismatches
from sostenuto.json_text import parse_json
from sostenuto.text import counted
from trainer.checkpoints.tensorflow_errors import describe
from trainer.config import Config
from trainer.presets import config_from_json

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"

_VARIABLES = "variables"
_PATTERN = re.compile(r"[*?\[\\]")  # TensorFlow reads a path with one of these characters as a pattern

Variables = Mapping[str, Sequence[tf.Variable]]


class Checkpoint(NamedTuple):
    """A valid checkpoint."""

    path: str
    train_step: int
    extra: dict[str, Any]  # the JSON values stored with the variables


class CheckpointManager:
    """Checkpoints of one directory; each save deletes all but `max_to_keep` of them."""

    def __init__(self, directory: str, *, max_to_keep: int) -> None:
        self._directory, self._max_to_keep = directory, max_to_keep

    def save(
        self, train_step: int, variables: Variables, extra: Mapping[str, Any], *, keep: Collection[int] = ()
    ) -> None:
        """Writes a checkpoint with some JSON values, in place of one of the same train_step; keeps those of `keep` too.

        Raises FileError if it cannot be written; earlier checkpoints are unchanged.
        """
        try:
            self._write(train_step, variables, extra)
            paths = {int(os.path.basename(path)): path for path in self._paths()}
            self._delete(steps_to_delete(paths, train_step, self._max_to_keep) - set(keep))
        except (OSError, FileError, tf.errors.OpError) as error:
            raise FileError(self._describe_failure(train_step, variables, error.__cause__ or error)) from error

    def latest(self) -> Checkpoint | None:
        """Returns the newest valid checkpoint, or None; logs a warning for each newer, corrupt one."""
        for path in self._paths():
            if checkpoint := read_checkpoint(path):
                return checkpoint
            logger.warning(f"checkpoint {path} is corrupt; skipping it")
        return None

    def readable(self) -> list[Checkpoint]:
        """Returns the valid checkpoints, newest first."""
        return list(filter(None, map(read_checkpoint, self._paths())))

    def keep(self, train_steps: Collection[int]) -> None:
        """Deletes all checkpoints but those of some train_steps."""
        self._delete({int(os.path.basename(path)) for path in self._paths()} - set(train_steps))

    def load(self, train_step: int) -> Checkpoint:
        """Returns the checkpoint of a train_step; raises UserError if it is missing or corrupt."""
        if checkpoint := read_checkpoint(path := self._path(train_step)):
            return checkpoint
        raise UserError(
            f"{path}: the chief's checkpoint cannot be read on this host. Use the same workdir on every host, on a "
            "shared file system or in a bucket"
        )

    def _write(self, train_step: int, variables: Variables, extra: Mapping[str, Any]) -> None:
        os.makedirs(self._directory, exist_ok=True)
        for name in os.listdir(self._directory):
            if storage.TEMPORARY.search(name):
                shutil.rmtree(os.path.join(self._directory, name), ignore_errors=True)
        # Grouped lists, because Keras' own object graph of a model would miss most variables.
        groups = {name: list(group) for name, group in variables.items()}
        with storage.atomic_directory(self._path(train_step)) as unfinished:
            tf.train.Checkpoint(**groups).write(os.path.join(unfinished, _VARIABLES))
            files = {name: _checksum(os.path.join(unfinished, name)) for name in sorted(os.listdir(unfinished))}
            manifest = {"train_step": train_step, "extra": dict(extra), "files": files}
            manifest["sha256"] = checksum_json(manifest)
            with open(os.path.join(unfinished, MANIFEST), "w", encoding="utf-8") as file:
                file.write(json.dumps(manifest, indent=1))

    def _delete(self, train_steps: Collection[int]) -> None:
        for train_step in train_steps:
            shutil.rmtree(self._path(train_step), ignore_errors=True)

    def _describe_failure(self, train_step: int, variables: Variables, error: BaseException) -> str:
        """Returns the message for a failed save, with the space that it needs."""
        reason = describe(error)
        existing = self._directory
        while not os.path.exists(existing):
            existing = os.path.dirname(existing) or "."
        needed = sum(
            tensor.dtype.size * tensor.shape.num_elements() for group in variables.values() for tensor in group
        )
        paths = self._paths()
        kept = f"the last checkpoint, {paths[0]}, is unchanged" if paths else "there is no earlier checkpoint"
        return (
            f"{self._directory}: the checkpoint of train_step {train_step} cannot be written ({reason}): it needs "
            f"{needed / 1e6:,.1f} MB, {shutil.disk_usage(existing).free / 1e6:,.1f} MB are free; {kept}. Make room, "
            "then repeat the command"
        )

    def _path(self, train_step: int) -> str:
        return os.path.join(self._directory, checkpoint_name(train_step))

    def _paths(self) -> list[str]:
        """Returns the directories of the checkpoints, newest first."""
        if not os.path.isdir(self._directory):
            return []
        names = sorted((name for name in os.listdir(self._directory) if name.isdigit()), key=int, reverse=True)
        return [os.path.join(self._directory, name) for name in names]


def checkpoint_name(train_step: int) -> str:
    """Returns the name of a checkpoint's directory."""
    return f"{train_step:08d}"


def steps_to_delete(train_steps: Collection[int], newest: int, max_to_keep: int) -> set[int]:
    """Returns the checkpoints to delete after a save: all but the new one, `newest`, and those next before it.

    Later checkpoints are corrupt, or belong to a killed run that was resumed from an earlier train_step.
    """
    earlier = sorted(train_step for train_step in train_steps if train_step <= newest)
    return set(train_steps) - set(earlier[-max_to_keep:])


def restore(checkpoint: Checkpoint, variables: Variables) -> None:
    """Reads a checkpoint's variables into the given groups.

    Raises:
        UserError: another architecture wrote it.
        FileError: TensorFlow cannot read it.
    """
    try:
        with _literal_path(checkpoint.path) as directory:
            _restore(os.path.join(directory, _VARIABLES), checkpoint, variables)
    except (OSError, tf.errors.OpError) as error:
        raise FileError(
            f"{checkpoint.path}: the checkpoint cannot be read ({describe(error)}). Check the file system, then repeat "
            "the command"
        ) from error


def _restore(path: str, checkpoint: Checkpoint, variables: Variables) -> None:
    reader = tf.train.load_checkpoint(path)
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    groups = {name: list(group) for name, group in variables.items()}
    for name, group in groups.items():
        # Checked before the read, which would stop half-way with a page of warnings.
        saved = {key: (shape, types[key]) for key, shape in shapes.items() if key.startswith(f"{name}/")}
        expected = {
            f"{name}/{index}/.ATTRIBUTES/VARIABLE_VALUE": (variable.shape.as_list(), variable.dtype)
            for index, variable in enumerate(group)
        }
        if saved != expected:
            fitting = sum(saved.get(key) == value for key, value in expected.items())
            raise UserError(
                f"{checkpoint.path}: not a checkpoint of this config: its {name} has "
                f"{counted(len(saved), 'variable')}; {fitting} fit, expected {len(expected)}. "
                "Restore the checkpoints of this workdir, or pass another --workdir"
            )
    tf.train.Checkpoint(**groups).read(path).assert_existing_objects_matched().expect_partial()


@contextlib.contextmanager
def _literal_path(directory: str) -> Iterator[str]:
    """Yields a path that TensorFlow takes literally: a link to the directory if its own path looks like a pattern."""
    if not _PATTERN.search(directory):
        yield directory
        return
    parent = "/tmp" if _PATTERN.search(tempfile.gettempdir()) else None
    with tempfile.TemporaryDirectory(dir=parent) as links:
        link = os.path.join(links, "checkpoint")
        os.symlink(os.path.abspath(directory), link)
        yield link


def model_variables(model: keras.Model) -> Variables:
    """Returns a model's weights as the group that checkpoints hold."""
    return {"model": [variable.value for variable in model.weights]}


def check_config(checkpoint: Checkpoint, config: Config) -> None:
    """Raises UserError if a checkpoint has another config, except for fields that may change on resume."""
    recorded = config_from_json(checkpoint.extra["config"], checkpoint.path)
    if differences := mismatches(recorded.fixed(), config.fixed()):
        raise UserError(
            f"{checkpoint.path}: the checkpoint has another config: {'; '.join(differences)}. "
            "Restore the checkpoints of this workdir, or pass another --workdir"
        )


def read_checkpoint(path: str) -> Checkpoint | None:
    """Returns the checkpoint of a directory, or None if it is missing or corrupt."""
    try:
        manifest = parse_json(storage.read_bytes(os.path.join(path, MANIFEST)), path)
        is_intact = manifest.pop("sha256") == checksum_json(manifest) and all(
            is_file_name(name) and _checksum(os.path.join(path, name)) == checksum
            for name, checksum in manifest["files"].items()
        )
        checkpoint = Checkpoint(path, manifest["train_step"], manifest["extra"])
        return checkpoint if is_intact and checkpoint.train_step == int(os.path.basename(path)) else None
    except (UserError, OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def checksum_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _checksum(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
