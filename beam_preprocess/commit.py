"""Commits a dataset: verifies the shards, renames them, and writes dataset.json last.

While shards are renamed, which in a bucket copies them, there is no dataset.json, and `dataset.json.unfinished` marks
them. A run that is killed leaves either the former dataset or an unfinished one, which the next run replaces.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence

from beam_preprocess.plan import PLAN_NAME, DatasetPlan
from beam_preprocess.shard_writer import Rejection, ShardReport, SplitStats
from sostenuto import storage
from sostenuto.data.manifest import MANIFEST_NAME, REJECTED_NAME, SPLITS, Manifest, Shard, Split
from sostenuto.errors import UserError
from sostenuto.text import counted

UNFINISHED_NAME = f"{MANIFEST_NAME}.unfinished"

_SHARD = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.tfrecord")
_DATASET_FILE = re.compile(
    "|".join([_SHARD.pattern, *map(re.escape, (MANIFEST_NAME, UNFINISHED_NAME, REJECTED_NAME, PLAN_NAME))])
)


def prepare_output(output: str, *, overwrite: bool) -> None:
    """Creates the output directory and deletes the temporary files of a killed run; else raises a UserError."""
    if storage.exists(output) and not storage.is_directory(output):
        raise UserError(f"{output}: is a file, expected a directory for the dataset. Choose another --output")
    storage.make_directories(output)
    names = storage.list_names(output)
    if not overwrite and MANIFEST_NAME in names:
        raise UserError(f"{output}: already holds a dataset. Choose another --output, or replace it with --overwrite")
    shards = sorted(filter(_SHARD.fullmatch, names))
    if not overwrite and shards and UNFINISHED_NAME not in names:
        raise UserError(
            f"{output}: contains {shards[0]}, which this program did not write. Choose another --output, or replace "
            "it with --overwrite"
        )
    remove_temporaries(output)


def remove_temporaries(output: str) -> None:
    """Deletes the temporary files of runs that ended early."""
    storage.remove_all(
        storage.join(output, name)
        for name in storage.list_names(output)
        if storage.TEMPORARY.search(name) and _DATASET_FILE.fullmatch(storage.TEMPORARY.sub("", name))
    )


def commit_dataset(plan: DatasetPlan, reports: Sequence[ShardReport]) -> None:
    """Completes a dataset; after an interruption, a second call with the same reports does."""
    order = {name: number for number, name in enumerate(plan.shards)}
    reports = sorted(reports, key=lambda report: order[report.name])
    rejections = [rejection for report in reports for rejection in report.rejections]
    rejections.sort(key=lambda rejection: rejection.path)
    reasons = dict(sorted(collections.Counter(rejection.reason for rejection in rejections).items()))
    _check_reports(plan, reports, rejections, reasons)
    path = functools.partial(storage.join, plan.output)
    names = set(storage.list_names(plan.output))
    to_rename = [report for report in reports if posixpath.basename(report.temporary_path) in names]
    renamed = [report for report in reports if posixpath.basename(report.temporary_path) not in names]
    _for_each(plan, renamed, lambda report: _check_renamed(plan, report))

    storage.write_bytes_atomic(path(UNFINISHED_NAME), b"")
    storage.remove(path(MANIFEST_NAME))
    storage.remove_all(path(name) for name in sorted(names) if _SHARD.fullmatch(name) and name not in plan.shards)
    _for_each(plan, to_rename, lambda report: storage.rename(report.temporary_path, path(report.name)))
    lines = [json.dumps(dataclasses.asdict(rejection)) + "\n" for rejection in rejections]
    storage.write_bytes_atomic(path(REJECTED_NAME), "".join(lines).encode())
    _build_manifest(plan, reports, reasons).save(plan.output)
    storage.remove(path(UNFINISHED_NAME))
    # A runner may have written a shard more than once.
    remove_temporaries(plan.output)


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


def _for_each(plan: DatasetPlan, reports: list[ShardReport], function: Callable[[ShardReport], None]) -> None:
    """Calls a function for each shard, concurrently if the output is in a bucket."""
    results: Iterable[None] = map(function, reports)
    if storage.is_remote(plan.output):
        largest = max((report.bytes for report in reports), default=0)
        results = storage.concurrently(function, reports, bytes_each=largest)
    collections.deque(results, maxlen=0)


def _check_renamed(plan: DatasetPlan, report: ShardReport) -> None:
    """Checks that a shard without a temporary file already has its final name, from before an interruption."""
    path = storage.join(plan.output, report.name)
    if not storage.exists(path) or hashlib.sha256(storage.read_bytes(path)).hexdigest() != report.sha256:
        raise UserError(
            f"{report.temporary_path}: was written and is gone. Check that no other program writes to this directory, "
            "and run again"
        )


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
