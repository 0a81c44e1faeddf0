"""Which hyperparameters matter: what a random forest, trained on a study's configs, needs to foretell their scores."""

import dataclasses
import statistics
import warnings
from collections.abc import Sequence
from typing import Any

from tuning.summary import StudySummary, TrialChain

FEWEST_CONFIGS = 8
SHUFFLES = 10  # of each hyperparameter

_TREES = 100
_COMPARED_SHARE = 0.75  # of the configs that have scores, for a share of the length at which all are compared


@dataclasses.dataclass(frozen=True)
class Importance:
    """How much each hyperparameter matters for the score.

    Attributes:
        share: of the full length, at which scores were compared.
        configs: how many were.
        fit: R² of the forest on configs that a tree has not seen: 1 foresees all, 0 or less nothing.
        means: nats/note by which the forest errs more when a hyperparameter is shuffled, by field, greatest first.
        deviations: standard deviation of that over the shuffles, by field.
    """

    share: float
    configs: int
    fit: float
    means: dict[str, float]
    deviations: dict[str, float]

    @property
    def is_predictive(self) -> bool:
        """Whether the forest foresees anything, so that its order is more than noise."""
        return self.fit > 0


def importance(standing: StudySummary) -> Importance | None:
    """The importance of each hyperparameter: of a random forest by permutation (Breiman 2001, Random Forests, sec. 10).

    Configs were trained for different lengths, so they are compared at one share of it: the greatest that three
    quarters of them have reached. Scores far above the rest count as the `ceiling` of all.

    Args:
        standing: the study.

    Returns:
        None where fewer than `FEWEST_CONFIGS` configs compare.
    """
    share, scores = compared(standing.chains)
    if len(scores) < FEWEST_CONFIGS:
        return None
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    top = ceiling([score for _, score in scores])
    parameters = standing.space.parameters
    columns = [[standing.value(chain.last, parameter) for chain, _ in scores] for parameter in parameters]
    # A forest sees only the order of values, so that of their texts will do for what is no number.
    ordered = [sorted(set(column), key=order_of) for column in columns]
    table = [
        [places.index(value) for places, value in zip(ordered, row, strict=True)] for row in zip(*columns, strict=True)
    ]
    targets = [min(score, top) for _, score in scores]
    forest = RandomForestRegressor(_TREES, oob_score=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some inputs do not have OOB scores")
        forest.fit(table, targets)
    shuffled = permutation_importance(
        forest, table, targets, scoring="neg_mean_absolute_error", n_repeats=SHUFFLES, random_state=0
    )
    fields = [parameter.field for parameter in parameters]
    means = dict(zip(fields, map(float, shuffled.importances_mean), strict=True))
    return Importance(
        share,
        len(scores),
        float(forest.oob_score_),
        dict(sorted(means.items(), key=lambda item: -item[1])),
        dict(zip(fields, map(float, shuffled.importances_std), strict=True)),
    )


def compared(chains: Sequence[TrialChain]) -> tuple[float, list[tuple[TrialChain, float]]]:
    """The share of the full length at which scores compare, and the configs that ended with one there."""
    scored = [chain for chain in chains if chain.judged and chain.curve]
    best: tuple[float, list[tuple[TrialChain, float]]] = (1.0, [])
    for share in sorted({1.0, *(chain.curve[-1][1] for chain in scored)}, reverse=True):
        there = [(chain, score) for chain in scored if (score := chain.score_at(share)) is not None]
        if len(there) >= max(_COMPARED_SHARE * len(scored), FEWEST_CONFIGS):
            return share, there
        if len(there) > len(best[1]):
            best = share, there
    return best


def ceiling(scores: Sequence[float]) -> float:
    """The greatest score but for those that went wrong and would press all others together (Tukey's fence)."""
    if len(scores) < 4:
        return max(scores)
    lower, _, upper = statistics.quantiles(scores, n=4)
    return max(score for score in scores if score <= upper + 1.5 * (upper - lower))


def order_of(value: Any) -> tuple[bool, Any]:
    """By which values of a hyperparameter are sorted: numbers, then texts."""
    return (False, value) if is_number(value) else (True, str(value))


def is_number(value: Any) -> bool:
    """Whether a value has a place on a scale."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
