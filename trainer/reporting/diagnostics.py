"""Findings about a run, in plain words, each with advice that can work for it: pure Python over a workdir's files.

Thresholds are where a musician or a look at the curves would say the same; a finding always has its figures. Advice
names no flag value that the run has already, and nothing that its model or its dataset rules out.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import FIELDS
from trainer.config import Config
from trainer.evaluation import generation_metrics
from trainer.generation.samples import Samples
from trainer.model.time_bins import spread_nats
from trainer.workdir.formats import RunResult

_RISE: Final = 0.005  # of the best validation score, by which the last one must be worse to speak of overfitting
_FALL: Final = 0.01  # of a validation score, by which the last quarter of a run must have bettered it
_LEVEL_NATS: Final = 0.05  # a difference in nats/note that is none
_FAR_NATS: Final = 1.0  # a difference in nats/note that is large
_COPIED_NOTES: Final = 16  # a shorter run is common property: a scale, a trill, a cadence
_TIMES_REAL: Final = 2  # so many times what real music does is remarkable
_REPEATED_SHARE: Final = 0.1  # of 8-grams, beyond that of real music
_COLLAPSED: Final = 0.6  # of real music's entropy, below which the times of notes have collapsed
_TIMES: Final = ("step", "duration")
_FEW_TICKS: Final = 0.99  # of the notes, whose times are counted as the values that a field takes


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """A finding about a run.

    Attributes:
        is_warning: whether something is wrong, and not only missing.
        title: the finding in a few words.
        told: its meaning, with its figures.
        advice: what to do.
    """

    is_warning: bool
    title: str
    told: str
    advice: str


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What decides which advice can work for a run.

    Attributes:
        config: the run's config.
        reports: the lines of metrics.jsonl by train_step, at least one.
        result: how the run ended, or None.
        planned: its length in train_steps, where that is known.
        histograms: of the dataset's train split, or None where the dataset is not at hand.
    """

    config: Config
    reports: Sequence[Mapping[str, Any]]
    result: RunResult | None
    planned: int | None
    histograms: Histograms | None

    @property
    def scores(self) -> list[tuple[int, float]]:
        """The validation scores, as (train_step, nats/note)."""
        return [(report["train_step"], report["val_nats"]) for report in self.reports if "val_nats" in report]

    @property
    def overfits(self) -> bool:
        """Whether the validation score got worse while training went on."""
        scores = self.scores
        return bool(scores) and scores[-1][1] > min(score for _, score in scores) * (1 + _RISE)

    @property
    def longer(self) -> str:
        """Advice to train for longer; "" unless the validation score still fell in the last quarter of the run."""
        scores = self.scores
        before = [score for train_step, score in scores if train_step <= 0.76 * scores[-1][0]]
        if not before or scores[-1][1] > min(before) * (1 - _FALL):
            return ""
        name = next(name for name in ("max_minutes", "epochs", "steps") if getattr(self.config, name))
        return (
            f"Train a new run for longer, such as --{name}={2 * getattr(self.config, name):g}: over the last quarter "
            f"of this one the validation score still fell, from {min(before):.3f} to {scores[-1][1]:.3f}."
        )


def of_training(run: Circumstances, score: str | None) -> list[Diagnostic]:
    """Returns the findings of a run's curves.

    Args:
        run: the run.
        score: the command that scores the validation split; None where it has no notes to score.
    """
    found = []
    config, scores = run.config, run.scores
    if run.result is None:
        length = f" of {run.planned:,}" if run.planned else ""
        told = f"Its last report is of train_step {run.reports[-1]['train_step']:,}{length}."
        if config.evaluate_every and not scores:
            told += f" The validation split is scored at train_step {config.evaluate_every:,} first."
        advice = "If the run was interrupted, repeat the training command: it resumes from the newest checkpoint."
        found.append(Diagnostic(True, "The run has not finished", told, advice))
    if run.overfits:
        found.append(_overfitting(run))
    # A regression model has no densities that could be scored while it trains: it is scored by trainer.evaluate.
    if not scores and config.model == "density" and (run.result is not None or not config.evaluate_every):
        if score is None:
            told = "The dataset's validation split is empty, so that overfitting cannot be seen."
            advice = "Preprocess the corpus again with a share for validation, such as --split_fractions=0.8,0.1,0.1."
        else:
            told = "The run has no validation curve, so that overfitting cannot be seen."
            advice = f"Pass --evaluate_every=500 in the next run. Score this one with {score}"
        found.append(Diagnostic(True, "The validation split was never scored while training", told, advice))
    return found


