"""Search algorithms (--tuner): KerasTuner's oracles, used only for their proposals.

A proposal depends only on the study's trials and the seed, so a resumed search continues as an uninterrupted one. Only
hyperband has a state of its own, its brackets.

A new algorithm is a class like those below, an entry of `_ORACLES`, and its name in `tuning.trial.TUNERS`.
"""

import hashlib
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras_tuner
import numpy as np
import sklearn
import threadpoolctl
from keras_tuner.engine import trial as tuner_trial
from sklearn.exceptions import ConvergenceWarning

from tuning.space import Space
from tuning.trial import TRIALS_NAME, OracleState, StudyConfig, Trial, TrialStatus

_MAX_COLLISIONS = 1000  # samples in a row that were tried before; then the space counts as exhausted

# Hyperband's rungs are at 1/9, 1/3 and the whole of a trial's length.
_RUNG_UNITS, _FACTOR = 9, 3

_RUNNING, _COMPLETED = tuner_trial.TrialStatus.RUNNING, tuner_trial.TrialStatus.COMPLETED


class _StatelessOracle:
    """Common part of the oracles.

    KerasTuner's own sampling treats seed 0 as no seed, gives consecutive seeds common values, and gives up on a small
    space after 20 collisions.
    """

    space: Space
    max_trials: int
    seed: int
    hyperparameters: keras_tuner.HyperParameters
    failed_score: float | None = None  # of a failed trial; None for the worst of the others

    def load_trials(self, trials: Sequence[Trial]) -> None:
        """Replaces the oracle's trials by the study's."""
        self.num_configs = sum(trial.parent is None for trial in trials)
        self.tried = [trial.values for trial in trials]
        scores = [trial.score for trial in trials if trial.score is not None]
        self.trials, self.ongoing_trials = {}, {}
        for trial in trials:
            loaded = self.trials[trial.id] = _tuner_trial(trial.id, self.clamp_values(trial.values))
            if trial.is_open:
                self.ongoing_trials[trial.id] = loaded
            elif trial.has_score or scores:
                # A failed trial counts as the worst, so that the search avoids its neighbourhood.
                loaded.status = _COMPLETED
                loaded.score = trial.score if trial.has_score else self.failed_score or max(scores)
            else:
                loaded.status = tuner_trial.TrialStatus.FAILED

    def clamp_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a trial's values for the oracle."""
        return dict(values)

    def _random_values(self) -> dict[str, Any] | None:
        if not self.num_configs:
            return self.space.base_values
        for attempt in range(_MAX_COLLISIONS):
            seed = f"{self.seed}/{self.num_configs}/{attempt}"
            values = {
                parameter.field: parameter.round_value(hyperparameter.random_sample(f"{seed}/{parameter.field}"))
                for parameter, hyperparameter in zip(self.space.parameters, self.hyperparameters.space, strict=True)
            }
            if not self._duplicate(values):
                return values
        return None

    def _duplicate(self, values: Mapping[str, Any]) -> bool:
        return values in self.tried


class _RandomOracle(_StatelessOracle, keras_tuner.oracles.RandomSearchOracle):
    pass


class _BayesianOracle(_StatelessOracle, keras_tuner.oracles.BayesianOptimizationOracle):
    def clamp_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        # The base config may lie outside of the space, where the model is undefined.
        return {parameter.field: parameter.clamp(values[parameter.field]) for parameter in self.space.parameters}

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # Both would otherwise depend on earlier calls, which a resumed study did not make.
        self._random_state = np.random.RandomState([self.seed, len(self.trials)])
        self.gpr = self._make_gpr()
        with (
            warnings.catch_warnings(),
            # For thousands of tiny predictions, threads and checks of the input cost more than the arithmetic.
            threadpoolctl.threadpool_limits(1),
            sklearn.config_context(assume_finite=True, skip_parameter_validation=True),
        ):
            # A length scale at its bound: a hyperparameter without effect.
            warnings.simplefilter("ignore", ConvergenceWarning)
            answer = super().populate_space(trial_id)
        if answer["values"] is not None and self._duplicate(answer["values"]):
            return self._random_populate_space()
        return answer

    def _vector_to_values(self, vector: np.ndarray) -> dict[str, Any]:
        values = super()._vector_to_values(vector)
        return {parameter.field: parameter.round_value(values[parameter.field]) for parameter in self.space.parameters}

    def _vectorize_trials(self) -> tuple[np.ndarray, np.ndarray]:
        # Running trials get the score that the model predicts. An unfitted model would predict 0 ± 1, far below any
        # real score, and attract all others.
        trials, ongoing = self.trials, self.ongoing_trials
        self.trials = {name: trial for name, trial in trials.items() if trial.status == _COMPLETED}
        self.ongoing_trials = {}
        self.gpr.fit(*super()._vectorize_trials())
        self.trials, self.ongoing_trials = trials, ongoing
        return super()._vectorize_trials()


