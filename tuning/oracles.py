"""KerasTuner's oracles as algorithms: what to try next, given what is known of all trials.

Of an oracle only `populate_space` is used; trials, files, retries and locks are the study's. The study hands all its
records to each call, so that a proposal is a function of them and of the seed, and a search that was killed goes on as
it would have; hyperband alone has a state, its brackets.
"""

import dataclasses
import hashlib
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras_tuner
import numpy as np
import sklearn
import threadpoolctl
from keras_tuner.engine.trial import Trial, TrialStatus
from sklearn.exceptions import ConvergenceWarning

from trainer.config import Config
from tuning.space import Space

if TYPE_CHECKING:
    from tuning.study import StudyConfig, Trial

_TRIES = 1000  # that may come upon known values before the space counts as exhausted

# Hyperband's rungs are at 1/9, 1/3 and the whole of a trial's length.
_RUNG_UNITS, _FACTOR = 9, 3


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What to try next.

    Attributes:
        values: of the hyperparameters.
        share: of the full length, at which the trial ends.
        parent: the trial that it goes on from, if any.
    """

    values: dict[str, Any]
    share: float
    parent: str | None


class _Stateless:
    """What the three have in common: trials from the study's records, and values that depend on nothing else.

    KerasTuner's own sampling takes seed 0 for none, gives seeds that follow each other shared values, and gives a small
    space up after 20 collisions.
    """

    space: Space
    first: dict[str, Any]
    seed: int
    hyperparameters: keras_tuner.HyperParameters

    def take(self, records: Sequence["Trial"]) -> None:
        """Makes the study's records the oracle's trials."""
        self.configs = sum(record.parent is None for record in records)
        self.tried = [record.values for record in records]
        scores = [record.score for record in records if record.score is not None]
        self.trials, self.ongoing_trials = {}, {}
        for record in records:
            trial = _trial(record.id, self.placed(record.values))
            self.trials[record.id] = trial
            if record.is_open:
                self.ongoing_trials[record.id] = trial
            elif record.has_score or scores:
                # A failed trial counts as the worst, or it would never keep others away from where it was.
                trial.status = TrialStatus.COMPLETED
                trial.score = record.score if record.has_score else self.score_of_failed(scores)
            else:
                trial.status = TrialStatus.FAILED

    def placed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values as the oracle is to know them."""
        return dict(values)

    def score_of_failed(self, scores: Sequence[float]) -> float:
        """What a failed trial is taken to have scored, given the scores of the others."""
        return max(scores)

    def _random_values(self) -> dict[str, Any] | None:
        if not self.configs:
            return dict(self.first)
        for attempt in range(_TRIES):
            values = {
                parameter.field: parameter.tidy(
                    hyperparameter.random_sample(f"{self.seed}/{self.configs}/{attempt}/{parameter.field}")
                )
                for parameter, hyperparameter in zip(self.space.parameters, self.hyperparameters.space, strict=True)
            }
            if not self._duplicate(values):
                return values
        return None

    def _duplicate(self, values: Mapping[str, Any]) -> bool:
        return values in self.tried


