"""Commits a dataset: verifies the shards, renames them, and writes dataset.json last, all of it under a lease.

At any moment dataset.json names whole shards: those of the former dataset that new ones replace are copied first. A run
that is killed leaves the former dataset, or shards that `dataset.json.unfinished` marks and the next run replaces.
"""

import collections
import contextlib
import dataclasses
import json
import os
import posixpath
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from beam_preprocess.plan import PLAN_NAME, DatasetPlan
from beam_preprocess.shard_writer import Rejection, ShardReport, SplitStats
from sostenuto import storage
from sostenuto.data.manifest import MANIFEST_NAME, REJECTED_NAME, SPLITS, Manifest, Shard, Split
from sostenuto.data.preparation import ALIVE_NAME, FAILED_NAME
from sostenuto.errors import HeldError, UnavailableError, UserError
from sostenuto.storage.lease import Lease, Lock, Proxy, hold
from sostenuto.text import counted

UNFINISHED_NAME = f"{MANIFEST_NAME}.unfinished"

_SHARD = re.compile(rf"(former-[0-9a-f]{{12}}-)?({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.tfrecord")
_DATASET_FILE = re.compile(
    "|".join(
        [
            _SHARD.pattern,
            *map(re.escape, (MANIFEST_NAME, UNFINISHED_NAME, REJECTED_NAME, PLAN_NAME, ALIVE_NAME, FAILED_NAME)),
        ]
    )
)


@contextlib.contextmanager
def hold_output(output: str) -> Iterator[Lock | Lease]:
    """Creates the output directory and holds it; raises a UserError if it is a file or another process holds it."""
    existed = storage.exists(output)
    if existed and not storage.is_directory(output):
        raise UserError(f"{output}: is a file, expected a directory for the dataset. Choose another --output")
    storage.make_directories(output)
    try:
        try:
            lease = hold(output)
        except HeldError as error:
            raise HeldError(
                f"{output}: {error} writes a dataset to it. Wait until it ends, or choose another --output"
            ) from error
        with contextlib.closing(lease):
            yield lease
    finally:
        if not existed:
            # It fails in a bucket, and if the directory holds a file.
            with contextlib.suppress(OSError):
                os.rmdir(output)


def prepare_output(output: str, *, overwrite: bool) -> None:
    """Deletes the temporary files of killed runs from an output that is held; raises a UserError if it is not free."""
    _check_free(output, storage.list_names(output), overwrite=overwrite)
    remove_temporaries(output)


def remove_temporaries(output: str) -> None:
    """Deletes the temporary files of runs that ended early, from an output that is held."""
    storage.remove_all(
        storage.join(output, name)
        for name in storage.list_names(output)
        if storage.TEMPORARY.search(name) and _is_dataset_file(name)
    )


def list_leftovers(plan: DatasetPlan) -> list[str]:
    """Returns the names in the output of a complete dataset that a commit deletes last, and a kill may leave."""
    return [
        name
        for name in storage.list_names(plan.output)
        if _is_dataset_file(name) and name not in {MANIFEST_NAME, REJECTED_NAME, *plan.shards}
    ]


def remove_leftovers(plan: DatasetPlan, lease: Lock | Lease | Proxy) -> None:
    """Deletes what a complete dataset does not need: its mark, former shards, and temporary files of any run."""

    def remove(name: str) -> None:
        lease.check_held()
        storage.remove(storage.join(plan.output, name))

    # A runner may have written a shard more than once.
    collections.deque(storage.concurrently(remove, list_leftovers(plan)), maxlen=0)


def commit_dataset(
    plan: DatasetPlan, reports: Sequence[ShardReport], lease: Lock | Lease | Proxy | None = None
) -> None:
    """Completes a dataset; after an interruption, a second call with the same reports does.

    Args:
        plan: the dataset's plan.
        reports: those of all shards.
        lease: of the process that holds the output; by default this function holds it.
    """
    order = {name: number for number, name in enumerate(plan.shards)}
    reports = sorted(reports, key=lambda report: order[report.name])
    rejections = [rejection for report in reports for rejection in report.rejections]
    rejections.sort(key=lambda rejection: rejection.path)
    reasons = dict(sorted(collections.Counter(rejection.reason for rejection in rejections).items()))
    _check_reports(plan, reports, rejections, reasons)
    manifest = _build_manifest(plan, reports, reasons)
    with hold_output(plan.output) if lease is None else contextlib.nullcontext(lease) as held:
        _Commit(plan, reports, manifest, held).run(rejections)


