"""Lengths of generated pieces, compared with those of performances (NumPy only)."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from trainer.evaluation.distributions import bin_values, overlap
from trainer.workdir.evaluation_formats import LengthComparison
from trainer.workdir.formats import Continuation

MOST_NOTES: Final = 30_000
"""The most notes of a whole piece; the longest training performance of MAESTRO v3 has 25,076."""

EDGES: Final = np.round(2.0 ** np.arange(4, 15.5, 0.5)).astype(np.int64)
"""Half octaves of notes; the outer bins have the lengths beyond them too."""


def compare_lengths(generated: Sequence[int], real: Sequence[int], *, ended: int, end_odds: float) -> LengthComparison:
    """Compares the notes of generated pieces with those of performances; `ended` pieces ended before the limit."""
    lengths: dict[Continuation, Sequence[int]] = {"generated": generated, "real": real}
    counts = {kind: bin_values(np.array(notes), EDGES) for kind, notes in lengths.items()}
    return LengthComparison(
        pieces=len(generated),
        ended=ended,
        end_odds=end_odds,
        overlap=overlap(counts["generated"], counts["real"]),
        mean={kind: float(np.mean(notes)) for kind, notes in lengths.items()},
        edges=EDGES.tolist(),
        counts={kind: values.tolist() for kind, values in counts.items()},
    )
