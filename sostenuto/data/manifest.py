"""dataset.json: the contents of a finished dataset directory, and its reader."""

import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from sostenuto import storage
from sostenuto.data.json_record import FileName, from_json
from sostenuto.data.performance import SCHEMA_VERSION, Performance, decode_performance
from sostenuto.data.tfrecord import parse_records
from sostenuto.errors import RecordError, UserError
from sostenuto.json_text import parse_json
from sostenuto.music.histograms import Histograms
from sostenuto.storage.paths import StrPath
from sostenuto.text import counted

MANIFEST_NAME = "dataset.json"
REJECTED_NAME = "rejected.jsonl"
SPLITS = ("train", "validation", "test")

# A model of fewer training notes repeats them and scores badly on other music. The demo's chorales, a small corpus,
# have 65,000; a million gave good scores (docs/scores.md).
FEW_TRAIN_NOTES = 50_000

_REMEDY = "Run sostenuto preprocess again"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records: its name in the dataset, its number of records, its size, and its hex digest."""

    file: FileName
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """The size of a split, and its shards in order; `seconds` sums the durations of its performances."""

    performances: int
    notes: int
    seconds: float
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counts of a split: dropped notes, quantiles by field and probability, and histograms."""

    zero_length_dropped: int = 0
    unended_dropped: int = 0
    drums_dropped: int = 0
    quantiles: Mapping[str, Mapping[str, float | None]] = dataclasses.field(default_factory=dict)
    histograms: Histograms

    @property
    def left_out(self) -> list[tuple[int, str]]:
        """The numbers of dropped notes, each with a name."""
        return [
            (self.zero_length_dropped, "note of zero length"),
            (self.drums_dropped, "drum note"),
            (self.unended_dropped, "note without a note-off"),
        ]


@dataclasses.dataclass(frozen=True)
class _Known:
    """The entries of `source` and `options` that are used by name, with their types."""

    files: int = 0
    unlisted: int = 0
    straddling_pieces: Sequence[str] = ()
    other_formats: Mapping[str, int] = dataclasses.field(default_factory=dict)
    metadata: str | None = None
    sustain: Literal["ignore", "extend"] = "ignore"
    licence: str = ""


