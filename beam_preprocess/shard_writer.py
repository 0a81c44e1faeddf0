"""Deterministic shards, read back and reconciled; dataset.json last.

The order of `publish` is what makes a dataset whole or absent: shards lie under temporary names until all of them have
been read back; from the moment the first of them gets its name until dataset.json is written, there is no dataset.json,
and the marker `dataset.json.unfinished` says whose the shards are. A run that is killed at any moment leaves either the
former dataset, untouched, or an unfinished one, which the next run cleans away. In a bucket it is the same: a shard
gets its name by a copy that the bucket makes of the object with the temporary name.
"""

import dataclasses
import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from beam_preprocess.corpus import CorpusFile
from sostenuto import storage
from sostenuto.data.manifest import MANIFEST_NAME, REJECTED_NAME, SPLITS
from sostenuto.data.tfrecord import (
    SCHEMA_VERSION,
    Performance,
    encode_performance,
    parse_records,
    summarize_record,
    write_records,
)
from sostenuto.errors import UserError
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import FIELDS

PLAN_NAME = "plan.jsonl"
UNFINISHED_NAME = f"{MANIFEST_NAME}.unfinished"
PERFORMANCES_PER_SHARD = 100
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975, 0.99)

_SHARD = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.tfrecord")
_OURS = re.compile(
    rf"({_SHARD.pattern}|{re.escape(MANIFEST_NAME)}|{re.escape(UNFINISHED_NAME)}|{re.escape(REJECTED_NAME)}"
    rf"|{re.escape(PLAN_NAME)})"
)


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A file that was rejected: where it is in the corpus, why in a word, and why in a sentence."""

    path: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class SplitStats:
    """Sums over performances: notes, their time, their distribution, and notes left out."""

    notes: int
    microseconds: int
    zero_length: int
    drums: int
    histograms: Histograms

    @classmethod
    def zero(cls) -> "SplitStats":
        """Returns the tally of no performance."""
        return cls(0, 0, 0, 0, Histograms.zeros())

    def __add__(self, other: "SplitStats") -> "SplitStats":
        """Returns the tally of both together."""
        return SplitStats(
            *(getattr(self, field.name) + getattr(other, field.name) for field in dataclasses.fields(self))
        )


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """What became of the files of one shard.

    Attributes:
        name: the file's name in the finished dataset.
        temporary: the path it was written to.
        records: performances written.
        bytes: length of the file.
        sha256: hex digest of the file, taken while writing.
        tally: sums over the performances written.
        rejections: the files rejected.
    """

    name: str
    temporary: str
    records: int
    bytes: int
    sha256: str
    tally: SplitStats
    rejections: list[Rejection]


class ShardRange(NamedTuple):
    """A shard's name, and where its line is in the list of all files: first byte and length."""

    name: str
    start: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a finished dataset must account for, known before any file is opened.

    Attributes:
        output: the dataset's directory.
        shards: by shard name, the number of files that belong into it; in the order of splits and numbers.
        source: what dataset.json says about the corpus.
        options: what dataset.json says about the run.
        max_rejected_fraction: the share of files that may be rejected.
    """

    output: str
    shards: dict[str, int]
    source: dict[str, Any]
    options: dict[str, Any]
    max_rejected_fraction: float


def assign_shards(files: Iterable[CorpusFile], num_shards: int) -> dict[str, list[CorpusFile]]:
    """Returns the files of each shard, by the shard's name, in the order in which they are to be written.

    The files of a split, ordered by the sha256 of their paths, are cut into parts of equal size (within one), so that
    the list of files alone decides, and no shard is planned empty.

    Args:
        files: all files, each with its split.
        num_shards: shards a split, at most one a file; 0 for one per `PERFORMANCES_PER_SHARD` files or part of them.
    """
    shards: dict[str, list[CorpusFile]] = {}
    for split in SPLITS:
        members = [file for file in files if file.split == split]
        members.sort(key=lambda file: (hashlib.sha256(file.path.encode()).digest(), file.path))
        count = min(num_shards or -(-len(members) // PERFORMANCES_PER_SHARD), len(members))
        for index in range(count):
            part = members[index * len(members) // count : (index + 1) * len(members) // count]
            name = f"{split}-{index:05d}-of-{count:05d}.tfrecord"
            shards[name] = sorted(part, key=lambda file: file.path)
    return shards


def write_plan(path: str, shards: dict[str, list[CorpusFile]]) -> list[ShardRange]:
    """Writes the list of all files, a line a shard, and returns where each shard's line is.

    So the graph of the pipeline, which runners hold to some megabytes, does not grow with every file.

    Raises:
        UserError: the file cannot be written; nothing is left of it.
    """
    ranges = []
    start = 0
    with storage.new_file(path) as file:
        for name, files in shards.items():
            line = json.dumps([dataclasses.astuple(one) for one in files]).encode() + b"\n"
            file.write(line)
            ranges.append(ShardRange(name, start, len(line)))
            start += len(line)
    return ranges


def read_plan(path: str, shard: ShardRange) -> list[CorpusFile]:
    """Returns the files of one shard from what `write_plan` wrote.

    Raises:
        UserError: the file cannot be read.
    """
    line = storage.read_range(path, shard.start, shard.bytes)
    return [CorpusFile(*fields) for fields in json.loads(line)]


def write_shard(temporary: str, performances: Iterable[Performance]) -> tuple[int, int, str]:
    """Writes performances to a file, one record each, and reads it back.

    Returns:
        The number of records, the file's length in bytes, and its sha256 in hex.

    Raises:
        UserError: the file cannot be written, or does not hold what was written; nothing is left of it.
    """
    written: list[tuple[str, int]] = []

    def encoded() -> Iterator[bytes]:
        for performance in performances:
            yield encode_performance(performance)
            written.append((performance.path, len(performance.notes)))

    with storage.new_file(temporary) as file:
        hashing = _HashingFile(file)
        records = write_records(hashing, encoded())  # type: ignore[arg-type]
    digest = hashing.digest.hexdigest()
    try:
        _read_back(temporary, digest, written)
    except UserError:
        storage.remove(temporary)
        raise
    return records, hashing.length, digest


def prepare_output(output: str, *, overwrite: bool) -> None:
    """Makes the output directory and clears away what a killed run left in it.

    Raises:
        UserError: it holds a dataset, or files that look like another's dataset, and `overwrite` is not set.
    """
    if storage.exists(output) and not storage.is_directory(output):
        raise UserError(f"{output}: is a file, expected a directory for the dataset: choose another --output")
    storage.make_directories(output)
    names = storage.list_names(output)
    if not overwrite and MANIFEST_NAME in names:
        raise UserError(f"{output}: already holds a dataset: choose another --output, or replace it with --overwrite")
    shards = sorted(filter(_SHARD.fullmatch, names))
    if not overwrite and shards and UNFINISHED_NAME not in names:
        raise UserError(
            f"{output}: holds {shards[0]}, which is no part of a dataset of this program: choose another --output, "
            "or replace it with --overwrite"
        )
    remove_temporaries(output)


def remove_temporaries(output: str) -> None:
    """Removes the files that were left under temporary names."""
    left = [
        storage.join(output, name)
        for name in storage.list_names(output)
        if storage.TEMPORARY.search(name) and _OURS.fullmatch(storage.TEMPORARY.sub("", name))
    ]
    storage.remove_all(left)


def publish(plan: Plan, reports: Sequence[ShardReport]) -> None:
    """Checks that every planned file is accounted for, gives the shards their names, and writes dataset.json last.

    Running it again after an interruption, with the same reports, completes it.

    Raises:
        UserError: too many files were rejected, a split came out empty, or the shards are not what was reported.
    """
    order = {name: number for number, name in enumerate(plan.shards)}
    reports = sorted(reports, key=lambda report: order[report.name])
    rejections = sorted(
        (rejection for report in reports for rejection in report.rejections), key=lambda rejection: rejection.path
    )
    _check_all_reported(plan, reports)
    _check_rejections(plan, reports, rejections)
    names = set(storage.list_names(plan.output))
    arrived = [report for report in reports if posixpath.basename(report.temporary) in names]
    _for_each(plan, _check_named, [report for report in reports if posixpath.basename(report.temporary) not in names])

    storage.write_bytes_atomic(storage.join(plan.output, UNFINISHED_NAME), b"")
    storage.remove(storage.join(plan.output, MANIFEST_NAME))
    storage.remove_all(
        storage.join(plan.output, name) for name in sorted(names) if _SHARD.fullmatch(name) and name not in plan.shards
    )
    _for_each(plan, _give_name, arrived)
    lines = [json.dumps(dataclasses.asdict(rejection)) + "\n" for rejection in rejections]
    storage.write_bytes_atomic(storage.join(plan.output, REJECTED_NAME), "".join(lines).encode())
    document = _readable_json(_manifest(plan, reports, rejections))
    storage.write_bytes_atomic(storage.join(plan.output, MANIFEST_NAME), document.encode())
    storage.remove(storage.join(plan.output, UNFINISHED_NAME))
    # Of attempts that a runner gave up or made twice.
    remove_temporaries(plan.output)


class _HashingFile:
    """Passes on what is written, and knows its length and digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.length = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.length += len(data)
        self.digest.update(data)
        return self._file.write(data)


