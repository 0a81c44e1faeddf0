"""Importance of the hyperparameters: the dependence of the scores on each, by a random forest."""

import dataclasses
import statistics
import warnings
from collections.abc import Sequence
from typing import Any

from tuning.summary import StudySummary, TrialChain

MIN_CONFIGS = 8
SHUFFLES = 10  # of each hyperparameter

_TREES = 100
_COMPARED_SHARE = 0.75  # fraction of the scored configs that must have reached the share at which all are compared


@dataclasses.dataclass(frozen=True)
class Importance:
    """Importance of each hyperparameter for the score."""

    share: float  # of the full length, at which scores are compared
    configs: int  # number of compared configs
    fit: float  # R² of the forest on configs that a tree has not seen: 1 is perfect, 0 or less is chance
    means: dict[str, float]  # growth of the forest's error in nats/note when a field is shuffled, largest first
    deviations: dict[str, float]  # standard deviation of this growth over the shuffles, by field


def importance(summary: StudySummary) -> Importance | None:
    """Returns the permutation importance of each hyperparameter (Breiman 2001, Random Forests, section 10).

    It is None with fewer than `MIN_CONFIGS` comparable configs. Outliers are limited to `outlier_limit`.
    """
    share, scores = comparable_scores(summary.chains)
    if len(scores) < MIN_CONFIGS:
        return None
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    limit = outlier_limit([score for _, score in scores])
    parameters = summary.space.parameters
    columns = [[summary.value(chain.last, parameter) for chain, _ in scores] for parameter in parameters]
    # A forest uses only the order of values, so ranks replace them; texts have an alphabetical order.
    ranks = [{value: rank for rank, value in enumerate(sorted(set(column), key=sort_key))} for column in columns]
    table = [[rank[value] for rank, value in zip(ranks, row, strict=True)] for row in zip(*columns, strict=True)]
    targets = [min(score, limit) for _, score in scores]
    forest = RandomForestRegressor(_TREES, oob_score=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some inputs do not have OOB scores")
        forest.fit(table, targets)
    increases = permutation_importance(
        forest, table, targets, scoring="neg_mean_absolute_error", n_repeats=SHUFFLES, random_state=0
    )
    fields = [parameter.field for parameter in parameters]
    means = dict(zip(fields, map(float, increases.importances_mean), strict=True))
    return Importance(
        share,
        len(scores),
        float(forest.oob_score_),
        dict(sorted(means.items(), key=lambda item: -item[1])),
        dict(zip(fields, map(float, increases.importances_std), strict=True)),
    )


def comparable_scores(chains: Sequence[TrialChain]) -> tuple[float, list[tuple[TrialChain, float]]]:
    """Returns the largest share of the length that three quarters of the configs reached, and the scores there."""
    scored = [chain for chain in chains if chain.last_scored and chain.curve]
    most: tuple[float, list[tuple[TrialChain, float]]] = (1.0, [])
    for share in sorted({1.0, *(chain.curve[-1][1] for chain in scored)}, reverse=True):
        scores = [(chain, score) for chain in scored if (score := chain.score_at(share)) is not None]
        if len(scores) >= max(_COMPARED_SHARE * len(scored), MIN_CONFIGS):
            return share, scores
        if len(scores) > len(most[1]):
            most = share, scores
    return most


def outlier_limit(scores: Sequence[float]) -> float:
    """Returns the largest score that is no outlier, by Tukey's fence."""
    if len(scores) < 4:
        return max(scores)
    lower, _, upper = statistics.quantiles(scores, n=4)
    return max(score for score in scores if score <= upper + 1.5 * (upper - lower))


def sort_key(value: Any) -> tuple[bool, Any]:
    """Returns the key that sorts values of a hyperparameter: numbers first, then texts."""
    return (False, value) if is_number(value) else (True, str(value))


def is_number(value: Any) -> bool:
    """Returns whether a value is a number and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