def _has_midi_files(directory: str) -> bool:
    """Returns whether a directory, or a folder in it, has MIDI files."""
    from sostenuto.music.midi import is_midi_name

    names = storage.list_names(directory)
    folders = [path for name in names if storage.is_directory(path := storage.join(directory, name))]
    return any(map(is_midi_name, itertools.chain(names, *map(storage.list_names, folders))))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of dataset.json, which is written last; docs/data-format.md explains it.

    Attributes:
        source: properties of the corpus.
        options: the flags that determine the dataset.
        splits: by name.
        rejected: the number of rejected files, by reason.
        statistics: by split.
        directory: the dataset's directory, local or in a bucket; "" until it is loaded.
        sha256: the hex digest of dataset.json, which identifies the dataset; "" until it is loaded.
    """

    source: Mapping[str, Any]
    options: Mapping[str, Any]
    splits: Mapping[str, Split]
    rejected: Mapping[str, int]
    statistics: Mapping[str, Statistics]
    directory: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        for name in ("splits", "statistics"):
            if missing := [split for split in SPLITS if split not in getattr(self, name)]:
                raise UserError(f"{name}.{missing[0]} is missing")

    @classmethod
    def load(cls, directory: StrPath) -> "Manifest":
        """Reads the manifest of a dataset directory.

        Raises:
            UserError: no such directory, no finished dataset in it, or one of another schema version.
        """
        directory = os.fspath(directory)
        if not storage.is_directory(directory):
            raise UserError(f"{directory}: no such directory, expected a dataset. Write one with sostenuto preprocess")
        path = storage.join(directory, MANIFEST_NAME)
        if not storage.exists(path):
            if _has_midi_files(directory):
                raise UserError(
                    f"{directory}: has MIDI files, expected a dataset. Run sostenuto preprocess --input={directory} "
                    "first, and pass its --output"
                )
            raise UserError(
                f"{directory}: has no {MANIFEST_NAME}, so it is unfinished or not a dataset. "
                "Run sostenuto preprocess to its end"
            )
        data = storage.read_bytes(path)
        document = parse_json(data, path, _REMEDY)
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(f"{path}: got schema version {version!r}, expected {SCHEMA_VERSION}. {_REMEDY}")
        for name in ("source", "options"):
            from_json(_Known, document.get(name), f"{path}: {name}", _REMEDY)
        manifest = from_json(cls, document, path, _REMEDY)
        return dataclasses.replace(manifest, directory=directory, sha256=hashlib.sha256(data).hexdigest())

    def save(self, directory: StrPath) -> None:
        """Writes dataset.json atomically: indented, with each list of numbers on one line."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "source": self.source,
            "options": self.options,
            "splits": {name: dataclasses.asdict(split) for name, split in self.splits.items()},
            "rejected": self.rejected,
            "statistics": {
                name: vars(statistics) | {"histograms": statistics.histograms.to_json()}
                for name, statistics in self.statistics.items()
            },
        }
        text = json.dumps(document, indent=1)
        # A list of numbers on one line. Only a list begins with a line break: a string has none.
        text = re.sub(r"\[\n[-\d.,\s]+\]", lambda numbers: f"[{' '.join(numbers[0][1:-1].split())}]", text) + "\n"
        storage.write_bytes_atomic(storage.join(directory, MANIFEST_NAME), text.encode())

    def left_out(self) -> list[tuple[int, str]]:
        """Returns the numbers of dropped notes of all splits, each with a name."""
        kinds = zip(*(statistics.left_out for statistics in self.statistics.values()), strict=True)
        return [(sum(count for count, _ in kind), kind[0][1]) for kind in kinds]

    def shard_paths(self, split: str) -> list[str]:
        """Returns the paths of a split's shards, in order; empty for an empty split."""
        return [storage.join(self.directory, shard.file) for shard in self._split(split).shards]

    def performances(self, split: str) -> int:
        """Returns the number of performances of a split."""
        return self._split(split).performances

    def notes(self, split: str) -> int:
        """Returns the number of notes of a split."""
        return self._split(split).notes

    def size_warning(self) -> str:
        """Returns a warning if the training split has too few notes to train on, else ""."""
        if (notes := self.notes("train")) >= FEW_TRAIN_NOTES:
            return ""
        return (
            f"the training split has {counted(notes, 'note')}, too few for a model that generalizes. Add MIDI files: "
            f"{FEW_TRAIN_NOTES:,} notes are the least, a million (a fifth of MAESTRO) give good results"
        )

    def histograms(self, split: str) -> Histograms:
        """Returns the histograms of a split."""
        self._split(split)
        return self.statistics[split].histograms

    def read_performances(self, split: str) -> Iterator[Performance]:
        """Yields the performances of a split in the order of its shards.

        Raises:
            UserError: the split is empty or unknown, or a shard cannot be read.
            RecordError: a shard is corrupt, or differs from the one that the manifest names.
        """
        shards = self._split(split).shards
        if not shards:
            filled = [name for name in SPLITS if self.performances(name)]
            raise UserError(f"{self.directory}: the {split} split is empty, expected one of: {', '.join(filled)}")
        paths = self.shard_paths(split)
        contents: Iterator[bytes] = map(storage.read_bytes, paths)
        if storage.is_remote(self.directory):
            contents = storage.concurrently(storage.read_bytes, paths, bytes_each=max(shard.bytes for shard in shards))
        for shard, path, data in zip(shards, paths, contents, strict=True):
            _require(len(data) == shard.bytes, path, counted(len(data), "byte"), f"{shard.bytes:,}")
            digest = hashlib.sha256(data).hexdigest()
            _require(digest == shard.sha256, path, f"sha256 {digest[:12]}…", f"{shard.sha256[:12]}…")
            count = 0
            for count, record in enumerate(parse_records(data, path), start=1):
                try:
                    yield decode_performance(record)
                except RecordError as error:
                    raise RecordError(f"{path}: record {count - 1}: {error}") from error
            _require(count == shard.records, path, counted(count, "record"), f"{shard.records}")

    def _split(self, name: str) -> Split:
        if name not in SPLITS:
            raise UserError(f"split: got {name!r}, expected one of {', '.join(SPLITS)}")
        return self.splits[name]


def _require(is_equal: bool, path: str, got: str, expected: str) -> None:
    """Raises RecordError for a shard that differs from its entry in dataset.json."""
    if not is_equal:
        raise RecordError(f"{path}: got {got}, expected {expected} as in {MANIFEST_NAME}. {_REMEDY}")