def _overfitting(run: Circumstances) -> Diagnostic:
    config = run.config
    best_step, best = min(run.scores, key=lambda score: score[1])
    last_step, last = run.scores[-1]
    if config.monitor == "val_nats":
        kept = "The weights of the best score were kept."
        earlier = [] if config.patience else ["--patience=3"]
    else:
        kept = "The weights of the lowest training loss were kept, which are later ones."
        earlier = ["--monitor=val_nats --patience=3"]
    shorter = " or ".join([f"--steps={best_step}", *earlier])
    flags = _against_overfitting(config)
    return Diagnostic(
        True,
        "Overfitting: the validation score got worse while training went on",
        f"It was best at train_step {best_step:,}, {best:.3f} nats/note, and {last:.3f} at {last_step:,}: from there "
        f"on the model learned its own performances by heart. {kept}",
        f"More music helps most. Otherwise train a new run for fewer train_steps ({shorter})"
        + (f", or change what holds it back: {', '.join(flags)}." if flags else "."),
    )


def _against_overfitting(config: Config) -> list[str]:
    """Returns flags that make overfitting less likely, as far as the run has not used them yet."""
    return [
        *(["--train_fraction=1"] if config.train_fraction < 1 else []),
        *(["--dropout=0.3"] if config.dropout < 0.3 else []),
        *(["--transpose=6"] if config.transpose < 6 else []),
        *(["--stretch=0.05"] if config.stretch < 0.05 else []),
        *([f"--units={config.units // 2}"] if config.units >= 128 else []),
    ]


def standing(evaluation: Mapping[str, Any]) -> str:
    """Returns how a model's score compares with the n-gram's: ahead, level or behind; "" where that is not known.

    It is level where the n-gram's score lies in the interval of the model's. On the train split, on which the n-gram
    counted, its score says little.
    """
    baselines = evaluation.get("baselines")
    if not baselines or evaluation["split"] == "train":
        return ""
    counting = baselines["ngram"]["total"]
    low, high = evaluation["confidence_95"]["total"]
    if low <= counting <= high or abs(evaluation["nats_per_note"]["total"] - counting) < _LEVEL_NATS:
        return "level"
    return "ahead" if counting > high else "behind"


def against_counting(evaluation: Mapping[str, Any]) -> str:
    """Returns how far the model is ahead of the n-gram or behind it, in total and by field; "" where not known."""
    where = standing(evaluation)
    if not where:
        return ""
    gaps = _gaps(evaluation)
    by_field = ", ".join(_gap(field, gaps[field]) for field in ("pitch", "step", "duration"))
    total = gaps["total"]
    far = "far " if abs(total) >= _FAR_NATS else ""
    if where == "level":
        return f"The model and the n-gram are about level, {abs(total):.2f} nats/note apart: {by_field}."
    words = f"{far}ahead of" if where == "ahead" else f"{far}behind"
    return f"The model is {words} the n-gram, by {abs(total):.2f} nats/note: {by_field}."