class _Random(_Stateless, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(_Stateless, keras_tuner.oracles.BayesianOptimizationOracle):
    def placed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        # The start config may lie outside of the space, and the model knows nothing of out there.
        return {parameter.field: parameter.nearest(values[parameter.field]) for parameter in self.space.parameters}

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # Both would otherwise depend on the calls before, and differ in a study that was killed and goes on.
        self._random_state = np.random.RandomState([self.seed, len(self.trials)])
        self.gpr = self._make_gpr()
        with (
            warnings.catch_warnings(),
            # Thousands of tiny predictions: threads and checks of the input take longer than the arithmetic.
            threadpoolctl.threadpool_limits(1),
            sklearn.config_context(assume_finite=True, skip_parameter_validation=True),
        ):
            # Of a length scale at its bound: a hyperparameter that makes no difference.
            warnings.simplefilter("ignore", ConvergenceWarning)
            answer = super().populate_space(trial_id)
        if answer["values"] is not None and self._duplicate(answer["values"]):
            return self._random_populate_space()
        return answer

    def _vector_to_values(self, vector: np.ndarray) -> dict[str, Any]:
        values = super()._vector_to_values(vector)
        return {parameter.field: parameter.tidy(values[parameter.field]) for parameter in self.space.parameters}

    def _vectorize_trials(self) -> tuple[np.ndarray, np.ndarray]:
        # Trials under way get the score that the model predicts. A model not yet fitted would predict 0 ± 1, far
        # below any real one, and have all others look there.
        trials, ongoing = self.trials, self.ongoing_trials
        self.trials = {name: trial for name, trial in trials.items() if trial.status == TrialStatus.COMPLETED}
        self.ongoing_trials = {}
        self.gpr.fit(*super()._vectorize_trials())
        self.trials, self.ongoing_trials = trials, ongoing
        return super()._vectorize_trials()


class _Hyperband(_Stateless, keras_tuner.oracles.HyperbandOracle):
    """Hyperband that ends: with so many configs in all, and past failures.

    KerasTuner's promotes once enough of a round's places have scores: three failed trials of nine and it promotes none,
    and a space too small to fill a round has none promoted either. Here places without a trial count as filled by the
    worst. It also knows no greatest number of configs: here none begins past `max_trials`.
    """

    max_trials: int

    def take(self, records: Sequence["Trial"]) -> None:
        super().take(records)
        for bracket in self._brackets:
            for place in (place for places in bracket["rounds"] for place in places):
                if place["id"] not in self.trials:
                    self._add_absent(place["id"])

    def score_of_failed(self, scores: Sequence[float]) -> float:
        return math.inf

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        answer = super().populate_space(trial_id)
        parent = (answer.get("values") or {}).get("tuner/trial_id")
        if parent is None or math.isfinite(self.trials[parent].score):
            return answer
        # Nobody better is left to be promoted.
        (place,) = (
            place
            for bracket in self._brackets
            for places in bracket["rounds"]
            for place in places
            if place["id"] == trial_id
        )
        place["id"] = self._absent()
        return self.populate_space(trial_id)

    def _random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        if self.configs < self.max_trials:
            answer = super()._random_trial(trial_id, bracket)
            if answer["status"] == TrialStatus.RUNNING:
                return answer
        places = bracket["rounds"][0]
        if not places:
            return {"status": TrialStatus.STOPPED, "values": None}
        while len(places) < self._get_size(bracket["bracket_num"], 0):
            places.append({"past_id": None, "id": self._absent()})
        return self.populate_space(trial_id)

    def _absent(self) -> str:
        name = next(name for name in map("absent-{}".format, itertools.count()) if name not in self.trials)
        self._add_absent(name)
        return name

    def _add_absent(self, name: str) -> None:
        trial = self.trials[name] = _trial(name, {})
        trial.status, trial.score = TrialStatus.COMPLETED, math.inf


_KINDS = {"random": _Random, "bayesian": _Bayesian, "hyperband": _Hyperband}
_BRACKETS = ("_brackets", "_current_bracket", "_current_iteration")


class Oracle:
    """Proposes trials.

    Args:
        space: what is searched.
        start: the first trial, even where its values lie outside of the space.
        settings: of the study.
        state: what `state` gave, to go on from there.
    """

    def __init__(
        self, space: Space, start: Config, settings: "StudyConfig", state: Mapping[str, Any] | None = None
    ) -> None:
        options: dict[str, Any] = {
            "objective": keras_tuner.Objective("val_nats", "min"),
            "hyperparameters": space.declare(start),
            "seed": int.from_bytes(hashlib.sha256(str(settings.seed).encode()).digest()[:4]) or 1,
        }
        if settings.tuner == "bayesian":
            # As many as span the space; the library's own three times as many would be most of a cheap search.
            options["num_initial_points"] = len(space.parameters) + 1
        if settings.tuner == "hyperband":
            options |= {"max_epochs": _RUNG_UNITS, "factor": _FACTOR, "hyperband_iterations": None}
        self._max_trials = settings.max_trials
        kind: Any = _KINDS[settings.tuner]
        self._oracle = kind(**options)
        self._oracle.space, self._oracle.first = space, space.values(space.start(start))
        self._oracle.max_trials = settings.max_trials
        for name, value in (state or {}).items():
            setattr(self._oracle, f"_{name}", value)

    def propose(self, trial: str, records: Sequence["Trial"]) -> Proposal | None:
        """What to try next.

        Args:
            trial: the id that the next trial will have.
            records: all trials of the study, in the order in which they were begun.

        Returns:
            The proposal; or None: nothing more, or nothing before a trial under way has ended.
        """
        oracle = self._oracle
        oracle.take(records)
        if oracle.configs >= self._max_trials and not isinstance(oracle, _Hyperband):
            return None
        answer = oracle.populate_space(trial)
        if answer["status"] != TrialStatus.RUNNING:
            return None
        values = answer["values"]
        share = values.pop("tuner/epochs", _RUNG_UNITS) / _RUNG_UNITS
        parent = values.pop("tuner/trial_id", None)
        return Proposal({name: value for name, value in values.items() if "/" not in name}, share, parent)

    def state(self) -> dict[str, Any]:
        """What is to be kept besides the records, as a JSON object."""
        oracle = self._oracle
        return {name[1:]: getattr(oracle, name) for name in _BRACKETS if hasattr(oracle, name)}


def _trial(name: str, values: Mapping[str, Any]) -> Trial:
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.values = dict(values)
    return Trial(hyperparameters=hyperparameters, trial_id=name, status=TrialStatus.RUNNING)
