"""Logarithmic bins of times, in NumPy: the ticks of 10 ms in a bin share one probability."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sostenuto.music.notes import MAX_TICK

_SINGLE_TICK_BINS: Final = 20  # Each tick below this has its own bin.
_BIN_GROWTH: Final = 1.06  # ratio of the starts of neighbouring bins above


def _bin_starts() -> NDArray[np.int32]:
    starts = list(range(_SINGLE_TICK_BINS))
    while starts[-1] < MAX_TICK:
        starts.append(min(max(starts[-1] + 1, round(starts[-1] * _BIN_GROWTH)), MAX_TICK))
    return np.array(starts, np.int32)


BIN_STARTS: Final = _bin_starts()  # The first tick of each bin; the last bin is the tick of 10 s and more.
BINS: Final = len(BIN_STARTS)
BIN_WIDTHS: Final = np.diff([*BIN_STARTS, MAX_TICK + 1]).astype(np.int32)


def spread_nats(counts: NDArray[np.integer]) -> float:
    """Returns the nats per time that bins lose if the ticks within a bin are not equally frequent.

    It is the divergence of the ticks from a uniform distribution in each bin, from the occurrences of each tick
    `[MAX_TICK + 1]`. It is about zero for performed music, and large for a score in strict time; training cannot
    reduce it.
    """
    total = counts.sum()
    if not total:
        return 0.0
    occurring = counts > 0
    uniform = np.repeat(np.add.reduceat(counts, BIN_STARTS) / BIN_WIDTHS, BIN_WIDTHS)
    return float(np.sum(counts[occurring] / total * np.log(counts[occurring] / uniform[occurring])))
