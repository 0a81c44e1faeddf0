"""Compares two runs on the same music, performance by performance.

    python benchmarks/compare_runs.py --workdir=RUN --beside=RUN [--data=DATASET] [--split=validation]

Both runs score the notes of a split of --workdir's dataset, all but the first of each performance. Printed are the
nats per note of both and the gain of --workdir: what it needs less, with its 95% interval over the paired differences
of performances. The rows are all performances, those of the composers with --min_performances or more in the train
split, each of these composers, and all performances by place: their first notes, and those after them.
"""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import trainer  # noqa: F401  # First, so that TensorFlow loads without messages.
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from sostenuto.text import markdown_table
from trainer.data.note_table import NoteTable, load_table
from trainer.distribution.devices import exact_float32
from trainer.evaluation.scorer import Scorer
from trainer.evaluation.statistics import (
    NoteScores,
    compute_metrics,
    confidence_intervals,
    select_performances,
    subtract,
    sum_scores,
)
from trainer.workdir.layout import load_dataset, load_run
from trainer.workdir.load_model import load_model

PLACES = (0, 200, 1_000, 3_000)  # first notes of the rows by place


def score(workdir: str, manifest: Manifest, table: NoteTable) -> NoteScores:
    """Scores the notes of a split of a dataset with a run's best weights."""
    model = load_model(workdir).model
    scorer, residuals = Scorer(model), None
    if model.config.model == "regression":
        residuals = scorer.fit_residuals(load_table(manifest, "validation"))
    return scorer.score(table, residuals, activity=f"scoring with {workdir}")


def check_comparable(workdir: str, beside: str) -> None:
    """Warns on stderr of runs of different datasets; raises UserError if their notes have different durations."""
    run, other = load_run(workdir), load_run(beside)
    if other.sustain != run.sustain:
        raise UserError(
            f"--beside={beside}: trained on --sustain={other.sustain}, expected {run.sustain} as in {workdir}. "
            "Compare runs of the same notes"
        )
    if other.dataset != run.dataset:
        print(f"{beside}: trained on another dataset, which may hold the scored pieces", file=sys.stderr)


def compare(
    scores: NoteScores, beside: NoteScores, lengths: NDArray, composers: Sequence[str], frequent: Sequence[str]
) -> Iterator[list[str]]:
    """Yields the rows of the table.

    Args:
        scores: nats of the notes, `[notes]` each.
        beside: those of the other run.
        lengths: notes of each performance, int64 `[performances]`.
        composers: the composer of each performance.
        frequent: the composers with rows of their own.
    """
    yield ["all", *_compare_part(scores, beside, lengths, np.full(len(lengths), True))]
    pooled = [(f"the {len(frequent)} below", list(frequent))] if len(frequent) > 1 else []
    for title, group in [*pooled, *((name, [name]) for name in frequent)]:
        is_part = np.isin(composers, group)
        yield [title, *_compare_part(scores, beside, lengths, is_part)]


def compare_places(scores: NoteScores, beside: NoteScores, lengths: NDArray) -> Iterator[list[str]]:
    """Yields the rows by place in the performance; arguments as those of `compare`."""
    place = np.concatenate([np.arange(1, length) for length in lengths])
    for first, end in itertools.pairwise((*PLACES, sys.maxsize)):
        is_here = (place >= first) & (place < end)
        own, other = (NoteScores(*(values[is_here] for values in whole)) for whole in (scores, beside))
        # As if each performance had only these notes, after one that is not scored.
        here = 1 + np.maximum(np.minimum(lengths, end) - max(first, 1), 0)
        title = f"notes from {first + 1:,}" + (f" to {end:,}" if end < sys.maxsize else "")
        yield [title, *_compare_part(own, other, here, here > 1)]


def _compare_part(scores: NoteScores, beside: NoteScores, lengths: NDArray, is_part: NDArray) -> list[str]:
    """Returns the cells of some performances: their number, both scores, the gain and its interval."""
    own, other = (select_performances(whole, lengths, is_part) for whole in (scores, beside))
    if not len(own.pitch):
        return [str(is_part.sum()), *[""] * 4]
    difference = subtract(other, own)
    totals = [compute_metrics(sum_scores(part)).nats_per_note["total"] for part in (own, other, difference)]
    interval = confidence_intervals(difference, lengths[is_part])
    low_high = "{:+.4f} to {:+.4f}".format(*interval["total"]) if interval else ""
    return [str(is_part.sum()), f"{totals[0]:.3f}", f"{totals[1]:.3f}", f"{totals[2]:+.4f}", low_high]


def main() -> None:
    """Reads the flags, scores with both runs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--beside", required=True, help="workdir of the other run")
    parser.add_argument("--data", help="path of --workdir's dataset, if it was moved, or of another dataset")
    parser.add_argument("--split", default="validation", choices=("train", "validation", "test"))
    parser.add_argument("--min_performances", type=int, default=20, help="of a composer in the train split")
    options = parser.parse_args()
    run = load_run(options.workdir)
    manifest = Manifest.load(options.data) if options.data else load_dataset(options.workdir, run)
    check_comparable(options.workdir, options.beside)
    counts = Counter(performance.composer for performance in manifest.read_performances("train"))
    frequent = [name for name, count in counts.most_common() if name and count >= options.min_performances]
    table = load_table(manifest, options.split)
    with exact_float32():
        scores, beside = (score(workdir, manifest, table) for workdir in (options.workdir, options.beside))
    rows = [
        *compare(scores, beside, table.lengths, table.composers or [""] * len(table.lengths), frequent),
        *compare_places(scores, beside, table.lengths),
    ]
    head = ["composer", "performances", options.workdir, options.beside, "gain", "95% interval"]
    print(markdown_table(head, rows))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
