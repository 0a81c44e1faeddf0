"""What lies in a workdir, under which name; whose it is, and who may train in it."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import FileError, UserError, mismatches
from sostenuto.storage.lease import LOCK_NAME
from trainer.config import CONFIG_NAME, LENGTH_FIELDS, Config
from trainer.presets import read_config
from trainer.workdir.formats import RunInfo, RunResult

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


def why_finished(result: RunResult, config: Config) -> str:
    """Returns the reason why a finished run ended, by the flag that ended it: "--steps reached"."""
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
    return read_config(path)


def load_run(workdir: str) -> RunInfo:
    """Returns run.json; nothing is recorded before a run has started."""
    return RunInfo.load_if_exists(os.path.join(workdir, RUN_NAME)) or RunInfo()


def update_run(workdir: str, values: Mapping[str, Any]) -> None:
    """Records values in run.json; the others stay as they are."""
    dataclasses.replace(load_run(workdir), **values).save(os.path.join(workdir, RUN_NAME))


def absolute(path: str) -> str:
    """A path that means the same in any directory; a URI is one already."""
    return path if storage.is_remote(path) else os.path.abspath(path)


def load_dataset(workdir: str, run: RunInfo) -> Manifest:
    """Returns the dataset that a run was trained on.

    Raises:
        UserError: run.json records none, or it is no longer at its path.
    """
    if not run.data:
        raise UserError(
            f"--data is missing: {workdir} does not record on which dataset it was trained. Pass --data=DIR"
        )
    try:
        manifest = Manifest.load(run.data)
    except FileError:
        raise
    except UserError as error:
        raise UserError(
            f"{run.data}: the dataset that {workdir} was trained on is not there any more. Pass --data=DIR with the "
            "place where it is now"
        ) from error
    if manifest.sha256 != run.dataset:
        raise UserError(
            f"{run.data}: is not the dataset that {workdir} was trained on: got sha256 {manifest.sha256[:12]}…, "
            f"expected {str(run.dataset)[:12]}…. Pass --data=DIR if that one was moved, or --data={run.data} "
            "with --output=FILE to take this one"
        )
    return manifest


def dataset(run: RunInfo) -> Manifest | None:
    """Returns the dataset that a run was trained on, or None if it is no longer at its path."""
    try:
        return load_dataset("", run)
    except UserError:
        return None


def resolved(path: str) -> str:
    """Returns the path of a place with symbolic links followed, or its URI without a slash at the end."""
    return path.rstrip("/") if storage.is_remote(path) else os.path.realpath(path)


def finished(config: Config, manifest: Manifest, workdir: str) -> RunResult | None:
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
    before = read_config(config_path)
    differences = mismatches(config.fixed(), before.fixed())
    if differences:
        raise UserError(
            f"{workdir}: the workdir has another config: {'; '.join(differences)}. "
            "Pass the recorded values, or another --workdir"
        )
    run = load_run(workdir)
    if run.dataset not in (None, manifest.sha256):
        raise UserError(
            f"{workdir}: the workdir is of another dataset: got {manifest.directory} with sha256 "
            f"{manifest.sha256[:12]}…, expected {str(run.dataset)[:12]}…, which was {run.data}. "
            "Pass that dataset as --data, or another --workdir"
        )
    if before == config and storage.exists(result_path):
        return RunResult.load(result_path)
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
            "sustain": manifest.options.get("sustain", "ignore"),
            "versions": dict(versions),
        },
    )
    return lock
