"""Distributions of notes and their distance (NumPy only)."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sostenuto.music.notes import MAX_TICK, PITCHES, Notes, ticks
from trainer.workdir.evaluation_formats import DistributionDistance

WINDOW_US: Final = 2_000_000
"""Length of the windows of notes per second."""

_DIVISIONS: Final = 100  # of the pieces into halves
_SMOOTHING: Final = 0.001  # share of each distribution that is spread over all bins before its divergence is taken


def _time_edges() -> NDArray[np.int64]:
    """Returns bins of one tick up to 80 ms, then four bins an octave: none is narrower than a tick."""
    octaves = [np.arange(first, 2 * first, first // 4) for first in 8 * 2 ** np.arange(7)]
    return np.concatenate([np.arange(8), *octaves, [MAX_TICK + 24]])


class Distribution(NamedTuple):
    """Title with the unit, and edges of the bins, `[bins + 1]`; the outer bins have the values beyond them too."""

    title: str
    edges: NDArray[np.int64]


DISTRIBUTIONS: Final[dict[str, Distribution]] = {
    "pitch": Distribution("pitch", np.arange(PITCHES + 1)),
    "pitch_class": Distribution("pitch class", np.arange(13)),
    "interval": Distribution("interval to the previous note, semitones", np.arange(1 - PITCHES, PITCHES + 1)),
    "step": Distribution("step, seconds", _time_edges()),
    "duration": Distribution("duration, seconds", _time_edges()),
    "velocity": Distribution("velocity", np.arange(0, 129, 4)),
    "polyphony": Distribution("polyphony, notes sounding at an onset", np.arange(1, 22)),
    "notes_per_second": Distribution(f"notes per second, over {WINDOW_US / 1e6:g} s", np.arange(0, 41)),
}
"""The distributions that are compared; values and edges of step and duration are ticks of 10 ms."""

Counts = Mapping[str, NDArray[np.int64]]
"""Counts of the bins of each of `DISTRIBUTIONS`."""


def count_bins(notes: Notes, counted: int | NDArray[np.bool_] = 0) -> Counts:
    """Counts the bins of `DISTRIBUTIONS` in some notes, at least two; some bins depend on the other notes.

    `counted` is the position of the first one, or for each note whether it counts.
    """
    chosen = np.arange(len(notes)) >= counted if isinstance(counted, int) else counted
    successors = chosen[1:]  # The first note of a performance has neither an interval nor a step.
    pitch = notes.pitch.astype(np.int64)
    values = {
        "pitch": pitch[chosen],
        "pitch_class": pitch[chosen] % 12,
        "interval": np.diff(pitch)[successors],
        "step": ticks(notes.step_us[1:][successors]),
        "duration": ticks(notes.duration_us[chosen]),
        "velocity": notes.velocity[chosen],
        "polyphony": polyphony(notes)[chosen],
        "notes_per_second": notes_per_second(notes.onset_us[chosen]),
    }
    return {name: bin_values(values[name], distribution.edges) for name, distribution in DISTRIBUTIONS.items()}


def sum_counts(parts: Iterable[Counts]) -> Counts:
    """Adds up the counts of one or more performances."""
    return functools.reduce(lambda total, part: {name: total[name] + part[name] for name in DISTRIBUTIONS}, parts)


def bin_values(values: NDArray, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts the values of each bin, `[bins]`; the outer bins have the values beyond them too."""
    bins = len(edges) - 1
    index = np.searchsorted(edges, values, side="right") - 1
    return np.bincount(np.clip(index, 0, bins - 1), minlength=bins)


def polyphony(notes: Notes) -> NDArray[np.int64]:
    """Counts the notes that sound at each note's onset, the note itself included: `[notes]`."""
    onset_us = notes.onset_us
    started = np.searchsorted(onset_us, onset_us, side="right")
    ended = np.searchsorted(np.sort(notes.offset_us), onset_us, side="right")
    return started - ended


def notes_per_second(onset_us: NDArray[np.int64]) -> NDArray[np.float64]:
    """Computes onsets per second in successive windows of `WINDOW_US` from the first onset, `[windows]`.

    The incomplete last window is left out, unless it is the only one.
    """
    window = (onset_us - onset_us[0]) // WINDOW_US
    return np.bincount(window)[: max(int(window[-1]), 1)] / (WINDOW_US / 1e6)


def entropy(counts: NDArray[np.int64]) -> float:
    """Computes the entropy of a histogram in bits."""
    shares = to_shares(counts[counts > 0])
    return float(-np.sum(shares * np.log2(shares))) + 0.0


def to_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns counts divided by their sum."""
    return counts / counts.sum()


def overlap(counts: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    """Computes the overlap area of two histograms: the sum of the lesser share of each bin, 0 to 1.

    This is the overlapping coefficient of Inman and Bradley (1989). Yang and Lerch (2020, On the evaluation of
    generative models in music) smooth with a kernel first; without a kernel there is no bandwidth to choose.
    """
    return float(np.minimum(to_shares(counts), to_shares(others)).sum())


def divergence(counts: NDArray[np.int64], held_out: NDArray[np.int64]) -> float:
    """Computes the Kullback-Leibler divergence of a histogram from that of held-out music, in nats.

    A thousandth of both is first spread over all bins, so a bin that held-out music lacks has a finite cost.
    """
    share, held_out_share = ((1 - _SMOOTHING) * to_shares(bins) + _SMOOTHING / len(bins) for bins in (counts, held_out))
    return float(np.sum(share * np.log(share / held_out_share)))


def measure_distances(
    continuations: Sequence[Counts], pieces: Sequence[str], held_out: Sequence[Counts], held_out_pieces: Sequence[str]
) -> dict[str, DistributionDistance]:
    """Measures the distance of continuations' distributions from those of held-out music of other pieces.

    The pieces, at least two, are divided at random into two halves, and the continuations of each half are compared
    with the performances of the other half. The result is the mean over 100 fixed divisions: a single one depends on
    which piece falls into which half.
    """
    names, held_out_piece = np.unique(held_out_pieces, return_inverse=True)
    piece = np.searchsorted(names, pieces)
    random = np.random.default_rng(0)
    halves = [random.permutation(len(names)) < len(names) // 2 for _ in range(_DIVISIONS)]
    distances = {}
    for name in DISTRIBUTIONS:
        generated, real = (np.stack([counts[name] for counts in music]) for music in (continuations, held_out))
        pairs = [
            (generated[half[piece]].sum(axis=0), real[~half[held_out_piece]].sum(axis=0))
            for division in halves
            for half in (division, ~division)
            if half[piece].any()
        ]
        distances[name] = DistributionDistance(
            float(np.mean([overlap(*pair) for pair in pairs])), float(np.mean([divergence(*pair) for pair in pairs]))
        )
    return distances