def _check_all_reported(plan: Plan, reports: list[ShardReport]) -> None:
    if [report.name for report in reports] != list(plan.shards):
        raise RuntimeError(f"{len(reports)} shards were reported of {len(plan.shards)} planned")
    for report in reports:
        planned, accounted = plan.shards[report.name], report.records + len(report.rejections)
        if accounted != planned:
            raise RuntimeError(f"{report.name}: {accounted} files were written or rejected of {planned} planned")


def _check_rejections(plan: Plan, reports: list[ShardReport], rejections: list[Rejection]) -> None:
    total = sum(plan.shards.values())
    if rejections:
        reasons = ", ".join(f"{count} {reason}" for reason, count in _by_reason(rejections).items())
        example = f"{rejections[0].path} {rejections[0].detail}"
    if len(rejections) > plan.max_rejected_fraction * total:
        raise UserError(
            f"{len(rejections)} of {total} files were rejected ({reasons}), more than "
            f"--max_rejected_fraction={plan.max_rejected_fraction:g} permits, so nothing was written; such as {example}"
        )
    for split in SPLITS:
        of_split = [report for report in reports if report.name.startswith(f"{split}-")]
        if of_split and not any(report.records for report in of_split):
            raise UserError(
                f"every file of the {split} split was rejected, so nothing was written; such as "
                f"{next(report.rejections[0].path for report in of_split)} "
                f"{next(report.rejections[0].detail for report in of_split)}"
            )