@dataclasses.dataclass(frozen=True)
class _Commit:
    """The changes to an output; each is made only while the output is held."""

    plan: DatasetPlan
    reports: Sequence[ShardReport]
    manifest: Manifest
    lease: Lock | Lease | Proxy

    def run(self, rejections: Iterable[Rejection]) -> None:
        """Makes the changes."""
        plan = self.plan
        names = storage.list_names(plan.output)
        written = set(storage.list_names(plan.staging or plan.output))
        to_rename = [report for report in self.reports if posixpath.basename(report.temporary_path) in written]
        renamed = [report for report in self.reports if posixpath.basename(report.temporary_path) not in written]
        former = self._load_former(names)
        self._for_each(renamed, self._check_renamed)
        if former is not None:
            self._keep(former)
        self._write(UNFINISHED_NAME, b"")
        self._for_each(to_rename, self._rename)
        self._for_each(to_rename, self._check_renamed)
        lines = [json.dumps(dataclasses.asdict(rejection)) + "\n" for rejection in rejections]
        self._write(REJECTED_NAME, "".join(lines).encode())
        self.lease.check_held()
        self.manifest.save(plan.output)
        remove_leftovers(plan, self.lease)
        if plan.staging:
            storage.remove_directory(plan.staging)

    def _load_former(self, names: Sequence[str]) -> Manifest | None:
        """Returns the dataset to replace, if it is complete; raises a UserError if the output is not free."""
        former = None
        if MANIFEST_NAME in names:
            try:
                former = Manifest.load(self.plan.output)
            except UnavailableError:
                raise
            except UserError:
                pass  # of another kind or corrupt
        is_this = former is not None and (former.source, former.options, former.splits) == (
            self.manifest.source,
            self.manifest.options,
            self.manifest.splits,
        )
        _check_free(self.plan.output, names, overwrite=self.plan.overwrite or is_this)
        if former is None or not set(names).issuperset(shard.file for shard in _shards(former)):
            return None
        return former

    def _keep(self, former: Manifest) -> None:
        """Copies the shards of the former dataset that others will replace, and has dataset.json name the copies."""
        digests = {report.name: report.sha256 for report in self.reports}
        copies = {
            shard.file: f"former-{uuid.uuid4().hex[:12]}-{shard.file}"
            for shard in _shards(former)
            if digests.get(shard.file, shard.sha256) != shard.sha256
        }
        if not copies:
            return
        self._for_each(copies.items(), lambda names: self._copy(*names))
        splits = {
            name: dataclasses.replace(
                split,
                shards=tuple(
                    dataclasses.replace(shard, file=copies.get(shard.file, shard.file)) for shard in split.shards
                ),
            )
            for name, split in former.splits.items()
        }
        self.lease.check_held()
        dataclasses.replace(former, splits=splits).save(self.plan.output)

    def _check_renamed(self, report: ShardReport) -> None:
        """Checks that a shard has its final name and its content."""
        if storage.checksum(self._path(report.name)) != (report.bytes, report.crc32c):
            raise UserError(
                f"{report.temporary_path}: was written and is gone or changed. Check that no other program writes to "
                "this directory, and run again"
            )

    def _path(self, name: str) -> str:
        return storage.join(self.plan.output, name)

    def _write(self, name: str, data: bytes) -> None:
        self.lease.check_held()
        storage.write_bytes_atomic(self._path(name), data)

    def _rename(self, report: ShardReport) -> None:
        self.lease.check_held()
        storage.rename(report.temporary_path, self._path(report.name))

    def _copy(self, name: str, target: str) -> None:
        self.lease.check_held()
        storage.copy(self._path(name), self._path(target))

    def _for_each(self, items: Iterable[Any], function: Callable[[Any], None]) -> None:
        """Calls a function for each item, concurrently if the output is in a bucket."""
        apply = storage.concurrently if storage.is_remote(self.plan.output) else map
        collections.deque(apply(function, items), maxlen=0)


