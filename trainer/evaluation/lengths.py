"""Lengths of generated pieces, compared with those of performances (NumPy only)."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.distributions import overlap
from trainer.workdir.evaluation_formats import LengthComparison
from trainer.workdir.formats import Continuation

MAX_NOTES: Final = 30_000
"""The most notes of a whole piece; the longest training performance of MAESTRO v3 has 25,076."""

EDGES: Final = np.round(2.0 ** np.arange(4, 15.5, 0.5)).astype(np.int64)
"""Half octaves of notes; the outer bins have the lengths beyond them too."""


def compare_lengths(generated: Sequence[int], real: Sequence[int], *, ended: int) -> LengthComparison:
    """Compares the notes of generated pieces, of which `ended` came to an end, with those of performances."""
    counts: dict[Continuation, NDArray[np.int64]] = {"generated": _count(generated), "real": _count(real)}
    return LengthComparison(
        pieces=len(generated),
        ended=ended,
        overlap=overlap(counts["generated"], counts["real"]),
        mean={"generated": float(np.mean(generated)), "real": float(np.mean(real))},
        edges=EDGES.tolist(),
        counts={kind: values.tolist() for kind, values in counts.items()},
    )


def _count(lengths: Sequence[int]) -> NDArray[np.int64]:
    index = np.searchsorted(EDGES, lengths, side="right") - 1
    return np.bincount(np.clip(index, 0, len(EDGES) - 2), minlength=len(EDGES) - 1)
