"""What generated music is like beside real music, in figures: pure NumPy over notes.

Continuations that a model plays after primers are compared with real music of other pieces, and so are the
continuations that the performers played: how near real music comes to other real music is what a model can reach.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sostenuto.errors import UserError
from sostenuto.music.notes import MAX_TICK, PITCHES, Notes, ticks

PRIMER_NOTES: Final = 128
CONTINUATION_NOTES: Final = 512
JUDGED_NOTES: Final = PRIMER_NOTES + CONTINUATION_NOTES
"""Notes that a performance needs for a primer and a continuation."""
MAX_DEFAULT_PRIMERS: Final = 64

WINDOW_US: Final = 2_000_000
"""Notes per second are counted in windows of this length."""

_DIVISIONS: Final = 100  # of the pieces into halves, over which a comparison is averaged
_NGRAM: Final = 8
_EVERYWHERE: Final = 0.001  # of each distribution is spread over all bins before its divergence is taken
# Ticks at which a step becomes another one for a copied run: below 40 ms, 80, 160, 320, 640, 1280 ms, or longer.
_STEP_CLASSES: Final = np.array([4, 8, 16, 32, 64, 128])
_INTERVALS: Final = 2 * PITCHES - 1
_MOVES: Final = _INTERVALS * (len(_STEP_CLASSES) + 1)


def _time_edges() -> NDArray[np.int64]:
    """Ticks one by one up to 80 ms, then four bins an octave, so that no bin is empty for want of ticks."""
    octaves = [np.arange(first, 2 * first, first // 4) for first in 8 * 2 ** np.arange(7)]
    return np.concatenate([np.arange(8), *octaves, [MAX_TICK + 24]])


class Distribution(NamedTuple):
    """Of what a distribution is, and its bins.

    Attributes:
        title: for a reader, with its unit.
        edges: `[bins + 1]`; bin b holds the values from `edges[b]` to below `edges[b + 1]`. What is beyond the ends
            belongs to the bin at that end.
    """

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

OF_EACH: Final = ("pitch_class_entropy", "longest_loop", "repeated_8grams", "copied_run")
"""The figures that each continuation has for itself."""

Counts = Mapping[str, NDArray[np.int64]]
"""For each of `DISTRIBUTIONS`, how often each bin occurs."""


def long_enough(lengths: Sequence[int], pieces: Sequence[str]) -> list[int]:
    """The performances of enough notes for a primer and a continuation, in the order in which they are continued.

    One performance of each piece by the order of the pieces' names, then another one of each, and so on.

    Args:
        lengths: the notes of each performance.
        pieces: of each performance.

    Returns:
        Indices of performances.

    Raises:
        UserError: fewer than two pieces have such a performance.
    """
    needed = JUDGED_NOTES
    ranked: list[tuple[int, str, int]] = []
    seen: Counter[str] = Counter()
    for index, (length, piece) in enumerate(zip(lengths, pieces, strict=True)):
        if length >= needed:
            ranked.append((seen[piece], piece, index))
            seen[piece] += 1
    if len(seen) < 2:
        raise UserError(
            f"{len(seen)} pieces of the split have a performance of {needed} notes, expected at least 2, one to "
            "continue and one to compare with: use another split or a larger dataset"
        )
    return [index for _, _, index in sorted(ranked)]


class Music(NamedTuple):
    """Some performances, or continuations.

    Attributes:
        notes: of each.
        pieces: of each.
    """

    notes: Sequence[Notes]
    pieces: Sequence[str]


class GenerationMetrics(NamedTuple):
    """How generated music and real music compare with real music of other pieces.

    Attributes:
        figures: those of generated-SPLIT.json; docs/workdir.md explains them.
        counts: of "held_out", "generated" and "real", all together, what the distributions are made of.
    """

    figures: dict[str, Any]
    counts: dict[str, Counts]


def judge(generated: Music, real: Music, held_out: Music, train: Sequence[Notes], *, first: int) -> GenerationMetrics:
    """Compares what a model played, and what performers played, with real music of other pieces.

    Args:
        generated: each primer and what the model played after it.
        real: the same primers and what their performers played after them, as many notes.
        held_out: performances, at least those of `real` from beginning to end, and two pieces.
        train: the performances that the model was trained on.
        first: how many notes of each of `generated` and `real` are the primer; they only sound into the figures.
    """
    music = {"generated": generated, "real": real}
    reference = [histograms(notes) for notes in held_out.notes]
    counts = {name: [histograms(notes, first) for notes in group.notes] for name, group in music.items()}
    of_each = {name: _of_each([notes[first:] for notes in group.notes], train) for name, group in music.items()}
    compared = {name: compare(counts[name], group.pieces, reference, held_out.pieces) for name, group in music.items()}
    return GenerationMetrics(
        {
            "distributions": {
                figure: {name: compared[name][figure]._asdict() for name in music} for figure in DISTRIBUTIONS
            },
            "mean_overlap": {
                name: float(np.mean([nearness.overlap for nearness in compared[name].values()])) for name in music
            },
            **{
                figure: {
                    name: {"mean": float(np.mean(of_each[name][figure])), "max": of_each[name][figure].max().item()}
                    for name in music
                }
                for figure in OF_EACH
            },
        },
        {"held_out": total(reference), **{name: total(parts) for name, parts in counts.items()}},
    )


class DistributionDistance(NamedTuple):
    """How near two distributions are: `overlap`, 0 to 1, and `divergence`, in nats."""

    overlap: float
    kl: float


def compare(
    continuations: Sequence[Counts], pieces: Sequence[str], held_out: Sequence[Counts], held_out_pieces: Sequence[str]
) -> dict[str, DistributionDistance]:
    """How near the distributions of continuations come to those of held-out music of other pieces.

    The pieces are divided at random into two halves, and the continuations of one half are compared with the
    performances of the other; this many times, always the same, and the mean is taken. A single division would say more
    of which piece fell where.

    Args:
        continuations: the counts of each.
        pieces: of each continuation.
        held_out: the counts of each performance.
        held_out_pieces: of each performance; at least two, and all of `pieces`.

    Returns:
        For each of `DISTRIBUTIONS`.
    """
    names, held_out_piece = np.unique(held_out_pieces, return_inverse=True)
    piece = np.searchsorted(names, pieces)
    random = np.random.default_rng(0)
    halves = [random.permutation(len(names)) < len(names) // 2 for _ in range(_DIVISIONS)]
    result = {}
    for figure in DISTRIBUTIONS:
        played, real = (np.stack([counts[figure] for counts in music]) for music in (continuations, held_out))
        pairs = [
            (played[half[piece]].sum(axis=0), real[~half[held_out_piece]].sum(axis=0))
            for division in halves
            for half in (division, ~division)
            if half[piece].any()
        ]
        result[figure] = DistributionDistance(
            float(np.mean([overlap(*pair) for pair in pairs])), float(np.mean([divergence(*pair) for pair in pairs]))
        )
    return result


def _of_each(continuations: Sequence[Notes], train: Sequence[Notes]) -> dict[str, NDArray]:
    """The figures that each continuation has for itself: `[continuations]` each."""
    return {
        "pitch_class_entropy": np.array([pitch_class_entropy(notes) for notes in continuations]),
        "longest_loop": np.array([longest_loop(notes) for notes in continuations]),
        "repeated_8grams": np.array([repeated_8grams(notes) for notes in continuations]),
        "copied_run": copied_runs(continuations, train),
    }


def histograms(notes: Notes, first: int = 0) -> Counts:
    """Counts the bins of `DISTRIBUTIONS` in `notes[first:]`.

    Args:
        notes: at least two.
        first: the notes before it are not counted; they may sound on, and have an interval and a step to the first
            that is.
    """
    successor = max(first, 1)  # The first note of a performance has neither an interval nor a step.
    pitch = notes.pitch.astype(np.int64)
    values = {
        "pitch": pitch[first:],
        "pitch_class": pitch[first:] % 12,
        "interval": np.diff(pitch)[successor - 1 :],
        "step": ticks(notes.step_us[successor:]),
        "duration": ticks(notes.duration_us[first:]),
        "velocity": notes.velocity[first:],
        "polyphony": polyphony(notes)[first:],
        "notes_per_second": notes_per_second(notes.onset_us[first:]),
    }
    return {figure: _binned(values[figure], distribution.edges) for figure, distribution in DISTRIBUTIONS.items()}


def total(parts: Iterable[Counts]) -> Counts:
    """The counts of several pieces of music together."""
    sums = {figure: np.zeros(len(distribution.edges) - 1, np.int64) for figure, distribution in DISTRIBUTIONS.items()}
    for part in parts:
        for figure, values in sums.items():
            values += part[figure]
    return sums


def _binned(values: NDArray, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    bins = len(edges) - 1
    place = np.searchsorted(edges, values, side="right") - 1
    return np.bincount(np.clip(place, 0, bins - 1), minlength=bins)


def polyphony(notes: Notes) -> NDArray[np.int64]:
    """How many notes sound at each note's onset, itself and those struck together with it included: `[notes]`."""
    onset_us = notes.onset_us
    begun = np.searchsorted(onset_us, onset_us, side="right")
    ended = np.searchsorted(np.sort(notes.offset_us), onset_us, side="right")
    return begun - ended


