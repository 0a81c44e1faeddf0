"""Checkpoints that are whole or not there.

A checkpoint is a directory named by its train_step. It is written under another name, checksummed, and renamed when
complete; a reader checks the sums, and passes over a damaged one to the one before it.
"""

import concurrent.futures
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sostenuto import storage
from sostenuto.errors import FileError, UserError, mismatches
from trainer.config import Config

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"
UNFINISHED = ".unfinished-"

_VARIABLES = "variables"

Variables = Mapping[str, Sequence[tf.Variable]]


class Checkpoint(NamedTuple):
    """A checkpoint that was found whole.

    Attributes:
        path: its directory.
        train_step: train_steps done when it was written.
        extra: what was stored beside the variables.
    """

    path: str
    train_step: int
    extra: dict[str, Any]


class CheckpointManager:
    """The checkpoints of one directory.

    Args:
        directory: where they are, created when first needed.
        max_to_keep: how many to keep; older ones are removed after each save.
    """

    def __init__(self, directory: str, *, max_to_keep: int) -> None:
        self._directory = directory
        self._max_to_keep = max_to_keep

    def save(self, train_step: int, variables: Variables, extra: Mapping[str, Any]) -> None:
        """Writes a checkpoint, replacing one of the same train_step.

        Args:
            train_step: train_steps done.
            variables: groups of variables; a restore names the same groups.
            extra: JSON values to keep beside them.

        Raises:
            FileError: it cannot be written, for want of space or of permission; those written before are untouched.
        """
        try:
            self._write(train_step, variables, extra)
        except (OSError, tf.errors.OpError) as error:
            raise FileError(self._not_written(train_step, variables, error)) from error

    def _not_written(self, train_step: int, variables: Variables, error: OSError | tf.errors.OpError) -> str:
        """What to tell of a checkpoint that could not be written."""
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        else:
            reason = error.message.rpartition("; ")[2].split(" [")[0]
        if os.path.isdir(self._directory):
            self._remove_unfinished()
        above = self._directory
        while not os.path.exists(above):
            above = os.path.dirname(above) or "."
        needed = sum(
            variable.dtype.size * variable.shape.num_elements() for group in variables.values() for variable in group
        )
        paths = self._paths()
        kept = f"the last one, {paths[0]}, stays" if paths else "there is none before it"
        return (
            f"{self._directory}: the checkpoint of train_step {train_step} cannot be written ({reason}): it needs "
            f"{_megabytes(needed)}, {_megabytes(shutil.disk_usage(above).free)} are free; {kept}: make room, then give "
            "the same command again"
        )

    def _write(self, train_step: int, variables: Variables, extra: Mapping[str, Any]) -> None:
        os.makedirs(self._directory, exist_ok=True)
        self._remove_unfinished()
        unfinished = tempfile.mkdtemp(prefix=UNFINISHED, dir=self._directory)
        # The variables by group and place: through a Keras model's own object graph most of them would be missed.
        tf.train.Checkpoint(**{name: list(group) for name, group in variables.items()}).write(
            os.path.join(unfinished, _VARIABLES)
        )
        files = {}
        for name in sorted(os.listdir(unfinished)):
            files[name] = _checksum(os.path.join(unfinished, name))
            storage.sync(os.path.join(unfinished, name))
        manifest = {"train_step": train_step, "extra": dict(extra), "files": files}
        manifest["sha256"] = _checksum_of(manifest)
        # Nothing reads it under this name, so that it need not be atomic; and what goes wrong is an OSError.
        with open(os.path.join(unfinished, MANIFEST), "w", encoding="utf-8") as file:
            file.write(json.dumps(manifest, indent=1))
        storage.sync(os.path.join(unfinished, MANIFEST))
        final = self._path(train_step)
        if os.path.exists(final):
            os.rename(final, tempfile.mkdtemp(prefix=UNFINISHED, dir=self._directory))
        os.rename(unfinished, final)
        storage.sync(self._directory)
        self._remove_unfinished()
        paths = {int(os.path.basename(path)): path for path in self._paths()}
        for other in steps_to_delete(paths, train_step, self._max_to_keep):
            shutil.rmtree(paths[other], ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None; damaged newer ones are named on stderr."""
        for path in self._paths():
            saved = _read(path)
            if saved is not None:
                return saved
            logger.warning(f"checkpoint {path} is damaged: passed over")
        return None

    def of_train_step(self, train_step: int) -> Checkpoint:
        """The checkpoint of that train_step.

        Raises:
            UserError: it is not there, or damaged.
        """
        path = self._path(train_step)
        saved = _read(path)
        if saved is None:
            raise UserError(
                f"{path}: the checkpoint that the chief goes on from cannot be read here: expected the same workdir on "
                "every host, on a shared file system or in a bucket"
            )
        return saved

    def _path(self, train_step: int) -> str:
        return os.path.join(self._directory, name_of(train_step))

    def _paths(self) -> list[str]:
        """The checkpoints' directories, newest first."""
        if not os.path.isdir(self._directory):
            return []
        names = sorted((name for name in os.listdir(self._directory) if name.isdigit()), key=int, reverse=True)
        return [os.path.join(self._directory, name) for name in names]

    def _remove_unfinished(self) -> None:
        for name in os.listdir(self._directory):
            if name.startswith(UNFINISHED):
                shutil.rmtree(os.path.join(self._directory, name), ignore_errors=True)


def name_of(train_step: int) -> str:
    """The name of a checkpoint's directory."""
    return f"{train_step:08d}"


def steps_to_delete(train_steps: Iterable[int], newest: int, max_to_keep: int) -> set[int]:
    """Which checkpoints are to go once another one is whole: all but it and those next before it.

    Later ones are damaged, or of a run that was killed and went on from an earlier train_step.

    Args:
        train_steps: of all checkpoints that are there.
        newest: of the one that is whole.
        max_to_keep: how many stay.
    """
    train_steps = set(train_steps)
    return train_steps - set(sorted(one for one in train_steps if one <= newest)[-max_to_keep:])


def is_whole(path: str) -> bool:
    """Whether a directory is a checkpoint to which nothing has happened since it was written."""
    return _read(path) is not None


class AsyncCheckpointer:
    """Writes checkpoints in a thread of its own, in the order they were given, while training goes on.

    A context manager: on leaving, all are written.
    """

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._writing: list[concurrent.futures.Future] = []

    def __enter__(self) -> "AsyncCheckpointer":
        """Returns the saver."""
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the last write; one that failed is told of, also where something else went wrong meanwhile.

        Raises:
            FileError: a checkpoint cannot be written.
        """
        self._thread.shutdown()
        self.wait()

    def save(
        self,
        checkpoints: CheckpointManager,
        train_step: int,
        variables: Variables,
        extra: Mapping[str, Any],
        *,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Saves the current variables like `CheckpointManager.save`. Waits while two other saves are being written.

        Args:
            checkpoints: where it goes.
            train_step: train_steps done.
            variables: as for `CheckpointManager.save`.
            extra: as for `CheckpointManager.save`.
            then: called in the thread, once it is written.

        Raises:
            FileError: this one's or an earlier one's, whenever it is found.
        """
        self._wait_for(1)
        with tf.device("CPU:0"):
            # TensorFlow shares the memory until the next train_step changes the variable.
            copies = {
                name: [tf.Variable(variable.read_value(), trainable=False) for variable in group]
                for name, group in variables.items()
            }

        def write() -> None:
            checkpoints.save(train_step, copies, extra)
            then()

        self._writing.append(self._thread.submit(write))

    def wait(self) -> None:
        """Waits until all are written.

        Raises:
            FileError: one of them cannot be.
        """
        self._wait_for(0)

    def _wait_for(self, left: int) -> None:
        """Waits until no more than so many are being written."""
        while self._writing and (len(self._writing) > left or self._writing[0].done()):
            self._writing.pop(0).result()


def restore(saved: Checkpoint, variables: Variables) -> None:
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


def model_variables(model: keras.Model) -> Variables:
    """Returns a model's weights as the group that checkpoints hold."""
    return {"model": [variable.value for variable in model.weights]}


def check_config(saved: Checkpoint, config: Config) -> None:
    """Checks that a checkpoint was written under the same config, but for what may change on resume.

    Raises:
        UserError: it was not; the message names the fields.
    """
    expected = config.fixed()
    recorded = saved.extra["config"]
    differences = mismatches({name: recorded[name] for name in expected if name in recorded}, expected)
    if differences:
        raise UserError(
            f"{saved.path}: the checkpoint has another config: {'; '.join(differences)}. "
            "Put back the checkpoints of this workdir, or pass another --workdir"
        )


def _read(path: str) -> Checkpoint | None:
    """A checkpoint's directory if it is whole, else None."""
    try:
        with open(os.path.join(path, MANIFEST), "rb") as file:
            manifest = json.load(file)
        sound = manifest.pop("sha256") == _checksum_of(manifest) and all(
            _checksum(os.path.join(path, name)) == checksum for name, checksum in manifest["files"].items()
        )
        saved = Checkpoint(path, manifest["train_step"], manifest["extra"])
        return saved if sound and saved.train_step == int(os.path.basename(path)) else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _checksum_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _checksum(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
