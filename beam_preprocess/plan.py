"""The plan of a dataset: the files of each shard, and the totals that the finished dataset must match."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from beam_preprocess.config import Config
from beam_preprocess.corpus import Corpus, CorpusFile
from sostenuto import storage
from sostenuto.data.manifest import SPLITS

PLAN_NAME = "plan.jsonl"
PERFORMANCES_PER_SHARD = 100


@dataclasses.dataclass(frozen=True)
class DatasetPlan:
    """The contents of a dataset as far as they are known before any file is opened."""

    output: str
    shards: dict[str, int]  # number of files by shard name, in the order of splits and shard numbers
    source: dict[str, Any]  # for dataset.json, as are the options
    options: dict[str, Any]
    max_rejected_fraction: float
    overwrite: bool = False
    staging: str = ""  # a remote directory for unfinished files, which is removed with them; "" for the output


class ShardRange(NamedTuple):
    """A shard's name and its line in the plan file."""

    name: str
    start: int
    bytes: int


def make_plan(config: Config, corpus: Corpus, shards: dict[str, list[CorpusFile]]) -> DatasetPlan:
    """Returns the plan of a dataset with the shards of `assign_shards`."""
    paths = "\n".join(file.path for file in corpus.files)
    source = {
        "files": len(corpus.files),
        "paths_sha256": hashlib.sha256(paths.encode()).hexdigest(),
        **{name: getattr(corpus, name) for name in ("unlisted", "straddling_pieces", "metadata", "metadata_sha256")},
    }
    if corpus.other_formats:
        source["other_formats"] = corpus.other_formats
    names = (
        "split_fractions", "piece_from", "composer_from", "num_shards", "sustain", "licence", "max_rejected_fraction",
    )  # fmt: skip
    options = {name: getattr(config, name) for name in names}
    options["split_fractions"] = list(config.split_fractions)  # as JSON has it
    counts = {name: len(files) for name, files in shards.items()}
    return DatasetPlan(config.output, counts, source, options, config.max_rejected_fraction, config.overwrite)


def assign_shards(files: Iterable[CorpusFile], num_shards: int) -> dict[str, list[CorpusFile]]:
    """Returns the files of each shard by shard name, sorted by path: equal parts of a split's files by SHA-256."""
    shards: dict[str, list[CorpusFile]] = {}
    for split in SPLITS:
        members = [file for file in files if file.split == split]
        members.sort(key=lambda file: (hashlib.sha256(file.path.encode()).digest(), file.path))
        count = min(num_shards or -(-len(members) // PERFORMANCES_PER_SHARD), len(members))
        for index in range(count):
            part = members[index * len(members) // count : (index + 1) * len(members) // count]
            shards[f"{split}-{index:05d}-of-{count:05d}.tfrecord"] = sorted(part, key=lambda file: file.path)
    return shards


def write_plan(path: str, shards: dict[str, list[CorpusFile]]) -> list[ShardRange]:
    """Writes the plan file, one line per shard, and returns the position of each line."""
    # It keeps the list of files out of the pipeline's graph, whose size runners limit to some megabytes.
    ranges: list[ShardRange] = []
    start = 0
    with storage.new_file(path) as stream:
        for name, files in shards.items():
            line = json.dumps([dataclasses.astuple(file) for file in files]).encode() + b"\n"
            stream.write(line)
            ranges.append(ShardRange(name, start, len(line)))
            start += len(line)
    return ranges


def read_plan(path: str, shard: ShardRange) -> list[CorpusFile]:
    """Returns the files of one shard from a plan file."""
    return [CorpusFile(*fields) for fields in json.loads(storage.read_range(path, shard.start, shard.bytes))]
