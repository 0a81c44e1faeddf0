"""Statistics of note scores: means, confidence intervals and scores by composer (NumPy only)."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.workdir.evaluation_formats import ComposerGain, EndingScores, NatsPerNote, PartScores, SplitScores
from trainer.workdir.formats import ScoredField

FIELDS: Final[tuple[ScoredField, ...]] = ("pitch", "step", "duration")
"""The fields of a note that are scored."""

_RESAMPLES: Final = 10_000
_DRAWN_COUNTS: Final = 2**22  # at once, so that the bootstrap takes 64 MB
_TAILS: Final = (1 - 0.975, 0.975)  # of a 95% interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class NoteScores(NamedTuple):
    """Scores of each note, `[notes]`: performance after performance, each without its first note.

    Pitch, step and duration are nats. The next three are 1 where the prediction is right, else 0. `end` is nats too:
    that the performance has not ended before the note and, at its last note, that it ends there. It is 0 if the model
    predicts no end.
    """

    pitch: Floats
    step: Floats
    duration: Floats
    pitch_top1: Floats
    pitch_top5: Floats
    step_within_30ms: Floats
    end: Floats


def sum_scores(scores: NoteScores) -> list[float]:
    """Returns the sum of each score over all notes, then the number of notes; parts of a split add up."""
    return [*(float(np.sum(values)) for values in scores), float(len(scores.pitch))]


def compute_metrics(sums: Sequence[float]) -> SplitScores:
    """Returns the means of a split from the result of `sum_scores`, or from several added up."""
    *values, notes = sums
    means = {name: value / notes for name, value in zip(NoteScores._fields, values, strict=True)}
    nats = with_total({field: means.pop(field) for field in FIELDS})
    del means["end"]  # `score_ending` reports it by performance.
    return SplitScores(nats_per_note=nats, notes=int(notes), **means)


def with_total(nats: NatsPerNote) -> NatsPerNote:
    """Returns nats/note by field and their sum, `total`."""
    return {**nats, "total": sum(nats.values())}


def confidence_intervals(scores: NoteScores, lengths: Ints) -> dict[ScoredField, tuple[float, float]] | None:
    """Computes 95% intervals of nats/note; None if fewer than two performances have a scored note.

    The percentile bootstrap (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13) resamples
    performances, `lengths` notes each, since the notes of a performance are alike. Equal scores give equal intervals.
    """
    nats, scored = _sum_by_performance(scores, lengths)
    if np.count_nonzero(scored) < 2:
        return None
    generator, probabilities = np.random.default_rng(0), np.full(len(scored), 1 / len(scored))
    parts = []
    rows = max(_DRAWN_COUNTS // len(scored), 16)
    for start in range(0, _RESAMPLES, rows):
        draws = generator.multinomial(len(scored), probabilities, min(rows, _RESAMPLES - start))
        notes = draws @ scored
        # A product of matrices would round a row by the number of rows and by the CPU's instructions.
        totals = np.column_stack([np.sum(draws * values, axis=1) for values in nats.T])
        # A sample of performances of a single note has no mean.
        parts.append(totals[notes > 0] / notes[notes > 0, np.newaxis])
    means = np.concatenate(parts)
    low, high = np.quantile(np.column_stack([means, means.sum(axis=1)]), _TAILS, axis=0).tolist()
    return dict(zip((*FIELDS, "total"), zip(low, high, strict=True), strict=True))


def score_composers(scores: NoteScores, lengths: Ints, composers: Sequence[str]) -> dict[str, PartScores]:
    """Computes the scores of each composer's performances, of `lengths` notes each; "" becomes "unknown"."""
    names = np.array([composer or "unknown" for composer in composers])
    nats, scored = _sum_by_performance(scores, lengths)
    return {name: _score_part(nats, scored, names == name) for name in sorted(set(names[scored > 0].tolist()))}


def score_unshared(
    scores: NoteScores, lengths: Ints, pieces: Sequence[str], straddling: Sequence[str]
) -> PartScores | None:
    """Computes the scores of the performances of pieces that no other split has; None for all or none of them."""
    is_unshared = ~np.isin(pieces, straddling)
    if is_unshared.all():
        return None
    nats, scored = _sum_by_performance(scores, lengths)
    return _score_part(nats, scored, is_unshared) if scored[is_unshared].any() else None


def score_ending(scores: NoteScores, lengths: Ints) -> EndingScores:
    """Computes the nats of a performance's end, over performances of `lengths` notes that have a scored note.

    Beside them are those of ends that are equally likely after each note, as often as these performances end.
    """
    notes = lengths[lengths > 1]
    rate = 1 / np.mean(notes)
    constant = -(np.log(rate) + (np.mean(notes) - 1) * np.log1p(-rate))
    return EndingScores(float(np.sum(scores.end)) / len(notes), float(constant))


def score_composer_gain(
    known: NoteScores, hidden: NoteScores, lengths: Ints, composers: Sequence[str], names: Sequence[str]
) -> ComposerGain | None:
    """Compares scores with the composers' names, `known`, and without, `hidden`, of performances of `lengths` notes.

    The gain is that of performances whose composer has one of the `names` that the model knows; None without any.
    """
    has_name, difference = np.isin(composers, names), subtract(hidden, known)
    named = select_performances(difference, lengths, has_name)
    if not len(named.pitch):
        return None
    intervals = confidence_intervals(named, lengths[has_name])
    return ComposerGain(
        without=compute_metrics(sum_scores(hidden)).nats_per_note,
        total=compute_metrics(sum_scores(named)).nats_per_note["total"],
        confidence_95=intervals["total"] if intervals else None,
        by_composer={
            name: part.nats_per_note["total"]
            for name, part in score_composers(difference, lengths, composers).items()
            if name in names
        },
    )


def subtract(scores: NoteScores, others: NoteScores) -> NoteScores:
    """Returns the scores less other ones of the same notes."""
    return NoteScores(*(own - other for own, other in zip(scores, others, strict=True)))


def select_performances(scores: NoteScores, lengths: Ints, is_selected: NDArray[np.bool_]) -> NoteScores:
    """Returns the scores of those performances, of `lengths` notes each, for which `is_selected` holds."""
    of_notes = np.repeat(is_selected, np.maximum(lengths - 1, 0))
    return NoteScores(*(values[of_notes] for values in scores))


def _score_part(nats: Floats, scored: Ints, is_part: NDArray[np.bool_]) -> PartScores:
    """Computes the scores of some performances, `[performances]`, from the result of `_sum_by_performance`."""
    notes = int(scored[is_part].sum())
    means = dict(zip(FIELDS, (nats[is_part].sum(axis=0) / notes).tolist(), strict=True))
    return PartScores(with_total(means), notes, int(is_part.sum()))


def _sum_by_performance(scores: NoteScores, lengths: Ints) -> tuple[Floats, Ints]:
    """Returns the nats of each performance, `[performances, fields]`, and its scored notes, `[performances]`."""
    scored = np.maximum(lengths - 1, 0)
    ends = np.cumsum(scored)
    nats = np.column_stack(scores[: len(FIELDS)])
    cumulative = np.concatenate([np.zeros((1, len(FIELDS))), np.cumsum(nats, axis=0)])
    return cumulative[ends] - cumulative[ends - scored], scored
