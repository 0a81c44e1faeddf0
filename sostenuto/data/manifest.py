"""dataset.json: what a finished dataset directory holds, and the way to read it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

from sostenuto import storage
from sostenuto.data.tfrecord import SCHEMA_VERSION, Performance, decode_performance, parse_records
from sostenuto.errors import RecordError, UserError
from sostenuto.music.histograms import Histograms

MANIFEST_NAME = "dataset.json"
REJECTED_NAME = "rejected.jsonl"
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The manifest of a dataset that was written to its end.

    Attributes:
        directory: the dataset's directory, here or in a bucket.
        sha256: hex digest of the bytes of dataset.json, which names the dataset: it covers every shard's digest.
        document: the content of dataset.json; docs/data-format.md explains it.
    """

    directory: str
    sha256: str
    document: dict[str, Any]

    @classmethod
    def load(cls, directory: str | os.PathLike) -> "Manifest":
        """Returns the manifest of a dataset directory.

        Raises:
            UserError: no such directory, no finished dataset in it, or one of another schema version.
        """
        directory = os.fspath(directory)
        if not storage.is_directory(directory):
            raise UserError(f"{directory}: no such directory, expected a dataset: write one with sostenuto preprocess")
        path = storage.join(directory, MANIFEST_NAME)
        if not storage.exists(path):
            raise UserError(
                f"{directory}: has no {MANIFEST_NAME}, so it is unfinished or not a dataset: "
                "run sostenuto preprocess to its end"
            )
        data = storage.read_bytes(path)
        try:
            document = json.loads(data)
            version = document["schema_version"]
            for split in SPLITS:
                _ = document["splits"][split]["shards"], document["statistics"][split]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is no manifest of a dataset: run sostenuto preprocess anew") from error
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{path}: has schema version {version}, expected {SCHEMA_VERSION}: run sostenuto preprocess anew"
            )
        return cls(directory, hashlib.sha256(data).hexdigest(), document)

    def shard_paths(self, split: str) -> list[str]:
        """Returns the paths of a split's shards, in order; empty for an empty split."""
        return [storage.join(self.directory, shard["file"]) for shard in self._split(split)["shards"]]

    def performances(self, split: str) -> int:
        """Returns the number of performances of a split."""
        return self._split(split)["performances"]

    def notes(self, split: str) -> int:
        """Returns the number of notes of a split."""
        return self._split(split)["notes"]

    def histograms(self, split: str) -> Histograms:
        """Returns the histograms of a split."""
        self._split(split)
        return Histograms.from_json(self.document["statistics"][split]["histograms"])

    def read_performances(self, split: str) -> Iterator[Performance]:
        """Yields the performances of a split in the order of its shards.

        Raises:
            UserError: the split is empty or unknown, or a shard cannot be read.
            RecordError: a shard is damaged, or is not the file that the manifest names.
        """
        shards = self._split(split)["shards"]
        if not shards:
            filled = [name for name in SPLITS if self.performances(name)]
            raise UserError(
                f"{self.directory}: the {split} split is empty, the dataset holds only: {', '.join(filled)}"
            )
        paths = self.shard_paths(split)
        contents: Iterator[bytes] = map(storage.read_bytes, paths)
        if storage.is_remote(self.directory):
            largest = max(shard["bytes"] for shard in shards)
            contents = storage.concurrently(storage.read_bytes, paths, bytes_each=largest)
        for shard, path, data in zip(shards, paths, contents, strict=True):
            _check_shard(path, data, shard)
            count = 0
            for record in parse_records(data, path):
                count += 1
                try:
                    yield decode_performance(record)
                except RecordError as error:
                    raise RecordError(f"{path}: record {count - 1}: {error}") from error
            if count != shard["records"]:
                raise RecordError(
                    f"{path}: holds {count} records, {MANIFEST_NAME} says {shard['records']}: preprocess anew"
                )

    def _split(self, split: str) -> dict[str, Any]:
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
        return self.document["splits"][split]


def _check_shard(path: str, data: bytes, shard: dict[str, Any]) -> None:
    """Compares a shard with what dataset.json says of it, so that none is read in another's place."""
    if len(data) != shard["bytes"]:
        found, expected = f"{len(data):,} bytes", f"{shard['bytes']:,}"
    else:
        digest = hashlib.sha256(data).hexdigest()
        if digest == shard["sha256"]:
            return
        found, expected = f"sha256 {digest[:12]}…", f"{shard['sha256'][:12]}…"
    raise RecordError(
        f"{path}: holds {found}, {MANIFEST_NAME} says {expected}: the shard was damaged or exchanged, "
        "run sostenuto preprocess anew"
    )
