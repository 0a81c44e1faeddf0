"""Workdir layout, ownership and locking."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import FileError, UserError, mismatches
from sostenuto.storage.lease import LOCK_NAME
from trainer.config import CONFIG_NAME, LENGTH_FIELDS, Config
from trainer.presets import read_config
from trainer.workdir.formats import ExportInfo, RunInfo, RunResult, StopReason

CHECKPOINTS_NAME = "checkpoints"
BEST_NAME = "best"
RUN_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
SUMMARIES_NAME = "summaries"
EXPORT_NAME = "export"
EXPORT_INFO_NAME = "export.json"
EXPORT_LAST = ("saved_model.pb", EXPORT_INFO_NAME)  # the files that complete an export
RESULT_NAME = "result.json"
REPORT_NAME = "report.html"
REPORT_LOCK_NAME = ".report.lock"  # held while the page or the model card is written


class WorkdirLockedError(UserError):
    """Another process is training in the workdir."""


class FinishedError(Exception):
    """The run is finished; `result` is its result."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(result)
        self.result = result


def why_finished(result: RunResult, config: Config) -> str:
    """Returns the reason why a finished run ended, as the flag that ended it: "--steps reached"."""
    if result.reason == StopReason.PATIENCE:
        return f"no better score within --patience={config.patience}"
    return next(f"--{name} reached" for name in LENGTH_FIELDS if getattr(config, name))


def load_config(workdir: str) -> Config:
    """Returns the config of a workdir or an export.

    Raises:
        UserError: the directory does not exist, or is neither.
    """
    path = os.path.join(workdir, CONFIG_NAME)
    if not storage.exists(path):
        if exported := load_export(workdir):
            return exported.config
        if not storage.is_directory(workdir):
            raise UserError(f"{workdir}: no such directory, expected a workdir. Train with sostenuto train")
        raise UserError(
            f"{workdir}: is no workdir of the trainer (it has no {CONFIG_NAME}). Train with sostenuto train"
        )
    return read_config(path)


def load_source_config(init_from: str) -> Config:
    """Returns the config of the workdir or export that a run starts from; raises UserError as `load_config`."""
    with source_errors():
        return load_config(init_from)


@contextlib.contextmanager
def source_errors() -> Iterator[None]:
    """Names --init_from in a UserError about the source of a run."""
    try:
        yield
    except FileError:
        raise
    except UserError as error:
        raise UserError(f"--init_from: {error}") from error


def load_run(workdir: str) -> RunInfo:
    """Returns run.json, or what an export has of it; nothing is recorded before a run has started."""
    if run := RunInfo.load_if_exists(os.path.join(workdir, RUN_NAME)):
        return run
    exported = load_export(workdir)
    if not exported:
        return RunInfo()
    return RunInfo(sustain=exported.sustain, pitch_range=exported.pitch_range, composers=exported.composers)


def load_export(directory: str) -> ExportInfo | None:
    """Returns the description of an export; None if the directory is a workdir, or no export."""
    if storage.exists(os.path.join(directory, CONFIG_NAME)):
        return None
    return ExportInfo.load_if_exists(os.path.join(directory, EXPORT_INFO_NAME))


def has_checkpoint(workdir: str) -> bool:
    """Returns whether a workdir has a checkpoint, which may be corrupt."""
    checkpoints = storage.join(workdir, CHECKPOINTS_NAME)
    return storage.is_directory(checkpoints) and any(map(str.isdigit, storage.list_names(checkpoints)))


def update_run(workdir: str, values: Mapping[str, Any]) -> None:
    """Records values in run.json; the others stay as they are."""
    dataclasses.replace(load_run(workdir), **values).save(os.path.join(workdir, RUN_NAME))


def absolute(path: str) -> str:
    """Returns a path as an absolute path; a URI is unchanged."""
    return path if storage.is_remote(path) else os.path.abspath(path)


