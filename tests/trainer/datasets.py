"""Small datasets for the trainer's tests, written as beam_preprocess writes them but without Beam."""

import hashlib
import json
import pathlib

import numpy as np

from sostenuto.data.manifest import MANIFEST_NAME, SPLITS
from sostenuto.data.performance import SCHEMA_VERSION, Performance, encode_performance
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
        directory: where; it is created.
        lengths: notes of each performance of each split; splits left out are empty.
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
        shards = []
        if performances:
            path = directory / f"{split}-00000-of-00001.tfrecord"
            with path.open("wb") as file:
                write_records(file, map(encode_performance, performances))
            data = path.read_bytes()
            shards = [
                {
                    "file": path.name,
                    "records": len(performances),
                    "bytes": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                }
            ]
        histograms = sum((Histograms.from_notes(one.notes) for one in performances), Histograms.zeros())
        splits[split] = {
            "performances": len(performances),
            "notes": sum(len(one.notes) for one in performances),
            "seconds": sum(one.notes.seconds for one in performances),
            "shards": shards,
        }
        statistics[split] = {"histograms": histograms.to_json()}
    document = {
        "schema_version": SCHEMA_VERSION,
        "source": "tests",
        "options": {"sustain": "ignore"},
        "splits": splits,
        "statistics": statistics,
        "rejected": {},
    }
    (directory / MANIFEST_NAME).write_text(json.dumps(document))
    return directory
