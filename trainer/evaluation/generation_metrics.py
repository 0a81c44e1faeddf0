"""Metrics comparing generated with real music (NumPy only).

A model's continuations of primers are compared with real music of other pieces. So are the performers' own
continuations: the distance of real music from other real music is what a model can reach.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sostenuto.data.performance import Performance
from sostenuto.errors import UserError
from sostenuto.music.notes import PITCHES, Notes, ticks
from sostenuto.progress import track
from sostenuto.text import counted
from trainer.evaluation.distributions import DISTRIBUTIONS, Counts, count_bins, entropy, measure_distances, sum_counts
from trainer.evaluation.form_picture import picture_form
from trainer.evaluation.repetition import NGRAM, repeated_notes
from trainer.evaluation.structure import structure_indicators
from trainer.workdir.evaluation_formats import GenerationMetrics, Summary
from trainer.workdir.form_formats import DISTANCES, SPANS, Span
from trainer.workdir.formats import CONTINUATIONS, Continuation, MusicKind

PRIMER_NOTES: Final = 128
CONTINUATION_NOTES: Final = (2048, 512)
"""Notes of a continuation: the first number for which two pieces are long enough."""
COMPARED_NOTES: Final = PRIMER_NOTES + CONTINUATION_NOTES[-1]
"""Notes that a performance needs for a primer and the shorter continuation."""
MAX_DEFAULT_PRIMERS: Final = 64

# Upper ends of the classes of a step in a copied run, in ticks: 40, 80, 160, 320, 640 and 1280 ms.
_STEP_CLASSES: Final = np.array([4, 8, 16, 32, 64, 128])
_INTERVALS: Final = 2 * PITCHES - 1
_MOVES: Final = _INTERVALS * (len(_STEP_CLASSES) + 1)


PER_CONTINUATION: Final = ("pitch_class_entropy", "longest_loop", "repeated_8grams", "copied_run")
"""The metrics that each continuation has for itself."""


def choose_num_notes(lengths: Sequence[int], pieces: Sequence[str], primer_notes: int) -> int:
    """Returns the length of the continuations: the first of `CONTINUATION_NOTES` that two pieces have, or the last."""
    for num_notes in CONTINUATION_NOTES:
        ready = {piece for length, piece in zip(lengths, pieces, strict=True) if length >= primer_notes + num_notes}
        if len(ready) > 1:
            return num_notes
    return CONTINUATION_NOTES[-1]


def select_performances(lengths: Sequence[int], pieces: Sequence[str], needed: int) -> list[int]:
    """Returns the indices of the performances that have the needed notes, those of a primer and a continuation.

    They are in the order in which they are continued: one of each piece by the pieces' names, then a second of each.
    It raises UserError if fewer than two pieces have such a performance.
    """
    ranked: list[tuple[int, str, int]] = []
    seen: Counter[str] = Counter()
    for index, (length, piece) in enumerate(zip(lengths, pieces, strict=True)):
        if length >= needed:
            ranked.append((seen[piece], piece, index))
            seen[piece] += 1
    if len(seen) < 2:
        raise UserError(
            f"got {counted(len(seen), 'piece')} of the split with {needed} notes or more, expected at least 2, "
            "one to continue and one to compare with. Use another split, a larger dataset or a smaller --num_notes"
        )
    return [index for _, _, index in sorted(ranked)]


def can_compare(performances: Iterable[Performance]) -> bool:
    """Tests whether `select_performances` would select any; reads no further than needed."""
    pieces = (performance.piece for performance in performances if len(performance.notes) >= COMPARED_NOTES)
    first = next(pieces, None)
    return any(piece != first for piece in pieces)


class Music(NamedTuple):
    """Performances or continuations, and the piece of each."""

    notes: Sequence[Notes]
    pieces: Sequence[str]


def compare_generated(
    generated: Music, real: Music, held_out: Music, train: Sequence[Notes], *, first: int, quiet: bool = True
) -> GenerationMetrics:
    """Compares generated continuations, and the performers' own, with real music of other pieces.

    Args:
        generated: each primer and its generated continuation.
        real: the same primers and their performers' continuations, of the same length.
        held_out: whole performances of two pieces or more, with those of `real`.
        train: the performances that the model was trained on.
        first: notes of each primer. They are not counted themselves.
        quiet: shows no progress.
    """
    reference = [count_bins(notes) for notes in held_out.notes]
    music = dict(zip(CONTINUATIONS, (generated, real), strict=True))
    parts = {kind: [count_bins(notes, first) for notes in music[kind].notes] for kind in music}
    distances = {kind: measure_distances(parts[kind], music[kind].pieces, reference, held_out.pieces) for kind in music}
    summaries = {kind: _summarize([notes[first:] for notes in music[kind].notes], train) for kind in music}
    repeated = {kind: [repeated_notes(notes, first) for notes in music[kind].notes] for kind in music}
    pairs = [(kind, notes[first:]) for kind in music for notes in music[kind].notes]
    structure: dict[Continuation, list[dict[Span, float]]] = {kind: [] for kind in music}
    for kind, notes in track(pairs, total=len(pairs), unit="piece", description="comparing form", quiet=quiet):
        structure[kind].append(structure_indicators(notes))
    pictured = _choose_pictured([sum(shares.values()) for shares in repeated["real"]])
    counts: dict[MusicKind, Sequence[Counts]] = {
        "held_out": reference,
        "generated": parts["generated"],
        "real": parts["real"],
    }
    return GenerationMetrics(
        distributions={name: {kind: distances[kind][name] for kind in music} for name in DISTRIBUTIONS},
        mean_overlap={
            kind: float(np.mean([distance.overlap for distance in distances[kind].values()])) for kind in music
        },
        counts={kind: {name: bins.tolist() for name, bins in sum_counts(counts[kind]).items()} for kind in counts},
        **{name: {kind: summaries[kind][name] for kind in music} for name in PER_CONTINUATION},
        repeated_notes={
            distance: {kind: _mean_and_max([shares[distance] for shares in repeated[kind]]) for kind in music}
            for distance in DISTANCES
        },
        structure={
            span: {kind: _mean_and_max([fitness[span] for fitness in structure[kind]]) for kind in music}
            for span in SPANS
        },
        pictured=pictured,
        pictures={kind: picture_form(music[kind].notes[pictured], first) for kind in music},
    )


def _choose_pictured(repeated: Sequence[float]) -> int:
    """Returns the position of the median, the lower one of two; the performers choose, not the model."""
    return int(np.argsort(repeated, kind="stable")[(len(repeated) - 1) // 2])


def _summarize(continuations: Sequence[Notes], train: Sequence[Notes]) -> dict[str, Summary]:
    """Computes the metrics that each continuation has for itself."""
    values = {
        "pitch_class_entropy": np.array([pitch_class_entropy(notes) for notes in continuations]),
        "longest_loop": np.array([longest_loop(notes) for notes in continuations]),
        "repeated_8grams": np.array([repeated_8grams(notes) for notes in continuations]),
        "copied_run": copied_runs(continuations, train),
    }
    return {name: _mean_and_max(numbers) for name, numbers in values.items()}


def _mean_and_max(values: Sequence[float] | NDArray) -> Summary:
    return Summary(float(np.mean(values)), np.max(values).item())


def pitch_class_entropy(notes: Notes) -> float:
    """Computes the entropy of the pitch classes in bits: 0 for one alone, 3.58 for twelve of equal frequency.

    Wu and Yang (2020, The Jazz Transformer on the front line) define it like this.
    """
    return entropy(np.bincount(notes.pitch % 12))


def longest_loop(notes: Notes) -> int:
    """Finds the longest sequence of pitches that repeats immediately; returns its length, 0 for none.

    A loop of 4 notes that lasts for 40 notes counts as 20: its first half is followed by itself.
    """
    pitch = notes.pitch
    for length in range(len(pitch) // 2, 0, -1):
        differs = pitch[length:] != pitch[:-length]
        ends = np.flatnonzero(np.concatenate([[True], differs, [True]]))
        if np.diff(ends).max() > length:  # `length` successive notes equal the notes `length` before them.
            return length
    return 0


def repeated_8grams(notes: Notes) -> float:
    """Computes the share of the sequences of 8 pitches that occur earlier in the same music.

    This is seq-rep-n of Welleck et al. (2020, Neural text generation with unlikelihood training).
    """
    if len(notes) < NGRAM:
        return 0.0
    ngrams = np.lib.stride_tricks.sliding_window_view(notes.pitch, NGRAM)
    return 1 - len(np.unique(ngrams, axis=0)) / len(ngrams)


def copied_runs(excerpts: Sequence[Notes], train: Sequence[Notes]) -> NDArray[np.int64]:
    """Counts the notes of each excerpt's longest run that occurs in a training performance, `[excerpts]`; 0 for none.

    Runs are equal if their intervals are, and their steps are in the same classes. This finds transposed copies, and
    copies with a slightly different rhythm. The search extends all pairs of positions that agree by one move at a time:
    few agree for more than some notes.
    """
    corpus = _moves(train, end=_MOVES)
    query = _moves(excerpts, end=_MOVES + 1)
    run = np.zeros(len(query), np.int64)
    corpus_place, query_place = np.arange(len(corpus)), np.arange(len(query))
    corpus_id, query_id = np.zeros(len(corpus), np.int64), np.zeros(len(query), np.int64)
    length = 0
    while len(query_place):
        # The run so far and the move after it, as one number.
        corpus_key = corpus_id * (_MOVES + 2) + corpus[corpus_place + length]
        query_key = query_id * (_MOVES + 2) + query[query_place + length]
        distinct, query_id = np.unique(query_key, return_inverse=True)
        candidate = np.minimum(np.searchsorted(distinct, corpus_key), len(distinct) - 1)
        agrees = distinct[candidate] == corpus_key
        corpus_place, corpus_id = corpus_place[agrees], candidate[agrees]
        occurs = np.zeros(len(distinct), bool)
        occurs[corpus_id] = True
        query_place, query_id = query_place[occurs[query_id]], query_id[occurs[query_id]]
        length += 1
        run[query_place] = length
    first = np.cumsum([0, *(len(notes) for notes in excerpts)])[:-1]
    longest = np.maximum.reduceat(run, first)
    return np.where(longest > 0, longest + 1, 0)


def _moves(performances: Sequence[Notes], *, end: int) -> NDArray[np.int64]:
    """Encodes interval and step to the next note as 0 to `_MOVES`, `[notes]`; a performance's last note is `end`."""
    parts = []
    for notes in performances:
        interval = np.diff(notes.pitch.astype(np.int64)) + PITCHES - 1
        step = np.searchsorted(_STEP_CLASSES, ticks(notes.step_us[1:]), side="right")
        parts.append(np.append(interval * (len(_STEP_CLASSES) + 1) + step, end))
    return np.concatenate(parts)
