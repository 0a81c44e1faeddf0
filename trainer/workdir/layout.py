"""What lies in a workdir, under which name; whose it is, and who may train in it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError, mismatches
from sostenuto.storage.lease import LOCK_NAME
from trainer.config import CONFIG_NAME, LENGTH_FIELDS, Config

CHECKPOINTS_NAME = "checkpoints"
BEST_NAME = "best"
RUN_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
SUMMARIES_NAME = "summaries"
EXPORT_NAME = "export"
EXPORT_LAST = ("saved_model.pb", "export.json")  # without which it is none
RESULT_NAME = "result.json"
REPORT_NAME = "report.html"


class WorkdirLockedError(UserError):
    """Another process is training in the workdir."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended: the content of result.json.

    Attributes:
        train_step: train_steps done.
        best: the best monitored score, or None where none was measured.
        best_train_step: when it was measured.
        monitor: what the score is.
        reason: why the run ended: steps, patience, SIGTERM, SIGINT, peer where another host was told to end, or told
            where the caller of `loop.train` stopped it.
    """

    train_step: int
    best: float | None
    best_train_step: int
    monitor: str
    reason: str

    @property
    def is_final(self) -> bool:
        """Whether nothing is left to do."""
        return self.reason in ("steps", "patience")


def why_finished(result: Result, config: Config) -> str:
    """Returns why a finished run ended, by the flag that ends it: "--steps reached"."""
    if result.reason == "patience":
        return f"no better score within --patience={config.patience}"
    return next(f"--{name} reached" for name in LENGTH_FIELDS if getattr(config, name))


def load_config(workdir: str) -> Config:
    """The config of a workdir.

    Raises:
        UserError: there is no such workdir.
    """
    path = os.path.join(workdir, CONFIG_NAME)
    if not storage.exists(path):
        raise UserError(
            f"{workdir}: is no workdir of the trainer (it has no {CONFIG_NAME}): train with sostenuto train"
        )
    return Config.load(path)


def load_run(workdir: str) -> dict[str, Any]:
    """What run.json says: the dataset, the planned length, the versions; empty before a run has begun."""
    path = os.path.join(workdir, RUN_NAME)
    return json.loads(storage.read_bytes(path)) if storage.exists(path) else {}


def update_run(workdir: str, values: Mapping[str, Any]) -> None:
    """Puts values into run.json, beside those that it has."""
    write_json(os.path.join(workdir, RUN_NAME), {**load_run(workdir), **values})


def write_json(path: str, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    storage.write_bytes_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def absolute(path: str) -> str:
    """A path that means the same in any directory; a URI is one already."""
    return path if storage.is_remote(path) else os.path.abspath(path)


def dataset(run: Mapping[str, Any]) -> Manifest | None:
    """Returns the dataset that run.json names, or None where it is no longer at that path."""
    try:
        manifest = Manifest.load(run.get("data", ""))
    except UserError:
        return None  # It may have been moved or replaced since.
    return manifest if manifest.sha256 == run.get("dataset") else None


def resolved(path: str) -> str:
    """Returns the path of a place with symbolic links followed, or its URI without a slash at the end."""
    return path.rstrip("/") if storage.is_remote(path) else os.path.realpath(path)


def finished(config: Config, manifest: Manifest, workdir: str) -> Result | None:
    """Checks that a workdir is new or this run's; returns the result if there is nothing left to do.

    Raises:
        UserError: it is another run's, or holds something else.
    """
    config_path, result_path = os.path.join(workdir, CONFIG_NAME), os.path.join(workdir, RESULT_NAME)
    if not storage.exists(config_path):
        # A run that was killed as it began leaves its lock, or a file that was not whole yet.
        names = storage.list_names(workdir) if storage.is_directory(workdir) else []
        if any(name != LOCK_NAME and not storage.TEMPORARY.search(name) for name in names):
            raise UserError(f"{workdir}: is not empty and no workdir of the trainer (it has no {CONFIG_NAME})")
        return None
    before = Config.load(config_path)
    differences = mismatches(config.fixed(), before.fixed())
    if differences:
        raise UserError(
            f"{workdir}: the workdir has another config: {'; '.join(differences)}. "
            "Pass the recorded values, or another --workdir"
        )
    run = load_run(workdir)
    if run.get("dataset", manifest.sha256) != manifest.sha256:
        raise UserError(
            f"{workdir}: the workdir is of another dataset: got {manifest.directory} with sha256 "
            f"{manifest.sha256[:12]}…, expected {run['dataset'][:12]}…, which was {run['data']}. "
            "Pass that dataset as --data, or another --workdir"
        )
    if before == config and storage.exists(result_path):
        return Result(**json.loads(storage.read_bytes(result_path)))
    return None


def fingerprint(config: Config, manifest: Manifest) -> int:
    """A number below 2**20 by which to tell runs of other configs or datasets apart."""
    digest = hashlib.sha256((config.to_json() + manifest.sha256).encode()).digest()
    return int.from_bytes(digest[:4]) >> 12


def begin(config: Config, manifest: Manifest, workdir: str, versions: Mapping[str, str]) -> BinaryIO:
    """Makes a workdir this run's; returns the open file that keeps other processes out of it.

    Args:
        config: the run.
        manifest: its dataset.
        workdir: created where it is missing.
        versions: of the libraries, for the record.

    Raises:
        Busy: another process trains in it.
        UserError: it cannot be written.
    """
    storage.make_directories(workdir)
    lock = storage.lock(os.path.join(workdir, LOCK_NAME))
    if lock is None:
        raise WorkdirLockedError(f"{workdir}: another process is training in it: wait for it, or use another workdir")
    storage.remove(os.path.join(workdir, RESULT_NAME))
    storage.write_bytes_atomic(os.path.join(workdir, CONFIG_NAME), config.to_json().encode())
    update_run(
        workdir,
        {
            "dataset": manifest.sha256,
            "data": absolute(manifest.directory),
            "sustain": manifest.document["options"].get("sustain", "ignore"),
            "versions": dict(versions),
        },
    )
    return lock
