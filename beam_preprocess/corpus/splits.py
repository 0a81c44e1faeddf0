"""Assignment of pieces to splits."""

import hashlib
from collections.abc import Iterable, Sequence

from sostenuto.data.manifest import SPLITS


def assign_splits(pieces: Iterable[str], fractions: Sequence[float]) -> dict[str, str]:
    """Returns a split for each piece: pieces ordered by SHA-256 and cut at the cumulative fractions.

    A split with a fraction above 0 gets at least one piece if there are enough, so that a small corpus fills all
    splits.
    """
    ordered = sorted(set(pieces), key=lambda piece: (hashlib.sha256(piece.encode()).digest(), piece))
    total = sum(fractions)
    bounds = [round(len(ordered) * sum(fractions[: index + 1]) / total) for index in range(len(SPLITS))]
    counts = [high - low for low, high in zip([0, *bounds], bounds, strict=False)]
    for index, fraction in enumerate(fractions):
        largest = counts.index(max(counts))
        if fraction > 0 and counts[index] == 0 and counts[largest] > 1:
            counts[index], counts[largest] = 1, counts[largest] - 1
    names = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(ordered, names, strict=True))