class _HyperbandOracle(_StatelessOracle, keras_tuner.oracles.HyperbandOracle):
    """Hyperband with a maximum number of configs, and with promotions despite failed trials.

    Failures, or a space too small to fill a round, would block KerasTuner's promotions. Placeholders fill their places.
    """

    failed_score = math.inf

    def load_trials(self, trials: Sequence[Trial]) -> None:
        super().load_trials(trials)
        for place in self._places():
            if place["id"] not in self.trials:
                self._add_placeholder(place["id"])

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        answer = super().populate_space(trial_id)
        parent = (answer.get("values") or {}).get("tuner/trial_id")
        if parent is None or math.isfinite(self.trials[parent].score):
            return answer
        # All better trials are promoted already.
        (place,) = (place for place in self._places() if place["id"] == trial_id)
        place["id"] = self._add_placeholder()
        return self.populate_space(trial_id)

    def _places(self) -> Iterator[dict[str, Any]]:
        return (place for bracket in self._brackets for places in bracket["rounds"] for place in places)

    def _random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        if self.num_configs < self.max_trials:
            answer = super()._random_trial(trial_id, bracket)
            if answer["status"] == _RUNNING:
                return answer
        places = bracket["rounds"][0]
        if not places:
            return {"status": tuner_trial.TrialStatus.STOPPED, "values": None}
        while len(places) < self._get_size(bracket["bracket_num"], 0):
            places.append({"past_id": None, "id": self._add_placeholder()})
        return self.populate_space(trial_id)

    def _add_placeholder(self, name: str = "") -> str:
        name = name or next(name for name in map("absent-{}".format, itertools.count()) if name not in self.trials)
        trial = self.trials[name] = _tuner_trial(name, {})
        trial.status, trial.score = _COMPLETED, math.inf
        return name


# The names are those of tuning.trial.TUNERS, which the flag --tuner accepts without importing KerasTuner.
_ORACLES = {"random": _RandomOracle, "bayesian": _BayesianOracle, "hyperband": _HyperbandOracle}
_STATE_FIELDS = ("_brackets", "_current_bracket", "_current_iteration")


class Oracle:
    """Proposes trials, from a state that `state` returned."""

    def __init__(self, space: Space, config: StudyConfig, state: OracleState | None = None) -> None:
        options: dict[str, Any] = {
            "objective": keras_tuner.Objective("val_nats", "min"),
            "hyperparameters": space.declare(),
            "seed": int.from_bytes(hashlib.sha256(str(config.seed).encode()).digest()[:4]) or 1,
        }
        if config.tuner == "bayesian":
            # Enough to span the space; KerasTuner's default, three times as many, would take most of a short search.
            options["num_initial_points"] = len(space.parameters) + 1
        if config.tuner == "hyperband":
            options |= {"max_epochs": _RUNG_UNITS, "factor": _FACTOR, "hyperband_iterations": None}
        self._arguments = (space, config)
        oracle_class: Any = _ORACLES[config.tuner]
        self._oracle = oracle_class(**options)
        self._oracle.space = space
        self._oracle.max_trials = config.max_trials
        for name, value in (state or OracleState()).to_json().items():
            setattr(self._oracle, f"_{name}", value)

    def propose(self, trial_id: str, trials: Sequence[Trial]) -> Trial | None:
        """Returns the next trial; None if the search is complete, or if a running trial must end first."""
        oracle = self._oracle
        oracle.load_trials(trials)
        if oracle.num_configs >= oracle.max_trials and not isinstance(oracle, _HyperbandOracle):
            return None
        answer = oracle.populate_space(trial_id)
        if answer["status"] != _RUNNING:
            return None
        values = answer["values"]
        share = values.pop("tuner/epochs", _RUNG_UNITS) / _RUNG_UNITS
        parent = values.pop("tuner/trial_id", None)
        directory = next((trial.directory for trial in trials if trial.id == parent), f"{TRIALS_NAME}/{trial_id}")
        values = {name: value for name, value in values.items() if "/" not in name}
        return Trial(trial_id, TrialStatus.QUEUED, values, share, directory, parent)

    def can_propose(self, trial_id: str, trials: Sequence[Trial]) -> bool:
        """Returns whether `propose` would return a trial, without a change of state."""
        return Oracle(*self._arguments, self.state()).propose(trial_id, trials) is not None

    def state(self) -> OracleState:
        """Returns a copy of the state besides the trials."""
        values = {name[1:]: getattr(self._oracle, name) for name in _STATE_FIELDS if hasattr(self._oracle, name)}
        return OracleState.from_json(values, "oracle")


def _tuner_trial(name: str, values: Mapping[str, Any]) -> tuner_trial.Trial:
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.values = dict(values)
    return tuner_trial.Trial(hyperparameters=hyperparameters, trial_id=name, status=_RUNNING)