def check_dataset(manifest: Manifest, run: RunInfo, workdir: str, *, remedy: str) -> None:
    """Raises UserError if a dataset is not the one that a run was trained on."""
    if manifest.sha256 != run.dataset:
        raise UserError(
            f"{manifest.directory}: is not the dataset that {workdir} was trained on: got the fingerprint "
            f"{manifest.sha256[:12]}…, expected {str(run.dataset)[:12]}…. {remedy}"
        )


def load_dataset(workdir: str, run: RunInfo) -> Manifest:
    """Returns the dataset that a run was trained on; raises UserError if it is unknown, or not at its path."""
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
    remedy = f"Pass --data=DIR if that one was moved, or --data={run.data} with --output=FILE to take this one"
    check_dataset(manifest, run, workdir, remedy=remedy)
    return manifest


def dataset(run: RunInfo) -> Manifest | None:
    """Returns the dataset that a run was trained on, or None if it is no longer at its path."""
    try:
        return load_dataset("", run)
    except UserError:
        return None


def resolved(path: str) -> str:
    """Returns a path with symbolic links followed, or a URI without its final slash."""
    return path.rstrip("/") if storage.is_remote(path) else os.path.realpath(path)


def check_workdir(config: Config, manifest: Manifest, workdir: str) -> None:
    """Raises FinishedError for a finished run, and UserError if the workdir has files of anything else."""
    config_path, result_path = os.path.join(workdir, CONFIG_NAME), os.path.join(workdir, RESULT_NAME)
    if not storage.exists(config_path):
        # A run that was killed at its start leaves its lock, or a temporary file.
        names = storage.list_names(workdir) if storage.is_directory(workdir) else []
        if any(name != LOCK_NAME and not storage.TEMPORARY.search(name) for name in names):
            raise UserError(
                f"{workdir}: is not empty and no workdir of the trainer (it has no {CONFIG_NAME}). "
                "Pass another --workdir"
            )
        return
    recorded = read_config(config_path)
    if differences := mismatches(config.fixed(), recorded.fixed()):
        raise UserError(
            f"{workdir}: the workdir has another config: {'; '.join(differences)}. "
            "Pass the recorded values, or another --workdir"
        )
    run = load_run(workdir)
    if run.dataset is not None:
        check_dataset(manifest, run, workdir, remedy=f"Pass --data={run.data}, or another --workdir")
    if recorded == config and (result := RunResult.load_if_exists(result_path)) is not None:
        raise FinishedError(result)


def fingerprint(config: Config, manifest: Manifest) -> int:
    """Returns a number below 2**20 that tells runs of different configs or datasets apart."""
    digest = hashlib.sha256((config.to_json() + manifest.sha256).encode()).digest()
    return int.from_bytes(digest[:4]) >> 12


def claim_workdir(config: Config, manifest: Manifest, workdir: str, versions: Mapping[str, str]) -> BinaryIO:
    """Claims a workdir for a run, which creates it; returns the open lock file, which excludes other processes.

    It raises WorkdirLockedError if another process trains in it, UserError if it cannot be written, and as
    `check_workdir`, because another process may have used it since an earlier check.
    """
    storage.make_directories(workdir)
    lock = storage.lock(os.path.join(workdir, LOCK_NAME))
    if lock is None:
        raise WorkdirLockedError(f"{workdir}: another process is training in it. Wait for it, or use another workdir")
    try:
        check_workdir(config, manifest, workdir)
        storage.remove(os.path.join(workdir, RESULT_NAME))
        storage.write_bytes_atomic(os.path.join(workdir, CONFIG_NAME), config.to_json().encode())
        sustain = manifest.options.get("sustain", "ignore")
        data = {"dataset": manifest.sha256, "data": absolute(manifest.directory), "sustain": sustain}
        update_run(workdir, data | {"versions": dict(versions)})
    except BaseException:
        lock.close()
        raise
    return lock