def _check_free(output: str, names: Sequence[str], *, overwrite: bool) -> None:
    """Raises a UserError if an output holds a dataset, shards that are not of an unfinished one, or other files."""
    if not overwrite and MANIFEST_NAME in names:
        raise UserError(f"{output}: already holds a dataset. Choose another --output, or replace it with --overwrite")
    shards = sorted(filter(_SHARD.fullmatch, names))
    if not overwrite and shards and UNFINISHED_NAME not in names:
        raise UserError(
            f"{output}: contains {shards[0]}, which this program did not write. Choose another --output, or replace "
            "it with --overwrite"
        )
    foreign = [name for name in names if not name.startswith(".") and not _is_dataset_file(name)]
    if not overwrite and foreign and not {MANIFEST_NAME, UNFINISHED_NAME}.intersection(names):
        raise UserError(
            f"{output}: contains {foreign[0]}, which is no file of a dataset. Choose an empty or a new --output, or "
            "add the dataset to these files with --overwrite"
        )


def _is_dataset_file(name: str) -> bool:
    """Returns whether a file has the name of a dataset's file, or of one that a killed run left."""
    return _DATASET_FILE.fullmatch(storage.TEMPORARY.sub("", name)) is not None


def _shards(manifest: Manifest) -> list[Shard]:
    """Returns the shards of all splits."""
    return [shard for split in manifest.splits.values() for shard in split.shards]


def _check_reports(
    plan: DatasetPlan, reports: list[ShardReport], rejections: list[Rejection], reasons: dict[str, int]
) -> None:
    """Checks that all planned files were reported, that enough were accepted, and that no planned split is empty."""
    if [report.name for report in reports] != list(plan.shards):
        raise RuntimeError(f"{counted(len(reports), 'shard')} reported of {len(plan.shards)} planned")
    for report in reports:
        planned, reported = plan.shards[report.name], report.records + len(report.rejections)
        if reported != planned:
            raise RuntimeError(f"{report.name}: {counted(reported, 'file')} written or rejected of {planned} planned")
    total = sum(plan.shards.values())
    if len(rejections) > plan.max_rejected_fraction * total:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        verb = "was" if len(rejections) == 1 else "were"
        raise UserError(
            f"{len(rejections)} of {counted(total, 'file')} {verb} rejected ({counts}), more than "
            f"--max_rejected_fraction={plan.max_rejected_fraction:g} permits, so nothing was written; such as "
            f"{rejections[0].path} {rejections[0].detail}"
        )
    for split in SPLITS:
        split_reports = _reports_of(split, reports)
        if split_reports and not any(report.records for report in split_reports):
            example = split_reports[0].rejections[0]
            raise UserError(
                f"every file of the {split} split was rejected, so nothing was written; such as "
                f"{example.path} {example.detail}"
            )


def _reports_of(split: str, reports: list[ShardReport]) -> list[ShardReport]:
    """Returns the reports of a split's shards."""
    return [report for report in reports if report.name.startswith(f"{split}-")]


def _build_manifest(plan: DatasetPlan, reports: list[ShardReport], reasons: dict[str, int]) -> Manifest:
    """Returns the content of dataset.json."""
    splits, statistics = {}, {}
    for split in SPLITS:
        split_reports = _reports_of(split, reports)
        stats = sum((report.stats for report in split_reports), SplitStats())
        shards = tuple(Shard(report.name, report.records, report.bytes, report.sha256) for report in split_reports)
        performances = sum(report.records for report in split_reports)
        splits[split] = Split(performances, stats.notes, stats.microseconds / 1e6, shards)
        statistics[split] = stats.summarize()
    return Manifest(plan.source, plan.options, splits, reasons, statistics)
