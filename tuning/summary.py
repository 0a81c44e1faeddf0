"""State of a study for reports: the trials grouped by config, the best one, and texts about them."""

import dataclasses
import itertools
import math
import os
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from sostenuto.text import counted
from trainer.workdir.layout import absolute
from tuning.space import Parameter, Space
from tuning.trial import SHARE_TOLERANCE, StudyConfig, Trial, TrialStatus, best_trial, count_states

BEST_CONFIG_NAME, BEST_NAME = "best_config.json", "best"

# A trial that is long enough has this many train_steps, and lasts this many times as long as its warm-up.
_FEWEST_TRAIN_STEPS, _WARMUPS = 100, 5


@dataclasses.dataclass(frozen=True)
class StudySummary:
    """State of a study."""

    trials: Sequence[Trial]  # in the order of their starts; the first one has the base config
    space: Space
    config: StudyConfig
    workdir: str
    data: str  # directory of the dataset

    @property
    def best(self) -> Trial | None:
        """The best trial, as `best_trial`."""
        return best_trial(self.trials)

    @property
    def chains(self) -> list["TrialChain"]:
        """The trials grouped by config, in the order of the first ones."""
        chains: dict[str, list[Trial]] = {}
        for trial in self.trials:
            chains.setdefault(trial.directory, []).append(trial)
        return [TrialChain(tuple(trials)) for trials in chains.values()]

    @property
    def first(self) -> "TrialChain | None":
        """The trials of the base config; None before the first one."""
        return self.chains[0] if self.trials else None

    def path(self, name: str) -> str:
        """Returns the absolute path of a file of the study."""
        return os.path.join(absolute(self.workdir), name)

    @property
    def train_flags(self) -> list[str]:
        """The trainer's flags for the best config at full length."""
        values = {"config": self.path(BEST_CONFIG_NAME), "data": absolute(self.data), "workdir": self.path(BEST_NAME)}
        return [f"--{name}={value}" for name, value in values.items()]

    @property
    def train_command(self) -> str:
        """The command that trains the best config at full length, to be pasted into a shell."""
        return shlex.join(["sostenuto", "train", *self.train_flags])

    def value(self, trial: Trial, parameter: Parameter) -> Any:
        """Returns a trial's value of a hyperparameter."""
        return trial.values.get(parameter.field, self.space.base_values[parameter.field])


@dataclasses.dataclass(frozen=True)
class TrialChain:
    """The trials of one config: a single one, or with hyperband one per rung, each continuing the previous one."""

    trials: tuple[Trial, ...]

    @property
    def last(self) -> Trial:
        """The latest trial."""
        return self.trials[-1]

    @property
    def last_scored(self) -> Trial | None:
        """The latest trial that ended with a score; None without one."""
        return next((trial for trial in reversed(self.trials) if trial.has_score), None)

    @property
    def curve(self) -> list[tuple[int, float, float]]:
        """The finite scores, as (train_step, share of the full length, nats/note)."""
        points = {
            score.train_step: (score.train_step, score.share, score.score)
            for trial in self.trials
            for score in trial.scores
            if score.score is not None
        }
        return [points[train_step] for train_step in sorted(points)]

    def score_at(self, share: float) -> float | None:
        """Returns the best score up to a share of the full length, interpolated linearly; None outside of scores."""
        _, shares, scores = zip(*self.curve, strict=True) if self.curve else ((), (), ())
        if not shares or not shares[0] - SHARE_TOLERANCE <= share <= shares[-1] + SHARE_TOLERANCE:
            return None
        return float(np.interp(share, shares, list(itertools.accumulate(scores, min))))


def format_summary(summary: StudySummary) -> list[str]:
    """Returns the results so far, in sentences."""
    trials, best = summary.trials, summary.best
    if not trials:
        return ["No trial has started."]
    counts = f"{counted(len(trials), 'trial')}: {count_states(trials)}."
    if len(summary.chains) < len(trials):
        counts += f" They try {counted(len(summary.chains), 'config')}: the better ones continue in further trials."
    if best is not None:
        return [counts, _describe_best(summary, best), *_describe_short_trials(summary)]
    if all(trial.status == TrialStatus.FAILED for trial in trials):
        return [counts, f"All failed, the last one with: {trials[-1].reason}."]
    if any(trial.status == TrialStatus.COMPLETED for trial in trials):
        return [counts, f"No trial of the greatest length completed, the last one failed with: {last_failure(trials)}."]
    return [counts, "None has completed yet."]


def _describe_best(summary: StudySummary, best: Trial) -> str:
    base_chain, *others = summary.chains
    length = "" if best.share == 1 else f" after {best.share:.0%} of the full length"
    text = f"The best, trial {best.id}, scores {best.score:.3f} nats/note on the validation split{length}"
    if best in base_chain.trials:
        suffix = ", which no other trial beat" if any(chain.last_scored for chain in others) else ""
        return f"{text}: it is the base config{suffix}."
    base = base_chain.last_scored
    if base is None or base.score is None or best.score is None:
        return f"{text}; the base config has no score to compare with."
    margin = base.score - best.score
    suffix = "" if base.share == best.share else f", after only {base.share:.0%} of the full length"
    side = "below" if margin >= 0 else "above"
    return f"{text}, {abs(margin):.3f} {side} the base config's {base.score:.3f}{suffix}."


def _describe_short_trials(summary: StudySummary) -> list[str]:
    """Returns a warning if trials are so short that they compare starts instead of results."""
    train_steps, warmup_steps = summary.config.train_steps, summary.space.start.warmup_steps
    enough = max(_WARMUPS * warmup_steps, _FEWEST_TRAIN_STEPS)
    if train_steps >= enough:
        return []
    warmup = f" (warm-up alone takes {warmup_steps:,})" if warmup_steps else ""
    return [
        f"A trial of {counted(train_steps, 'train_step')} is too short to trust this order{warmup}: early on, configs "
        "that make more train_steps of the same notes, such as short windows, look better than they are. "
        f"Search with --train_steps={enough} or more, and another --workdir."
    ]


def last_failure(trials: Sequence[Trial]) -> str:
    """Returns the reason of the last failed trial, or of the last trial if none has failed."""
    return next((trial.reason for trial in reversed(trials) if trial.status == TrialStatus.FAILED), trials[-1].reason)


def seconds_left(summary: StudySummary) -> float | None:
    """Returns an estimate of the study's remaining seconds; None before a trial has ended.

    Workers with recent trials share the work, at the mean duration of ended trials. Promotions do not count.
    """
    ended = [trial for trial in summary.trials if not trial.is_open]
    if not ended:
        return None
    open_trials = [trial for trial in summary.trials if trial.is_open]
    later_trials = max(summary.config.max_trials - len(summary.chains), 0)
    trials_left = later_trials + sum(1 - min(trial.trained_share / trial.share, 1) for trial in open_trials)
    # A worker between two trials counts too, although others may have started some since.
    recent = [*open_trials, *summary.trials[-2 * (len(open_trials) + 1) :]]
    workers = len({trial.worker for trial in recent})
    return trials_left * sum(trial.seconds for trial in ended) / len(ended) / workers


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Returns trials best first: completed ones by length and score, then others, failed ones last."""
    order = ("completed", "stopped", "running", "queued", "failed")

    def key(trial: Trial) -> tuple[int, float, float, str]:
        length = trial.share if trial.status == "completed" else 0.0
        return order.index(trial.status), -length, math.inf if trial.score is None else trial.score, trial.id

    return sorted(trials, key=key)


def format_value(value: Any) -> str:
    """Returns a hyperparameter's value as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
