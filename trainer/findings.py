"""What stands out in a run, in plain words, and what to do about it: pure Python over what a workdir says.

Thresholds are where a musician or a look at the curves would say the same; the figures are always told with them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from trainer import judging
from trainer.samples import Samples
from trainer.workdir import Result

_RISE: Final = 0.005  # of the best validation score, by which the last one must be worse to speak of overfitting
_COPIED_NOTES: Final = 16  # a shorter run is common property: a scale, a trill, a cadence
_TIMES_REAL: Final = 2  # so many times what real music does is remarkable
_REPEATED_SHARE: Final = 0.1  # of 8-grams, beyond that of real music
_COLLAPSED: Final = 0.6  # of real music's entropy, below which the times of notes have collapsed


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to know.

    Attributes:
        is_warning: whether something is wrong, and not only missing.
        title: what, in a few words.
        told: what that means, with its figures.
        advice: what to do.
    """

    is_warning: bool
    title: str
    told: str
    advice: str


def of_training(
    reports: Sequence[Mapping[str, Any]], result: Result | None, planned: int | None, monitor: str
) -> list[Finding]:
    """What the curves of a run tell.

    Args:
        reports: the lines of metrics.jsonl.
        result: how the run ended, or None if it has not.
        planned: its length in train_steps, where that is known.
        monitor: what its best weights are chosen by.
    """
    found = []
    if result is None:
        length = f" of {planned:,}" if planned else ""
        found.append(
            Finding(
                True,
                "The run has not finished",
                f"It has come to train_step {reports[-1]['train_step']:,}{length}.",
                "The same training command goes on from the newest checkpoint.",
            )
        )
    scores = [(report["train_step"], report["val_nats"]) for report in reports if "val_nats" in report]
    if not scores:
        found.append(
            Finding(
                True,
                "The validation split was never scored",
                "Without scores nobody can tell whether the model learned music or this music by heart.",
                "Train with --evaluate_every=500, on a dataset with a validation split.",
            )
        )
        return found
    best_step, best = min(scores, key=lambda score: score[1])
    last_step, last = scores[-1]
    if last > best * (1 + _RISE):
        kept = "The weights of the best score were kept." if monitor == "val_nats" else "Its last weights were kept."
        found.append(
            Finding(
                True,
                "Overfitting: the validation score got worse while training went on",
                f"It was best, {best:.3f} nats/note, at train_step {best_step:,}, and {last:.3f} at {last_step:,}: "
                f"from there on the model learned its own performances by heart. {kept}",
                "Train for fewer train_steps, or with --patience=3; more --dropout, --transpose and --stretch, fewer "
                "--units, and above all more music help.",
            )
        )
    return found


def of_evaluation(evaluation: Mapping[str, Any]) -> list[Finding]:
    """What the scores of a split tell beside those of models that only count."""
    baselines = evaluation.get("baselines")
    total = evaluation["nats_per_note"]["total"]
    if not baselines or total < baselines["ngram"]["total"]:
        return []
    return [
        Finding(
            True,
            "Counting does as well as this model",
            f"On the {evaluation['split']} split it has {total:.3f} nats/note, and an n-gram, which only counts what "
            f"followed the same few notes, {baselines['ngram']['total']:.3f}.",
            "Train for longer; if the curves are flat already, with a higher --learning_rate or another preset.",
        )
    ]


def of_generated(generated: Mapping[str, Any]) -> list[Finding]:
    """What the judgement of a split tells of the music that the model plays."""
    found = []
    split = generated["split"]
    copied, real = generated["copied_run"]["generated"], generated["copied_run"]["real"]
    if copied["max"] >= _COPIED_NOTES and (
        copied["max"] > _TIMES_REAL * real["max"] or copied["mean"] > _TIMES_REAL * real["mean"]
    ):
        found.append(
            Finding(
                True,
                "It copies from what it was trained on",
                f"The longest run of notes that stands in a training performance is {copied['max']} notes, "
                f"{copied['mean']:.1f} on the mean; in the real continuations of the same primers {real['max']} and "
                f"{real['mean']:.1f}.",
                "Use weights from before it overfitted, more music or more --transpose and --stretch; a higher "
                "--temperature when playing.",
            )
        )
    repeated = {music: generated["repeated_8grams"][music]["mean"] for music in ("generated", "real")}
    loop = {music: generated["longest_loop"][music]["mean"] for music in ("generated", "real")}
    if repeated["generated"] > _TIMES_REAL * repeated["real"] + _REPEATED_SHARE or loop["generated"] > (
        _TIMES_REAL * loop["real"] + 8
    ):
        found.append(
            Finding(
                True,
                "It repeats itself",
                f"{repeated['generated']:.0%} of all sequences of 8 pitches were played before in the same "
                f"continuation (real music: {repeated['real']:.0%}), and its longest loops have "
                f"{loop['generated']:.0f} notes on the mean (real music: {loop['real']:.0f}).",
                "Play with a higher --temperature or --top_p; if that does not help, train for longer.",
            )
        )
    counts = generated.get("counts")
    if counts:
        bins = {name: {music: np.array(counts[music][name]) for music in counts} for name in ("step", "duration")}
        found += [
            _collapsed(name, music["generated"], music["real"], f"the {split} split")
            for name, music in bins.items()
            if _entropy(music["generated"]) < _COLLAPSED * _entropy(music["real"])
        ]
    return found


def of_samples(samples: Samples) -> list[Finding]:
    """What the samples alone tell: whether their rhythm is as varied as that of their primers."""
    both = [one for one in samples.samples if 2 <= one.primer_notes <= len(one.notes) - 2]
    if not both:
        return []
    real = judging.total(judging.histograms(one.notes[: one.primer_notes]) for one in both)
    played = judging.total(judging.histograms(one.notes, one.primer_notes) for one in both)
    return [
        _collapsed(name, played[name], real[name], "their primers")
        for name in ("step", "duration")
        if _entropy(played[name]) < _COLLAPSED * _entropy(real[name])
    ]


def of_other_weights(train_step: int, best_train_step: int, what: str, advice: str) -> list[Finding]:
    """Whether something was made with other weights than those that are the best now."""
    if train_step == best_train_step:
        return []
    told = f"It was made with the weights of train_step {train_step:,}; the best ones now are of {best_train_step:,}."
    return [Finding(True, f"{what} is of other weights", told, advice)]


def _collapsed(name: str, played: np.ndarray, real: np.ndarray, where: str) -> Finding:
    return Finding(
        True,
        f"The rhythm has collapsed: {name}s are nearly all alike",
        f"The {name}s that it plays have an entropy of {_entropy(played):.1f} bits, those of real music, {where}, "
        f"{_entropy(real):.1f}.",
        "A model=regression predicts the mean of what may follow, and that is what this sounds like: train with "
        "model=density (the preset base). If it has it, train for longer, and play with --temperature=1.",
    )


def _entropy(counts: np.ndarray) -> float:
    """In bits."""
    share = counts[counts > 0] / counts.sum()
    return float(-np.sum(share * np.log2(share))) + 0.0
