"""Diagnostics of the music that a model generates: copies, repetition and collapsed rhythm."""

from collections.abc import Mapping
from typing import Any, Final, get_args

import numpy as np

from trainer.evaluation.distributions import count_bins, entropy, sum_counts
from trainer.reporting.load import RunReport
from trainer.reporting.score_diagnostics import TIMES, Diagnostic, Time, advise_longer_training, regularization_flags
from trainer.workdir.evaluation_formats import GenerationEvaluation, Summary
from trainer.workdir.formats import Continuation, Field

_COPIED_NOTES: Final = 16  # shorter runs of equal notes are common: scales, trills, cadences
_TIMES_REAL: Final = 2  # ratio to real music that is remarkable
_REPEATED: Final = 0.1  # fraction of repeated 8-grams above that of real music
_LOOP_NOTES: Final = 8  # notes of a loop above those of real music
_COLLAPSED: Final = 0.6  # ratio of entropies of times, generated to real, below which the rhythm has collapsed

Sampling = Mapping[str, Mapping[Field, float]]
"""Temperature and top_p by field, by name."""


def diagnose_generated(generated: GenerationEvaluation, report: RunReport) -> list[Diagnostic]:
    """Returns the diagnostics of a comparison of generated with real music."""
    sampling = {"temperature": generated.temperature, "top_p": generated.top_p}
    counts, real_name = generated.counts, f"the {generated.split} split"
    return [
        *_diagnose_copies(generated.copied_run, report, sampling["temperature"]["pitch"]),
        *_diagnose_repetition(generated, report, sampling),
        *_diagnose_rhythm(counts["generated"], counts["real"], real_name, report, sampling),
    ]


def diagnose_samples(report: RunReport) -> list[Diagnostic]:
    """Returns the diagnostics of the samples alone: a rhythm that is much less varied than that of their primers."""
    assert report.samples is not None
    samples = [sample for sample in report.samples.samples if 2 <= sample.primer_notes <= len(sample.notes) - 2]
    if not samples:
        return []
    real = sum_counts(count_bins(sample.notes, sample.is_primer) for sample in samples)
    generated = sum_counts(count_bins(sample.notes, ~sample.is_primer) for sample in samples)
    index = report.samples.index
    sampling = {"temperature": _by_field(index.temperature), "top_p": _by_field(index.top_p)}
    return _diagnose_rhythm(generated, real, "their primers", report, sampling)


def _by_field(value: float | Mapping[Field, float]) -> Mapping[Field, float]:
    """Returns a number for each field, also if the value is one number for all."""
    return value if isinstance(value, Mapping) else dict.fromkeys(get_args(Field), value)


def _diagnose_copies(copied: Mapping[Continuation, Summary], report: RunReport, temperature: float) -> list[Diagnostic]:
    generated, real = copied["generated"], copied["real"]
    is_remarkable = generated.max > _TIMES_REAL * real.max or generated.mean > _TIMES_REAL * real.mean
    if generated.max < _COPIED_NOTES or not is_remarkable:
        return []
    config = report.config
    monitor = ["--monitor=val_nats"] if config.monitor == "loss" and config.model == "density" else []
    flags = [*monitor, *regularization_flags(config)]
    detail = (
        f"The longest run of notes that also occurs in a training performance has {generated.max} notes, "
        f"{generated.mean:.1f} on average; in the real continuations of the same primers {real.max} and "
        f"{real.mean:.1f}."
    )
    advice = f"Play with a --temperature above {temperature:g}, or train on more music"
    advice += f"; or train a new run with {', '.join(flags)}." if flags else "."
    return [Diagnostic("The model copies its training music", detail, advice)]


def _diagnose_repetition(generated: GenerationEvaluation, report: RunReport, sampling: Sampling) -> list[Diagnostic]:
    repeated, loop = generated.repeated_8grams, generated.longest_loop
    has_repeats = repeated["generated"].mean > _TIMES_REAL * repeated["real"].mean + _REPEATED
    has_loops = loop["generated"].mean > _TIMES_REAL * loop["real"].mean + _LOOP_NOTES
    if not (has_repeats or has_loops):
        return []
    temperature, top_p = sampling["temperature"]["pitch"], sampling["top_p"]["pitch"]
    higher = f"--temperature above {temperature:g}" + (f", or a --top_p above {top_p:g}" if top_p < 1 else "")
    higher += f", or with --returns below {generated.returns:g}" if generated.returns else ""
    detail = (
        f"{repeated['generated'].mean:.0%} of all sequences of 8 pitches occurred before in the same continuation "
        f"(real music: {repeated['real'].mean:.0%}), and the longest loops have {loop['generated'].mean:.0f} notes on "
        f"average (real music: {loop['real'].mean:.0f})."
    )
    advice = f"Play with a {higher}. {advise_longer_training(report)}".strip()
    return [Diagnostic("The music repeats itself", detail, advice)]


def _diagnose_rhythm(
    generated: Mapping[str, Any], real: Mapping[str, Any], real_name: str, report: RunReport, sampling: Sampling
) -> list[Diagnostic]:
    """Returns a diagnostic for each time whose histogram has collapsed."""
    diagnostics = []
    for name in TIMES:
        bits, real_bits = (entropy(np.asarray(counts[name])) for counts in (generated, real))
        if bits < _COLLAPSED * real_bits:
            title = f"The rhythm has collapsed: {name}s are nearly all alike"
            detail = (
                f"The {name}s of the generated music have an entropy of {bits:.1f} bits, those of real music, "
                f"{real_name}, {real_bits:.1f}."
            )
            diagnostics.append(Diagnostic(title, detail, _advise_rhythm(name, report, sampling)))
    return diagnostics


def _advise_rhythm(name: Time, report: RunReport, sampling: Sampling) -> str:
    if report.config.model == "regression":
        return (
            "A model=regression predicts the mean of the times that may follow, and this is its sound. Train with "
            "--preset=base, which predicts their distribution."
        )
    if lowered := [flag for flag, by_field in sampling.items() if by_field[name] < 1]:
        return f"Play with {' and '.join(f'--{flag}=1' for flag in lowered)}."
    return advise_longer_training(report) or (
        f"Play with a higher temperature for {name}, such as --temperature=1,{name}=1.2."
    )