def notes_per_second(onset_us: NDArray[np.int64]) -> NDArray[np.float64]:
    """Onsets a second in successive windows of `WINDOW_US` from the first onset, the incomplete last one left out.

    Where the music is shorter than a window, it is one.

    Args:
        onset_us: `[notes]`, microseconds, ascending.

    Returns:
        `[windows]`.
    """
    window = (onset_us - onset_us[0]) // WINDOW_US
    return np.bincount(window)[: max(int(window[-1]), 1)] / (WINDOW_US / 1e6)


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts / counts.sum()


def overlap(counts: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    """The overlap area of two histograms on the same bins: the sum of the lesser share of each bin, 0 to 1.

    The overlapping coefficient of Inman and Bradley (1989). Yang and Lerch (2020, On the evaluation of generative
    models in music) take the overlap of densities that a kernel smoothed; without one there is no bandwidth to choose.

    Args:
        counts: `[bins]`, at least one above 0.
        others: likewise, `[bins]`.
    """
    return float(np.minimum(_shares(counts), _shares(others)).sum())


def divergence(counts: NDArray[np.int64], held_out: NDArray[np.int64]) -> float:
    """The Kullback-Leibler divergence of a histogram from that of held-out music, in nats.

    What it costs, a value, to take held-out music's distribution for this one's. A thousandth of both is first spread
    evenly over all bins, so that a bin which held-out music lacks costs something finite.

    Args:
        counts: `[bins]`, at least one above 0.
        held_out: likewise, `[bins]`.
    """
    share, held_out_share = ((1 - _EVERYWHERE) * _shares(one) + _EVERYWHERE / len(one) for one in (counts, held_out))
    return float(np.sum(share * np.log(share / held_out_share)))


def pitch_class_entropy(notes: Notes) -> float:
    """The entropy of the pitch classes in bits: 0 for one alone, 3.58 for twelve of equal frequency.

    As in Wu and Yang (2020, The Jazz Transformer on the front line).
    """
    share = _shares(np.bincount(notes.pitch % 12, minlength=12))
    return float(-np.sum(share[share > 0] * np.log2(share[share > 0]))) + 0.0


def longest_loop(notes: Notes) -> int:
    """The length of the longest sequence of pitches that is played twice in immediate succession; 0 for none.

    A loop of 4 notes that goes on for 40 counts as 20: the first half of it is followed by itself.
    """
    pitch = notes.pitch
    for length in range(len(pitch) // 2, 0, -1):
        differs = pitch[length:] != pitch[:-length]
        ends = np.flatnonzero(np.concatenate([[True], differs, [True]]))
        if np.diff(ends).max() > length:  # So many notes in a row that equal the one `length` notes before.
            return length
    return 0


def repeated_8grams(notes: Notes) -> float:
    """The share of the sequences of 8 pitches that occur earlier in the same music.

    One minus distinct over all of them, as seq-rep-n of Welleck et al. (2020, Neural text generation with
    unlikelihood training).
    """
    if len(notes) < _NGRAM:
        return 0.0
    ngrams = np.lib.stride_tricks.sliding_window_view(notes.pitch, _NGRAM)
    return 1 - len(np.unique(ngrams, axis=0)) / len(ngrams)


def copied_runs(excerpts: Sequence[Notes], train: Sequence[Notes]) -> NDArray[np.int64]:
    """The longest run of successive notes of each excerpt that occurs in one of the training performances.

    Two runs are the same where their intervals are, and their steps fall into the same classes: below 40 ms, 80, 160,
    320, 640, 1280 ms, or longer. So a copy is found in any transposition, and where its rhythm is a little off.

    All places of both that agree so far are carried along and grow by a note at a time, so that no hash is trusted;
    few agree for more than some notes.

    Returns:
        The number of notes of each excerpt's longest run, `[excerpts]`; 0 where no two successive notes occur.
    """
    corpus = _moves(train, end=_MOVES)
    query = _moves(excerpts, end=_MOVES + 1)
    run = np.zeros(len(query), np.int64)
    corpus_place, query_place = np.arange(len(corpus)), np.arange(len(query))
    corpus_id, query_id = np.zeros(len(corpus), np.int64), np.zeros(len(query), np.int64)
    length = 0
    while len(query_place):
        # What has agreed so far, and the move after it, as one number.
        corpus_key = corpus_id * (_MOVES + 2) + corpus[corpus_place + length]
        query_key = query_id * (_MOVES + 2) + query[query_place + length]
        distinct, query_id = np.unique(query_key, return_inverse=True)
        found = np.minimum(np.searchsorted(distinct, corpus_key), len(distinct) - 1)
        agrees = distinct[found] == corpus_key
        corpus_place, corpus_id = corpus_place[agrees], found[agrees]
        occurs = np.zeros(len(distinct), bool)
        occurs[corpus_id] = True
        query_place, query_id = query_place[occurs[query_id]], query_id[occurs[query_id]]
        length += 1
        run[query_place] = length
    first = np.cumsum([0, *(len(notes) for notes in excerpts)])[:-1]
    longest = np.maximum.reduceat(run, first)
    return np.where(longest > 0, longest + 1, 0)


def _moves(performances: Sequence[Notes], *, end: int) -> NDArray[np.int64]:
    """How each note but a performance's last goes on to the next, 0 to `_MOVES`; `end` for the last: `[notes]`."""
    parts = []
    for notes in performances:
        interval = np.diff(notes.pitch.astype(np.int64)) + PITCHES - 1
        step = np.searchsorted(_STEP_CLASSES, ticks(notes.step_us[1:]), side="right")
        parts.append(np.append(interval * (len(_STEP_CLASSES) + 1) + step, end))
    return np.concatenate(parts)
