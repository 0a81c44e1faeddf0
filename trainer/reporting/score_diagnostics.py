"""Warnings about a run's curves and scores, each with advice that can work for it; diagnose.py lists all.

Every diagnostic states its numbers. Advice names no flag value that the run already has, and nothing that its model or
its dataset rules out.
"""

import dataclasses
import math
from typing import Final, Literal, TypeAlias

from sostenuto.text import counted
from trainer.config import Config
from trainer.reporting.load import RunReport
from trainer.workdir.evaluation_formats import Evaluation, NatsPerNote
from trainer.workdir.formats import SCORED_FIELDS

Time: TypeAlias = Literal["step", "duration"]
TIMES: Final[tuple[Time, ...]] = ("step", "duration")

_OVERFITTING: Final = 0.005  # rise of the last validation score above the best one, relative
_IMPROVING: Final = 0.01  # fall of the validation score over the last quarter of a run, relative
_FAR_NATS: Final = 1.0  # a large difference in nats/note
_FEW_TRAIN_STEPS: Final = 100  # a run of fewer has hardly trained; a preset's warm-up alone is as long
_LEVEL_NATS: Final = 0.05  # a difference in nats/note that is too small to count


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """A diagnostic of a run: its title, its meaning with numbers, and a remedy."""

    title: str
    detail: str
    advice: str = ""
    is_warning: bool = True  # False if a part is missing and nothing is wrong


def diagnose_training(report: RunReport) -> list[Diagnostic]:
    """Returns the diagnostics of a run's curves."""
    config = report.config
    diagnostics = [_diagnose_unfinished(report)] if report.result is None else []
    if overfits(report):
        diagnostics.append(_diagnose_overfitting(report))
    # A regression model has no densities to score while it trains: `sostenuto evaluate` scores it.
    if not report.scores and config.model == "density" and (report.result is not None or not config.evaluate_every):
        diagnostics.append(_diagnose_unscored(report))
    return diagnostics


def _diagnose_unfinished(report: RunReport) -> Diagnostic:
    length = f" of {report.run.steps:,}" if report.run.steps else ""
    detail = f"Its last report is of train_step {report.records[-1].train_step:,}{length}."
    if report.config.evaluate_every and not report.scores:
        detail += f" The validation split is scored at train_step {report.config.evaluate_every:,} first."
    advice = "If the run was interrupted, repeat the training command: it resumes from the newest checkpoint."
    return Diagnostic("The run has not finished", detail, advice)


def _diagnose_unscored(report: RunReport) -> Diagnostic:
    if report.manifest and not report.manifest.notes("validation"):
        subject = "The dataset's validation split is empty"
        advice = "Preprocess the corpus again with a share for validation, such as --split_fractions=0.8,0.1,0.1."
    else:
        subject = "The run has no validation curve"
        command = report.command("evaluate", "--split=validation")
        advice = f"Pass --evaluate_every=500 in the next run. Score this one with {command}"
    title = "The validation split was never scored while training"
    return Diagnostic(title, f"{subject}, so that overfitting cannot be seen.", advice)


def overfits(report: RunReport) -> bool:
    """Returns whether the last validation score is clearly worse than the best one."""
    best = report.best_score
    return best is not None and report.scores[-1][1] > best[1] * (1 + _OVERFITTING)


def hardly_trained(train_step: int) -> bool:
    """Returns whether weights after so few train_steps say nothing about a model."""
    return train_step < _FEW_TRAIN_STEPS


def diagnose_comparison(name: str, evaluation: Evaluation) -> list[Diagnostic]:
    """Returns a diagnostic if a compared run hardly trained."""
    if not hardly_trained(evaluation.train_step):
        return []
    detail = (
        f"Its score on the {evaluation.split} split, {evaluation.nats_per_note['total']:.3f} nats/note, is of weights "
        f"after {counted(evaluation.train_step, 'train_step')}."
    )
    advice = "Train that run longer and score it again before you compare."
    return [Diagnostic(f"The compared run {name} hardly trained", detail, advice)]


def advise_longer_training(report: RunReport) -> str:
    """Returns advice to train longer; "" unless the run hardly trained, or its score still fell in its last quarter."""
    if hardly_trained(last := report.records[-1].train_step):
        return f"It was trained for {counted(last, 'train_step')} only: train longer."
    scores = report.scores
    before = [score for train_step, score in scores if train_step <= 0.76 * scores[-1][0]]
    if not before or scores[-1][1] > min(before) * (1 - _IMPROVING):
        return ""
    name = next(name for name in ("max_minutes", "epochs", "steps") if getattr(report.config, name))
    return (
        f"Train a new run for longer, such as --{name}={2 * getattr(report.config, name):g}: over the last quarter "
        f"of this one the validation score still fell, from {min(before):.3f} to {scores[-1][1]:.3f}."
    )