def _by_reason(rejections: list[Rejection]) -> dict[str, int]:
    return dict(sorted(Counter(rejection.reason for rejection in rejections).items()))


def _for_each(plan: Plan, function: Callable[[Plan, ShardReport], None], reports: list[ShardReport]) -> None:
    """Calls a function for each shard; for several at once where each call mostly waits for a bucket."""
    if storage.is_remote(plan.output):
        bytes_each = max((report.bytes for report in reports), default=0)
        for _ in storage.concurrently(lambda report: function(plan, report), reports, bytes_each=bytes_each):
            pass
    else:
        for report in reports:
            function(plan, report)


def _give_name(plan: Plan, report: ShardReport) -> None:
    storage.rename(report.temporary, storage.join(plan.output, report.name))


def _read_back(path: str, digest: str, written: list[tuple[str, int]]) -> None:
    """Compares a shard as it is on the disk with the paths and numbers of notes that were written."""
    data = storage.read_bytes(path)
    found = [summarize_record(record) for record in parse_records(data, path)]
    digest_found = hashlib.sha256(data).hexdigest()
    if (found, digest_found) != (written, digest):
        raise UserError(
            f"{path}: read back, it holds {len(found)} performances and sha256 {digest_found[:12]}…, written were "
            f"{len(written)} and {digest[:12]}…: check the disk, run again"
        )


def _check_named(plan: Plan, report: ShardReport) -> None:
    """Checks a shard whose temporary name is gone: it has its own name since before an interruption, or it is lost."""
    path = storage.join(plan.output, report.name)
    if not storage.exists(path) or hashlib.sha256(storage.read_bytes(path)).hexdigest() != report.sha256:
        raise UserError(f"{report.temporary}: was written and is gone: check who else writes here, run again")


def _manifest(plan: Plan, reports: list[ShardReport], rejections: list[Rejection]) -> dict[str, Any]:
    splits, statistics = {}, {}
    for split in SPLITS:
        of_split = [report for report in reports if report.name.startswith(f"{split}-")]
        tally = sum((report.tally for report in of_split), SplitStats.zero())
        splits[split] = {
            "performances": sum(report.records for report in of_split),
            "notes": tally.notes,
            "seconds": tally.microseconds / 1e6,
            "shards": [
                {"file": report.name, "records": report.records, "bytes": report.bytes, "sha256": report.sha256}
                for report in of_split
            ],
        }
        statistics[split] = {
            "zero_length_dropped": tally.zero_length,
            "drums_dropped": tally.drums,
            "quantiles": _quantiles(tally) if tally.notes else {},
            "histograms": tally.histograms.to_json(),
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "source": plan.source,
        "options": plan.options,
        "splits": splits,
        "rejected": _by_reason(rejections),
        "statistics": statistics,
    }


def _readable_json(document: dict[str, Any]) -> str:
    """Returns indented JSON with each list of numbers on one line."""
    text = json.dumps(document, indent=1)
    return re.sub(r"\[[-\d.,\s]+\]", lambda numbers: f"[{' '.join(numbers[0][1:-1].split())}]", text) + "\n"


def _quantiles(tally: SplitStats) -> dict[str, dict[str, float | None]]:
    """Returns quantiles of each field; no note has a step where every performance has but one note."""
    return {
        field: {
            f"{q:g}": tally.histograms.quantile(field, q) if getattr(tally.histograms, field).any() else None
            for q in QUANTILES
        }
        for field in FIELDS
    }
