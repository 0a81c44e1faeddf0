"""Logarithmic bins of times, in NumPy."""

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