def _diagnose_overfitting(report: RunReport) -> Diagnostic:
    config = report.config
    assert report.best_score is not None
    (best_step, best), (last_step, last) = report.best_score, report.scores[-1]
    if config.monitor == "val_nats":
        kept = "The weights of the best score were kept."
        stop_early = [] if config.patience else ["--patience=3"]
    else:
        kept = "The weights of the lowest training loss were kept, which are later ones."
        stop_early = ["--monitor=val_nats --patience=3"]
    shorter = " or ".join([f"--steps={best_step}", *stop_early])
    flags = regularization_flags(config)
    return Diagnostic(
        "Overfitting: the validation score got worse while training went on",
        f"It was best at train_step {best_step:,}, {best:.3f} nats/note, and {last:.3f} at {last_step:,}: from there "
        f"on the model learned its own performances by heart. {kept}",
        f"More music helps most. Otherwise train a new run for fewer train_steps ({shorter})"
        + (f", or change what holds it back: {', '.join(flags)}." if flags else "."),
    )


def regularization_flags(config: Config) -> list[str]:
    """Returns flags that make overfitting less likely and that the run does not use yet."""
    flags = {
        "--train_fraction=1": config.train_fraction < 1,
        "--dropout=0.3": config.dropout < 0.3,
        "--transpose=6": config.transpose < 6,
        "--stretch=0.05": config.stretch < 0.05,
        f"--units={config.units // 2}": config.units >= 128,
    }
    return [flag for flag, is_unused in flags.items() if is_unused]


def compare_with_ngram(evaluation: Evaluation) -> str:
    """Returns whether a model is "ahead" of the n-gram, "level" with it or "behind" it; "" if that is unknown.

    They are level if the n-gram's score lies in the confidence interval of the model's score. The train split does not
    count: the n-gram was counted on it.
    """
    if not evaluation.baselines or evaluation.split == "train":
        return ""
    total, ngram = evaluation.nats_per_note["total"], evaluation.baselines["ngram"]["total"]
    low, high = evaluation.confidence_95["total"] if evaluation.confidence_95 else (total, total)
    if low <= ngram <= high or abs(total - ngram) < _LEVEL_NATS:
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
    total, *gaps = ngram_gaps(evaluation).values()
    by_field = ", ".join(
        f"{field} {abs(gap):.2f} {'ahead' if gap < 0 else 'behind'}" if abs(gap) >= 0.005 else f"{field} level"
        for field, gap in zip(SCORED_FIELDS[1:], gaps, strict=True)
    )
    if standing == "level":
        return f"The model and the n-gram are about level, {abs(total):.2f} nats/note apart: {by_field}."
    words = f"{'far ' if abs(total) >= _FAR_NATS else ''}{'ahead of' if standing == 'ahead' else 'behind'}"
    return f"The model is {words} the n-gram, by {abs(total):.2f} nats/note: {by_field}."


def diagnose_evaluation(evaluation: Evaluation, report: RunReport) -> list[Diagnostic]:
    """Returns the diagnostics of a split's scores compared with the n-gram's."""
    standing = compare_with_ngram(evaluation)
    if evaluation.baselines is None or standing not in ("level", "behind"):
        return []
    gaps = ngram_gaps(evaluation)
    far = "far " if gaps["total"] >= _FAR_NATS else ""
    title = "The n-gram is about level with this model"
    if standing == "behind":
        title = f"The n-gram is {far}ahead of this model, by {gaps['total']:.2f} nats/note"
        histogram = evaluation.baselines.get("histogram", {}).get("total", math.inf)
        if (behind := evaluation.nats_per_note["total"] - histogram) > 0:
            title = f"Even the histogram is ahead of this model, by {behind:.2f} nats/note"
    detail = (
        f"On the {evaluation.split} split the model has {evaluation.nats_per_note['total']:.3f} nats/note "
        f"({evaluation.describe_interval()}), and the n-gram, which only counts the values that followed the same few "
        f"notes, has {evaluation.baselines['ngram']['total']:.3f}. {describe_ngram_gaps(evaluation)}"
    )
    if title.startswith("Even"):
        detail += f" The histogram, which only counts how often each value occurs, has {histogram:.3f}."
    return [Diagnostic(title, detail, _advise_against_ngram(report))]


def _advise_against_ngram(report: RunReport) -> str:
    config = report.config
    if hardly_trained(report.records[-1].train_step):
        return advise_longer_training(report)
    if config.model == "regression":
        return (
            "A model=regression gives one value for step and for duration, so that its score depends on how widely its "
            "errors are spread. Train with --preset=base, which gives a distribution of each."
        )
    if overfits(report):
        return "See the warning about overfitting above."
    return advise_longer_training(report) or (
        f"More music helps most. Otherwise try another --learning_rate than {config.learning_rate:g}, or a larger "
        f"model, such as --units={2 * config.units}."
    )
