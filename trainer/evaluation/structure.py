"""Structure indicators of Wu and Yang (2020, The Jazz Transformer on the front line), on chroma (NumPy only).

An indicator is the highest fitness of any segment whose length lies in a range. The fitness of Müller, Jiang and
Grosche (2013, A robust fitness measure for capturing repetitions in music recordings) is high if repetitions of the
segment, in any key and at half to double the tempo, cover much of the piece and resemble it. The parameters are those
of the authors' program MusDr, with three differences: chroma is that of the notes, not of a recording; there is one
frame a second, not two; of long music, only the first ten minutes count.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sostenuto.music.notes import Notes
from trainer.workdir.form_formats import MAX_SECONDS, SPANS, Span

_RANGES: Final[dict[Span, tuple[int, int]]] = dict(zip(SPANS, ((3, 8), (8, 15), (15, 128)), strict=True))
_SHIFTS: Final = 12  # semitones
_TEMPI: Final = np.geomspace(0.5, 2, 7)
_SMOOTHED: Final = 8  # frames along a diagonal
_KEPT: Final = 0.25  # share of the pairs of frames that count as similar
_PENALTY: Final = -2.0  # similarity of the others

# A path family is one number, so that the better one is the greater: its score in units of 2**-16, then the pairs of
# frames on its paths, less the frames of the piece that it leaves out. No sum is beyond the exact integers of float64.
_UNITS: Final = 2.0**16
_SCORE: Final = 2.0**22
_PAIR: Final = 2.0**11


def chroma(notes: Notes) -> NDArray[np.float64]:
    """Computes how long each pitch class sounds in the two seconds around each second, `[seconds, 12]`."""
    frames = min(max(int(np.ceil(notes.seconds)), 1), MAX_SECONDS)
    edges = np.arange(-0.5, frames + 1.5)
    onset, duration = notes.onset_us / 1e6, notes.duration_us / 1e6
    sounded = np.clip(edges[:, None] - onset, 0, duration)
    sounded = sounded @ (notes.pitch[:, None] % 12 == np.arange(12))
    return sounded[2:] - sounded[:-2]


def self_similarity(features: NDArray[np.float64]) -> NDArray[np.float32]:
    """Computes how similar the music from each frame on, or up to it, is to that at each other one, 0 to 1.

    `[frames, frames]`: the cosine of their chroma, averaged along diagonals of seven slopes, the highest over these and
    over all transpositions (Müller and Kurth, 2006, Enhancing similarity matrices for music audio analysis).
    """
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.where(length > 0, features / np.maximum(length, 1e-9), _SHIFTS**-0.5).astype(np.float32)
    shifted = np.stack([np.roll(unit, shift, axis=1) for shift in range(_SHIFTS)])
    frames, margin = len(unit), 2 * _SMOOTHED
    padded = np.pad(shifted @ unit.T, [(0, 0), (margin, margin), (margin, margin)])
    best = np.zeros((frames, frames), np.float32)
    for tempo in _TEMPI:
        for direction in (1, -1):
            total = np.zeros((_SHIFTS, frames, frames), np.float32)
            for step in range(_SMOOTHED):
                row = margin + direction * step
                column = margin + direction * round(step * tempo)
                total += padded[:, row : row + frames, column : column + frames]
            np.maximum(best, total.max(axis=0), out=best)
    best /= _SMOOTHED
    return best


def threshold(similarity: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scales the highest quarter of the similarities to 0 to 1, and sets the others to a penalty; the diagonal is 1."""
    values = similarity.astype(np.float64)
    below = min(round((1 - _KEPT) * values.size), values.size - 1)
    least = np.partition(values, below, axis=None)[below]
    most = values.max()
    scaled = (values - least) / (most - least) if most > least else np.ones_like(values)
    scaled = np.where(values >= least, scaled, _PENALTY)
    np.fill_diagonal(scaled, 1)
    return scaled


def fitness(similarity: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Computes the fitness of each segment of `length` frames, by its first frame, `[frames - length + 1]`.

    A path leads from the segment's first frame to its last one, through successive or nearly successive frames of the
    piece: steps are (1, 1), (1, 2) and (2, 1). A path family is a set of paths that share no frame of the piece. The
    family of the highest score is found for all segments at once, one frame of the piece after the other. The program
    libfmp, after which MusDr works, also lets a path begin at the segment's second frame.
    """
    frames, segments = len(similarity), len(similarity) - length + 1
    pairs = np.round(similarity * _UNITS) * _SCORE + _PAIR
    windows = np.lib.stride_tricks.sliding_window_view(pairs, segments, axis=1)
    # Best families whose last path ends at the current frame, the one before and the one before that.
    current, before, earlier = (np.full((length, segments), -np.inf) for _ in range(3))
    families = np.zeros(segments)  # best ones of the frames before the current one, all their paths complete
    for window in windows:
        np.maximum(before[:-1], earlier[:-1], out=current[1:])
        np.maximum(current[2:], before[:-2], out=current[2:])
        current[0] = families
        current += window
        families = np.maximum(families - 1, current[-1])
        current, before, earlier = earlier, current, before
    scores, rest = np.divmod(families, _SCORE)
    count = np.ceil(rest / _PAIR)
    covered = frames - (count * _PAIR - rest)
    # Each segment is on its own path, which brings `length` of the score and of the frames.
    score, coverage = (scores / _UNITS - length) / count, (covered - length) / frames
    return 2 * score * coverage / np.maximum(score + coverage, 1e-9)


def structure_indicators(notes: Notes) -> dict[Span, float]:
    """Computes the highest fitness, 0 to 1, of the segments of each range of lengths; 0 if there are none."""
    similarity = threshold(self_similarity(chroma(notes)))
    lengths = range(_RANGES["short"][0], min(_RANGES["long"][1], len(similarity)) + 1)
    highest = {length: float(fitness(similarity, length).max()) for length in lengths}
    return {
        span: max((highest[length] for length in highest if low <= length <= high), default=0.0)
        for span, (low, high) in _RANGES.items()
    }
