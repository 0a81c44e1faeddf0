"""Evaluations as lines of text."""

from collections.abc import Mapping
from typing import Final

from sostenuto.text import counted, table
from trainer.workdir.evaluation_formats import ComposerStatistics, Evaluation, GenerationEvaluation, NatsPerNote
from trainer.workdir.form_formats import DISTANCES, SPANS
from trainer.workdir.formats import CONTINUATIONS, SCORED_FIELDS

_SHOWN: Final = {"pitch": ".1f", "notes/s": ".1f", "velocity": ".0f", "in chords": ".0%"}
COMPOSER_COLUMNS: Final = ("mean", *_SHOWN)
"""The columns of a table of composers, with some statistics; generated-SPLIT.json has all."""


def describe_scores(evaluation: Evaluation, dataset: str) -> str:
    """Returns a line of scores, one of the baselines and, if there are several composers, one for each."""
    lines = [
        f"{evaluation.split}: {evaluation.nats_per_note['total']:.3f} nats/note ({evaluation.describe_interval()}) = "
        f"{_by_field(evaluation.nats_per_note, named=True)}; pitch right {evaluation.pitch_top1:.1%}, among the first "
        f"five {evaluation.pitch_top5:.1%}; step within 30 ms {evaluation.step_within_30ms:.1%}; "
        f"{counted(evaluation.notes, 'note')} of {dataset}"
    ]
    if evaluation.baselines:
        named = {"n-gram": evaluation.baselines["ngram"], "histogram": evaluation.baselines["histogram"]}
        scores = (f"{name} {nats['total']:.3f} = {_by_field(nats)}" for name, nats in named.items())
        lines.append(f"baselines: {'; '.join(scores)}")
    if part := evaluation.unshared:
        shared = evaluation.performances - part.performances
        lines.append(
            f"without {counted(shared, 'performance')} of pieces that other splits have too: "
            f"{part.nats_per_note['total']:.3f} = {_by_field(part.nats_per_note)}; {counted(part.notes, 'note')}"
        )
    if ending := evaluation.ending:
        lines.append(
            f"end of a performance: {ending.nats_per_performance:.2f} nats, scored apart; "
            f"{ending.constant:.2f} if it were equally likely after each note"
        )
    if gain := evaluation.composer_gain:
        interval = f" ({gain.confidence_95[0]:.4f} to {gain.confidence_95[1]:.4f})" if gain.confidence_95 else ""
        lines.append(
            f"without the composers' names {gain.without['total']:.3f}: where the model knows the composer, the name "
            f"gains {gain.total:.4f} nats/note{interval}"
        )
    if len(evaluation.by_composer) > 1:
        width = max(map(len, evaluation.by_composer))
        lines += [
            f"  {name:{width}} {scores.nats_per_note['total']:7.3f} = {_by_field(scores.nats_per_note)}; "
            f"{counted(scores.notes, 'note')} of {counted(scores.performances, 'performance')}"
            for name, scores in evaluation.by_composer.items()
        ]
    return "\n".join(lines)


def _by_field(nats: NatsPerNote, *, named: bool = False) -> str:
    """Returns the parts of a total, as 1.000 + 2.000 + 3.000."""
    return " + ".join(f"{f'{field} ' * named}{nats[field]:.3f}" for field in SCORED_FIELDS[1:])


def describe_comparison(comparison: GenerationEvaluation, dataset: str) -> str:
    """Returns the tables of distances and of each continuation's metrics."""
    distances = [
        [name.replace("_", " "), *(f"{pair[kind].overlap:.3f}" for kind in CONTINUATIONS)]
        + [f"{pair[kind].kl:.3f}" for kind in CONTINUATIONS]
        for name, pair in comparison.distributions.items()
    ]
    distances.append(["mean", *(f"{comparison.mean_overlap[kind]:.3f}" for kind in CONTINUATIONS), "", ""])
    metrics = [
        [title, *(f"{summaries[kind].mean:{mean}} ({summaries[kind].max:{most}})" for kind in CONTINUATIONS)]
        for title, summaries, mean, most in (
            ("pitch-class entropy, bits", comparison.pitch_class_entropy, ".2f", ".2f"),
            ("longest loop, notes", comparison.longest_loop, ".1f", ".0f"),
            ("repeated 8-grams of pitches", comparison.repeated_8grams, ".1%", ".1%"),
            *(
                (f"repeated, {distance} notes back", comparison.repeated_notes[distance], ".1%", ".1%")
                for distance in DISTANCES
            ),
            *((f"structure, {span}", comparison.structure[span], ".3f", ".3f") for span in SPANS),
            ("longest run copied from train", comparison.copied_run, ".1f", ".0f"),
        )
    ]
    lines = [
        f"{comparison.split}: {counted(len(comparison.primers), 'continuation')} of "
        f"{counted(comparison.num_notes, 'note')}, and the performers' own, each compared with other pieces of "
        f"{counted(comparison.held_out.performances, 'performance')} of {dataset}",
        "",
        *table(["", "overlap: generated", "real", "KL, nats: generated", "real"], distances, align="<>>>>", width=None),
        "",
        *table(["mean (maximum)", "generated", "real"], metrics, align="<>>", width=None),
    ]
    if comparison.by_composer:
        rows = composer_rows(comparison.by_composer)
        lines += ["", *table(COMPOSER_COLUMNS, rows, align="<" + ">" * (len(COMPOSER_COLUMNS) - 1), width=None)]
    if lengths := comparison.lengths:
        means = ", ".join(f"{lengths.mean[kind]:,.0f} {kind}" for kind in CONTINUATIONS)
        lines += [
            "",
            f"lengths of {counted(lengths.pieces, 'whole piece')} from silence ({lengths.ended:,} ended): "
            f"overlap with real ones {lengths.overlap:.3f}; mean notes {means}",
        ]
    return "\n".join(lines)


def composer_rows(by_composer: Mapping[str, ComposerStatistics]) -> list[list[str]]:
    """Returns the means of each composer's generated and real continuations, a row each, in `COMPOSER_COLUMNS`."""
    return [
        [
            f"{name}, {statistics.continuations} {kind}",
            *(f"{statistics.means[title][kind]:{digits}}" for title, digits in _SHOWN.items()),
        ]
        for name, statistics in by_composer.items()
        for kind in CONTINUATIONS
    ]
