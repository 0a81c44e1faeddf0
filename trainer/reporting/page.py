"""A workdir as one HTML page, report.html: curves, scores, diagnostics, eight samples, dataset and config.

The page is made from the workdir's files, without TensorFlow. A missing part leaves a note with the command that adds
it.
"""

import base64
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from sostenuto import storage
from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.html.elements import element
from sostenuto.html.pages import Table, Tile, command, environment
from sostenuto.html.piano_roll import piano_roll
from sostenuto.music.notes import note_name
from sostenuto.text import duration
from trainer.generation.samples import Sample
from trainer.presets import preset
from trainer.reporting import curves, distributions, scores
from trainer.reporting.diagnose import checked_for, diagnose, not_compared, not_evaluated
from trainer.reporting.diagnostics import compare_with_ngram, describe_ngram_gaps, ngram_gaps
from trainer.reporting.load import PROGRAM, RunReport, load_report
from trainer.workdir.formats import RunResult
from trainer.workdir.layout import REPORT_NAME

_FLAG: Final = re.compile(r"(--[a-z]\w*(?:=[\w.,=]*\w)?)")


def write(
    workdir: str, *, named: str | None = None, result: RunResult | None = None, comparisons: Sequence[str] = ()
) -> str:
    """Writes the page of a workdir; returns its path. Arguments and errors are those of `load_report`.

    Raises:
        UserError: also if the page cannot be written.
    """
    path = storage.join(workdir, REPORT_NAME)
    report = load_report(workdir, named=named, result=result, comparisons=comparisons)
    storage.write_bytes_atomic(path, render(report).encode())
    return path


def render(report: RunReport) -> str:
    """Returns the page as HTML."""
    templates = environment(Path(__file__).parent)
    templates.filters["advice"] = _mark_code
    best = report.best_score
    return templates.get_template("report.html.j2").render(
        report=report,
        best_score=f"{best[1]:.3f} nats/note on validation" if best else "not scored",
        tiles=_tiles(report),
        diagnostics=diagnose(report),
        checked_for=checked_for(report),
        samples=[_view_sample(index, sample) for index, sample in enumerate(_samples(report), 1)],
        curves=curves.plot_curves(report),
        score_table=curves.tabulate_scores(report),
        evaluations=[_view_evaluation(report, split) for split in report.evaluations],
        not_evaluated=not_evaluated(report),
        comparisons=[_view_comparison(split, generated) for split, generated in report.generated.items()],
        not_compared=not_compared(report),
        facts=_facts(report),
        split_table=_tabulate_splits(report.manifest) if report.manifest else None,
        config=_config(report),
    )


def _mark_code(text: str) -> Markup:
    """Returns advice with its flags, and its command if there is one, as code."""
    before, program, rest = text.partition(f"{PROGRAM} ")
    parts = [element("code", part, class_="whole") if part.startswith("--") else part for part in _FLAG.split(before)]
    return Markup("").join([*parts, command(program + rest)] if program else parts)


def _tiles(report: RunReport) -> list[Tile]:
    """Returns the numbers at the top of the page."""
    tiles = []
    evaluation = next(iter(report.evaluations.values()), None)
    if evaluation:
        low, high = evaluation["confidence_95"]["total"]
        interval = f"nats/note, {low:.2f} to {high:.2f}"
        tiles.append(Tile(f"{evaluation['split']} split", f"{evaluation['nats_per_note']['total']:.3f}", interval))
        if compare_with_ngram(evaluation):
            gap = ngram_gaps(evaluation)["total"]
            side = "better" if gap <= 0 else "worse"
            tiles.append(Tile("against counting", f"{abs(gap):.2f}", f"nats/note {side} than the n-gram baseline"))
    if report.best_score:
        train_step, score = report.best_score
        tiles.append(Tile("validation, best", f"{score:.3f}", f"nats/note, at train_step {train_step:,}"))
    last = report.records[-1]
    tiles.append(Tile("train_steps", f"{last['train_step']:,}", f"{last['epoch']:.1f} epochs"))
    seconds = _training_seconds(report)
    if seconds is not None:
        tiles.append(Tile("trained for", duration(seconds), "h:mm:ss, without scoring"))
    speed = float(np.median([record["notes_per_second"] for record in report.records]))
    tiles.append(Tile("throughput", f"{speed:,.0f}", "notes/s, median"))
    return tiles


