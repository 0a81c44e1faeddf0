"""Tables of a run's scores and of the comparison of its music with real music."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sostenuto.html.elements import element
from sostenuto.html.pages import Table
from trainer.reporting.load import RunReport

_SCORES: Final = ("total", "pitch", "step", "duration")
_BASELINES: Final = {"ngram": "n-gram", "histogram": "histogram"}
_PER_CONTINUATION: Final = (
    ("pitch_class_entropy", "pitch-class entropy, bits", "{:.2f}", "{:.2f}"),
    ("longest_loop", "longest loop, notes", "{:.1f}", "{:,}"),
    ("repeated_8grams", "repeated 8-grams of pitches", "{:.1%}", "{:.1%}"),
    ("copied_run", "longest run copied from train, notes", "{:.1f}", "{:,}"),
)
"""Key, name, and formats of the mean and of the maximum."""


def tabulate_evaluation(report: RunReport, split: str) -> Table:
    """Returns a split's scores, of this model, of other runs and of models that only count."""
    evaluation = report.evaluations[split]
    others = [(name, by_split[split]) for name, by_split in report.comparisons if split in by_split]
    rows = [_score_row("this model", evaluation), *(_score_row(*other) for other in others)]
    baselines = evaluation.get("baselines") or {}
    for key, name in _BASELINES.items():
        if key in baselines:
            rows.append([name, *(f"{baselines[key][score]:.3f}" for score in _SCORES)])
    if not baselines:
        rows.append(["counting alone", *["not measured"] * len(_SCORES)])
    models = f"of this model{', other runs' if others else ''} and models that only count"
    return Table(f"Nats per note on the {split} split, {models}", ["", *_SCORES], rows, best=0)


def _score_row(name: str, evaluation: Mapping[str, Any]) -> list[str]:
    """Returns a name, and each score above its confidence interval."""
    cells = []
    for score in _SCORES:
        low, high = evaluation["confidence_95"][score]
        interval = element("span", f"{low:.3f} ", element("span", f"to {high:.3f}", class_="whole"), class_="ci")
        cells.append(element("span", f"{evaluation['nats_per_note'][score]:.3f}", interval))
    return [name, *cells]


def tabulate_composers(split: str, evaluation: Mapping[str, Any]) -> Table | None:
    """Returns a split's scores by composer; None for a single composer."""
    composers = sorted(evaluation["by_composer"].items(), key=lambda item: item[1]["nats_per_note"]["total"])
    rows = [
        [
            name,
            *(f"{scores['nats_per_note'][score]:.3f}" for score in _SCORES),
            f"{scores['notes']:,}",
            f"{scores['performances']:,}",
        ]
        for name, scores in composers
    ]
    if len(rows) < 2:
        return None
    head = ["composer", *_SCORES, "notes", "performances"]
    return Table(f"Nats per note on the {split} split by composer, best first", head, rows)


def tabulate_distances(split: str, generated: Mapping[str, Any]) -> Table:
    """Returns the distances of generated and real continuations from held-out music."""
    rows: list[Sequence[str]] = []
    for name, by_music in generated["distributions"].items():
        distances = [f"{by_music[music][key]:.3f}" for key in ("overlap", "kl") for music in ("generated", "real")]
        rows.append([name.replace("_", " "), *distances])
    mean = generated["mean_overlap"]
    rows.append(["mean", f"{mean['generated']:.3f}", f"{mean['real']:.3f}", "", ""])
    return Table(
        f"How far distributions overlap with those of held-out music of the {split} split, and their divergence",
        ["distribution", "overlap: generated", "real", "KL, nats: generated", "real"],
        rows,
    )


def tabulate_repetition(split: str, generated: Mapping[str, Any]) -> Table:
    """Returns mean and maximum over the continuations of what they repeat and copy."""
    rows = [
        [
            name,
            *(
                form.format(generated[key][music][statistic])
                for music in ("generated", "real")
                for statistic, form in (("mean", mean), ("max", most))
            ),
        ]
        for key, name, mean, most in _PER_CONTINUATION
    ]
    return Table(
        f"Repetition and copies in the continuations of the {split} split",
        ["per continuation", "generated: mean", "most", "real: mean", "most"],
        rows,
    )
