"""Small datasets for the trainer's tests, written as beam_preprocess writes them but without Beam."""

import hashlib
import pathlib

import numpy as np

from sostenuto.data.manifest import SPLITS, Manifest, Shard, Split, Statistics
from sostenuto.data.performance import Performance, encode_performance
from sostenuto.data.tfrecord import write_records
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import Notes

COMPOSERS = ("Fanny Hensel", "Clara Schumann")
"""Of the performances of each split, in turn."""


def random_notes(length: int, seed: int) -> Notes:
    """Notes with some regularity to learn: scales in one of two rhythms, with chords."""
    random = np.random.default_rng(seed)
    steps = np.where(random.random(length) < 0.2, 0, random.choice([120_000, 250_000], length))
    steps = (steps + random.integers(0, 9_000, length)).astype(np.int64)
    pitch = 48 + (np.arange(length) * 2 + random.integers(0, 3, length) + seed) % 36
    onset = np.cumsum(steps)
    duration = random.integers(60_000, 900_000, length)
    return Notes.from_onsets(pitch, onset, onset + duration, random.integers(30, 110, length))


def write_dataset(directory: pathlib.Path, lengths: dict[str, list[int]], *, seed: int = 0) -> pathlib.Path:
    """Writes a finished dataset of random performances.

    Args:
        directory: the new dataset's directory.
        lengths: notes of each performance of each split; missing splits are empty.
        seed: of the notes.
    """
    directory.mkdir(parents=True)
    splits, statistics = {}, {}
    for number, split in enumerate(SPLITS):
        performances = [
            Performance(
                f"{split}/{index}.mid",
                f"{split}-{index}",
                split,
                COMPOSERS[index % len(COMPOSERS)],
                "",
                0,
                random_notes(length, seed + 100 * number + index),
            )
            for index, length in enumerate(lengths.get(split, []))
        ]
        notes = [performance.notes for performance in performances]
        shards = (_write_shard(directory / f"{split}-00000-of-00001.tfrecord", performances),) if performances else ()
        splits[split] = Split(
            len(notes), sum(map(len, notes)), sum(performance.seconds for performance in notes), shards
        )
        statistics[split] = Statistics(0, 0, {}, sum(map(Histograms.from_notes, notes), Histograms.zeros()))
    Manifest({"files": "tests"}, {"sustain": "ignore"}, splits, {}, statistics).save(directory)
    return directory


def _write_shard(path: pathlib.Path, performances: list[Performance]) -> Shard:
    with path.open("wb") as file:
        write_records(file, map(encode_performance, performances))
    data = path.read_bytes()
    return Shard(path.name, len(performances), len(data), hashlib.sha256(data).hexdigest())