def _gaps(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """By how many nats/note the model's scores are above the n-gram's, which is worse."""
    nats, counting = evaluation["nats_per_note"], evaluation["baselines"]["ngram"]
    return {name: nats[name] - counting[name] for name in ("total", "pitch", "step", "duration")}


def _gap(field: str, gap: float) -> str:
    return f"{field} {abs(gap):.2f} {'ahead' if gap < 0 else 'behind'}" if abs(gap) >= 0.005 else f"{field} level"


def of_evaluation(evaluation: Mapping[str, Any], run: Circumstances) -> list[Diagnostic]:
    """Returns the findings of a split's scores beside those of models that only count."""
    where = standing(evaluation)
    if where not in ("level", "behind"):
        return []
    gap = _gaps(evaluation)["total"]
    far = "far " if gap >= _FAR_NATS else ""
    title = {
        "level": "Counting is about level with this model",
        "behind": f"Counting is {far}ahead of this model, by {gap:.2f} nats/note",
    }[where]
    low, high = evaluation["confidence_95"]["total"]
    told = (
        f"On the {evaluation['split']} split the model has {evaluation['nats_per_note']['total']:.3f} nats/note "
        f"({low:.3f} to {high:.3f}), and an n-gram, which only counts the values that followed the same few notes, has "
        f"{evaluation['baselines']['ngram']['total']:.3f}. {against_counting(evaluation)}"
    )
    if run.config.model == "regression":
        advice = (
            "A model=regression gives one value for step and for duration, so that its score depends on how widely its "
            "errors are spread. Train with --preset=base, which gives a distribution of each."
        )
        return [Diagnostic(True, title, told, advice)]
    grid = _of_grid(run)
    spread = sum(grid.values())
    if grid:
        told += (
            f" {_strict_time(run, grid)} The n-gram counts exact ticks of 10 ms. The model gives all ticks of a bin "
            f"the same probability, which costs it {spread:.2f} nats/note on this corpus "
            f"({', '.join(f'{field} {nats:.2f}' for field, nats in grid.items())}), however long it is trained."
        )
    if grid and gap - spread < _LEVEL_NATS and _gaps(evaluation)["pitch"] < _LEVEL_NATS:
        advice = (
            "Compare it with the n-gram by pitch, and by the total only with other runs of --model=density, to which "
            "that cost is common."
        )
    elif run.overfits:
        advice = "See the warning about overfitting above."
    else:
        advice = run.longer or (
            "More music helps most. Otherwise try another --learning_rate than "
            f"{run.config.learning_rate:g}, or a larger model, such as --units={2 * run.config.units}."
        )
    return [Diagnostic(True, title, told, advice)]


def _of_grid(run: Circumstances) -> dict[str, float]:
    """Returns the nats/note that the model's bins cost on this dataset, by field, where that is more than a little."""
    if run.histograms is None or run.config.time_distribution != "bins":
        return {}
    costs = {field: spread_nats(getattr(run.histograms, field)) for field in _TIMES}
    return {field: cost for field, cost in costs.items() if cost >= _LEVEL_NATS}


def _strict_time(run: Circumstances, fields: Iterable[str]) -> str:
    """Returns how few values fields take in the train split."""
    few = " and ".join(f"one of {_values(getattr(run.histograms, field))} {field}s" for field in fields)
    return f"The corpus is in strict time: {_FEW_TICKS:.0%} of its notes have {few}."


def _values(counts: NDArray[np.integer]) -> int:
    """Returns the number of ticks that nearly all notes have."""
    cumulative = np.cumsum(np.sort(counts)[::-1])
    return int(np.searchsorted(cumulative, _FEW_TICKS * cumulative[-1])) + 1


def of_generated(generated: Mapping[str, Any], run: Circumstances) -> list[Diagnostic]:
    """Returns the findings of the comparison of what the model plays with a split's music."""
    found = []
    config = run.config
    temperature, top_p = (_by_field(generated[name]) for name in ("temperature", "top_p"))
    copied, real = generated["copied_run"]["generated"], generated["copied_run"]["real"]
    if copied["max"] >= _COPIED_NOTES and (
        copied["max"] > _TIMES_REAL * real["max"] or copied["mean"] > _TIMES_REAL * real["mean"]
    ):
        flags = [
            *(["--monitor=val_nats"] if config.monitor == "loss" and config.model == "density" else []),
            *_against_overfitting(config),
        ]
        found.append(
            Diagnostic(
                True,
                "The model copies its training music",
                f"The longest run of notes that also occurs in a training performance has {copied['max']} notes, "
                f"{copied['mean']:.1f} on average; in the real continuations of the same primers {real['max']} and "
                f"{real['mean']:.1f}.",
                f"Play with a --temperature above {temperature['pitch']:g}, or train on more music"
                + (f"; or train a new run with {', '.join(flags)}." if flags else "."),
            )
        )
    repeated = {music: generated["repeated_8grams"][music]["mean"] for music in ("generated", "real")}
    loop = {music: generated["longest_loop"][music]["mean"] for music in ("generated", "real")}
    if repeated["generated"] > _TIMES_REAL * repeated["real"] + _REPEATED_SHARE or loop["generated"] > (
        _TIMES_REAL * loop["real"] + 8
    ):
        higher = f"--temperature above {temperature['pitch']:g}"
        if top_p["pitch"] < 1:
            higher += f", or a --top_p above {top_p['pitch']:g}"
        found.append(
            Diagnostic(
                True,
                "The music repeats itself",
                f"{repeated['generated']:.0%} of all sequences of 8 pitches occurred before in the same continuation "
                f"(real music: {repeated['real']:.0%}), and the longest loops have {loop['generated']:.0f} notes on "
                f"average (real music: {loop['real']:.0f}).",
                f"Play with a {higher}. {run.longer}".strip(),
            )
        )
    counts = generated["counts"]
    bins = {name: {music: np.array(counts[music][name]) for music in counts} for name in _TIMES}
    found += [
        _collapsed(name, music["generated"], music["real"], f"the {generated['split']} split", run, temperature, top_p)
        for name, music in bins.items()
        if _entropy(music["generated"]) < _COLLAPSED * _entropy(music["real"])
    ]
    return found


def of_samples(samples: Samples, run: Circumstances) -> list[Diagnostic]:
    """Returns the findings of the samples alone: a rhythm that is much less varied than that of their primers."""
    both = [one for one in samples.samples if 2 <= one.primer_notes <= len(one.notes) - 2]
    if not both:
        return []
    real = generation_metrics.total(generation_metrics.histograms(one.notes[: one.primer_notes]) for one in both)
    played = generation_metrics.total(generation_metrics.histograms(one.notes, one.primer_notes) for one in both)
    temperature, top_p = (_by_field(samples.document.get(name, 1.0)) for name in ("temperature", "top_p"))
    return [
        _collapsed(name, played[name], real[name], "their primers", run, temperature, top_p)
        for name in _TIMES
        if _entropy(played[name]) < _COLLAPSED * _entropy(real[name])
    ]


def _by_field(value: float | Mapping[str, float]) -> dict[str, float]:
    """Returns a number for each field, of one for all of them or of some."""
    return dict.fromkeys(FIELDS, 1.0) | (dict(value) if isinstance(value, Mapping) else dict.fromkeys(FIELDS, value))


def of_other_weights(train_step: int, best_train_step: int, subject: str, advice: str) -> list[Diagnostic]:
    """Returns a finding if something was made with other weights than the current best."""
    if train_step == best_train_step:
        return []
    told = f"It was made with the weights of train_step {train_step:,}; the best are now those of {best_train_step:,}."
    return [Diagnostic(True, f"{subject} is of other weights", told, advice)]


def _collapsed(
    name: str,
    played: np.ndarray,
    real: np.ndarray,
    where: str,
    run: Circumstances,
    temperature: Mapping[str, float],
    top_p: Mapping[str, float],
) -> Diagnostic:
    if run.config.model == "regression":
        advice = (
            "A model=regression predicts the mean of the times that may follow, and this is its sound. Train with "
            "--preset=base, which predicts their distribution."
        )
    elif temperature[name] < 1 or top_p[name] < 1:
        flags = [flag for flag, value in (("temperature", temperature), ("top_p", top_p)) if value[name] < 1]
        advice = f"Play with {' and '.join(f'--{flag}=1' for flag in flags)}."
    else:
        advice = run.longer or f"Play with a higher temperature for {name}, such as --temperature=1,{name}=1.2."
    return Diagnostic(
        True,
        f"The rhythm has collapsed: {name}s are nearly all alike",
        f"The {name}s of the generated music have an entropy of {_entropy(played):.1f} bits, those of real music, "
        f"{where}, {_entropy(real):.1f}.",
        advice,
    )


def _entropy(counts: np.ndarray) -> float:
    """In bits."""
    share = counts[counts > 0] / counts.sum()
    return float(-np.sum(share * np.log2(share))) + 0.0
