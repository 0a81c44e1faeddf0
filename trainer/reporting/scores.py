"""Scores of a model compared with those of an n-gram, which only counts."""

from typing import Final

from trainer.workdir.formats import SCORED_FIELDS, Evaluation, NatsPerNote

FAR_NATS: Final = 1.0
"""A difference in nats/note that is large."""
LEVEL_NATS: Final = 0.05
"""A difference in nats/note that is too small to count."""


def compare_with_ngram(evaluation: Evaluation) -> str:
    """Returns whether a model is "ahead" of the n-gram, "level" with it or "behind" it; "" if that is unknown.

    They are level if the n-gram's score lies in the confidence interval of the model's score. The train split does not
    count: the n-gram was counted on it.
    """
    if not evaluation.baselines or evaluation.split == "train":
        return ""
    ngram = evaluation.baselines["ngram"]["total"]
    total = evaluation.nats_per_note["total"]
    low, high = evaluation.confidence_95["total"] if evaluation.confidence_95 else (total, total)
    if low <= ngram <= high or abs(total - ngram) < LEVEL_NATS:
        return "level"
    return "ahead" if ngram > high else "behind"


def ngram_gaps(evaluation: Evaluation) -> NatsPerNote:
    """Returns the model's score less the n-gram's in total and by field, in nats/note; positive is worse."""
    assert evaluation.baselines is not None
    nats, ngram = evaluation.nats_per_note, evaluation.baselines["ngram"]
    return {name: nats[name] - ngram[name] for name in SCORED_FIELDS}


def describe_ngram_gaps(evaluation: Evaluation) -> str:
    """Describes the distance between the model and the n-gram, in total and by field; "" if that is unknown."""
    standing = compare_with_ngram(evaluation)
    if not standing:
        return ""
    gaps = ngram_gaps(evaluation)
    by_field = ", ".join(_describe_gap(field, gaps[field]) for field in SCORED_FIELDS[1:])
    total = abs(gaps["total"])
    if standing == "level":
        return f"The model and the n-gram are about level, {total:.2f} nats/note apart: {by_field}."
    far = "far " if total >= FAR_NATS else ""
    words = f"{far}ahead of" if standing == "ahead" else f"{far}behind"
    return f"The model is {words} the n-gram, by {total:.2f} nats/note: {by_field}."


def _describe_gap(field: str, gap: float) -> str:
    return f"{field} {abs(gap):.2f} {'ahead' if gap < 0 else 'behind'}" if abs(gap) >= 0.005 else f"{field} level"