def _training_seconds(report: RunReport) -> float | None:
    """Returns the time of the train_steps over all processes that trained the run; None if it is unknown."""
    targets = report.run.targets_per_epoch
    if not targets:
        return None
    epochs = np.diff([0.0, *(record["epoch"] for record in report.records)])
    speeds = np.array([record["notes_per_second"] for record in report.records])
    return float(np.sum(epochs * targets / speeds))


def _samples(report: RunReport) -> Sequence[Sample]:
    return report.samples.samples if report.samples else []


def _view_sample(index: int, sample: Sample) -> dict[str, Any]:
    """Returns what the template shows of a sample."""
    notes, primer_notes = sample.notes, sample.primer_notes
    seam = notes.onset_us[primer_notes] / 1e6 if 0 < primer_notes < len(notes) else 0.0
    low, high = (note_name(int(pitch)) for pitch in (notes.pitch.min(), notes.pitch.max()))
    origin = f"after {sample.primer}" if sample.primer else "from silence"
    generated = len(notes) - primer_notes
    primer = f"{primer_notes} notes of the primer, then from {seam:.0f} seconds on " if primer_notes else ""
    description = (
        f"Piano roll of sample {index}, {origin}: {notes.seconds:.0f} seconds, {low} to {high}; "
        f"{primer}{generated} notes by the model."
    )
    return {
        "index": index,
        "name": sample.name,
        "origin": origin,
        "generated_notes": generated,
        "seam": seam,
        "roll": piano_roll(notes, primer_notes, description=description),
        "midi": base64.b64encode(sample.midi).decode(),
        "mp3": base64.b64encode(sample.mp3).decode() if sample.mp3 else None,
        "has_primer": primer_notes > 0,
    }


def _view_evaluation(report: RunReport, split: str) -> dict[str, Any]:
    """Returns what the template shows of a split's evaluation."""
    evaluation = report.evaluations[split]
    return {
        "split": split,
        "table": scores.tabulate_evaluation(report, split),
        "ngram": describe_ngram_gaps(evaluation),
        "evaluation": evaluation,
        "composers": scores.tabulate_composers(split, evaluation),
    }


def _view_comparison(split: str, generated: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the template shows of generated music compared with real music."""
    return {
        "split": split,
        "continuations": len(generated["primers"]),
        "num_notes": generated["num_notes"],
        "figures": distributions.plot_distributions(generated) if "counts" in generated else [],
        "distances": scores.tabulate_distances(split, generated),
        "repetition": scores.tabulate_repetition(split, generated),
    }


def _facts(report: RunReport) -> dict[str, str]:
    """Returns the names and values of what is known about the run."""
    run, result = report.run, report.result
    hosts = run.hosts or 1
    facts = {
        "workdir": report.workdir,
        "dataset": run.data,
        "fingerprint": run.dataset,
        "durations": {"ignore": "of the keys", "extend": "of the sound, with the pedal"}.get(run.sustain or ""),
        "device": (run.device or "") + (f" on each of {hosts} hosts" if hosts > 1 else ""),
        "precision": report.config.precision,
        "versions": ", ".join(f"{name} {version}" for name, version in (run.versions or {}).items()),
        "ended": _describe_end(result) if result else None,
    }
    return {name: value for name, value in facts.items() if value}


def _describe_end(result: RunResult) -> str:
    reasons = {"steps": "its length was reached", "patience": "the score stopped improving"}
    return f"at train_step {result.train_step:,}: {reasons.get(result.reason, result.reason)}"


def _tabulate_splits(manifest: Manifest) -> Table:
    rows = []
    for split in SPLITS:
        hours = manifest.splits[split].seconds / 3600
        rows.append([split, f"{manifest.performances(split):,}", f"{manifest.notes(split):,}", f"{hours:,.1f}"])
    return Table("The dataset's splits", ["split", "performances", "notes", "hours"], rows, is_compact=True)


def _config(report: RunReport) -> list[tuple[str, str, bool]]:
    """Returns name and value of each field of the config, and whether it differs from the preset."""
    defaults = dataclasses.asdict(preset(report.config.preset))
    return [
        (name, f"{value:g}" if isinstance(value, float) else str(value), value != defaults[name])
        for name, value in dataclasses.asdict(report.config).items()
    ]
