"""Generates pieces in the style of several composers, and classifies them by simple statistics.

    python benchmarks/composers.py --workdir=RUN [--composers=6] [--pieces=32] [--num_notes=1024] [--seed=0]

The composers are those with the most performances in the train split of the run's dataset. Each piece starts from
silence. Its statistics are those of `trainer.evaluation.note_statistics`, in units of their standard deviations over
the train split's excerpts of as many notes. The nearest of the composers' centroids names its composer (Euclidean
distance). Printed are the statistics of each composer's real and generated music, and how many pieces get their own
composer's name:

- generated, by real: the centroids are those of the train split
- generated, by generated: the centroids are those of the other generated pieces
- validation, by real: performances of the validation split, for comparison
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import trainer  # noqa: F401  # First, so that TensorFlow loads without messages.
from sostenuto.data.manifest import Manifest
from sostenuto.music.notes import Notes
from sostenuto.text import markdown_table
from trainer.evaluation.note_statistics import STATISTICS, measure
from trainer.generation.sampler import NoteSampler
from trainer.generation.sampling_flags import DEFAULT_TEMPERATURE
from trainer.workdir.layout import load_dataset, load_run
from trainer.workdir.load_model import load_model

Floats = NDArray[np.float64]


def statistics(notes: Notes) -> Floats:
    """Returns the statistics of notes, `[statistics]`."""
    return np.array(list(measure(notes).values()))


def read_excerpts(manifest: Manifest, split: str, composers: Sequence[str], notes: int) -> tuple[Floats, NDArray]:
    """Returns the statistics of the composers' performances, cut into excerpts, and the index of their composers."""
    rows, owners = [], []
    for performance in manifest.read_performances(split):
        if performance.composer in composers:
            whole = performance.notes
            for first in range(0, max(len(whole) - notes, 0) + 1, notes):
                rows.append(statistics(whole[first : first + notes]))
                owners.append(composers.index(performance.composer))
    return np.array(rows), np.array(owners)


def centroids(rows: Floats, owners: NDArray, count: int) -> Floats:
    """Returns the mean of each owner's rows, `[count, statistics]`."""
    return np.stack([rows[owners == owner].mean(axis=0) for owner in range(count)])


def classify(rows: Floats, centres: Floats) -> NDArray[np.int64]:
    """Returns the index of the nearest centre of each row."""
    return np.argmin(np.linalg.norm(rows[:, np.newaxis] - centres, axis=2), axis=1)


def classify_by_others(rows: Floats, owners: NDArray, count: int) -> NDArray[np.int64]:
    """Returns the same, with centres of all rows but the classified one."""
    left_out = [np.arange(len(rows)) != index for index in range(len(rows))]
    return np.array([
        classify(rows[index : index + 1], centroids(rows[others], owners[others], count))[0]
        for index, others in enumerate(left_out)
    ])  # fmt: skip


def generate(workdir: str, composers: Sequence[str], pieces: int, num_notes: int, seed: int) -> list[Notes]:
    """Plays pieces from silence, those of the first composer first."""
    names = [name for name in composers for _ in range(pieces)]
    played = NoteSampler(load_model(workdir)).sample(
        [Notes.empty()] * len(names), num_notes=num_notes, temperature=DEFAULT_TEMPERATURE, seed=seed, end_odds=0.0,
        composers=names, quiet=False,
    )  # fmt: skip
    return played.notes


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--data", help="path of the run's dataset, if it was moved")
    for name, default in (("composers", 6), ("pieces", 32), ("num_notes", 1024), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    run = load_run(options.workdir)
    manifest = Manifest.load(options.data) if options.data else load_dataset(options.workdir, run)
    known = Counter(p.composer for p in manifest.read_performances("train") if p.composer in (run.composers or ()))
    composers = [name for name, _ in known.most_common(options.composers)]
    count = len(composers)
    real, real_owners = read_excerpts(manifest, "train", composers, options.num_notes)
    held_out, held_out_owners = read_excerpts(manifest, "validation", composers, options.num_notes)
    played = np.array([
        statistics(notes)
        for notes in generate(options.workdir, composers, options.pieces, options.num_notes, options.seed)
    ])  # fmt: skip
    owners = np.repeat(np.arange(count), options.pieces)
    rows = []
    for index, name in enumerate(composers):
        for kind, values in (("real", real[real_owners == index]), ("generated", played[owners == index])):
            rows.append([f"{name}, {kind}", *(f"{value:.2f}" for value in values.mean(axis=0))])
    print(markdown_table(["", *STATISTICS], rows))
    centre, scale = real.mean(axis=0), real.std(axis=0)
    real, held_out, played = ((values - centre) / scale for values in (real, held_out, played))
    by_real = centroids(real, real_owners, count)
    answers = [
        ("generated, by real", owners, classify(played, by_real)),
        ("generated, by generated", owners, classify_by_others(played, owners, count)),
        ("validation, by real", held_out_owners, classify(held_out, by_real)),
    ]
    table = []
    for name, own, named in answers:
        shares = [
            f"{np.mean(named[own == index] == index):.0%}" if (own == index).any() else "" for index in range(count)
        ]
        table.append([name, f"{np.mean(named == own):.1%}", *shares])
    print(f"\nPieces that get their own composer's name; chance is {1 / count:.1%}:\n")
    print(markdown_table(["", "all", *composers], table))


if __name__ == "__main__":
    main()
