"""A workdir as one HTML page, report.html: curves, scores, diagnostics, samples, dataset and config."""

import base64
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from markupsafe import Markup

from sostenuto import storage
from sostenuto.data.manifest import SPLITS
from sostenuto.html.elements import element
from sostenuto.html.pages import command, environment
from sostenuto.html.piano_roll import piano_roll
from sostenuto.music.notes import note_name
from sostenuto.text import counted, duration
from trainer.evaluation.summary import COMPOSER_COLUMNS, composer_rows
from trainer.presets import preset
from trainer.reporting.charts import plot_curves, plot_distributions, select_scored_records
from trainer.reporting.diagnose import checked_for, diagnose
from trainer.reporting.form_charts import draw_pictures, plot_form
from trainer.reporting.load import PROGRAM, RunReport, load_report
from trainer.reporting.score_diagnostics import compare_with_ngram, describe_ngram_gaps, ngram_gaps
from trainer.workdir.formats import RunResult
from trainer.workdir.layout import REPORT_LOCK_NAME, REPORT_NAME
from trainer.workdir.outputs import WAIT_SECONDS, hold_output

_FLAG: Final = re.compile(r"(--[a-z]\w*(?:=[\w.,=]*\w)?)")


def write(
    workdir: str, *, named: str | None = None, result: RunResult | None = None, comparisons: Sequence[str] = ()
) -> str:
    """Writes the page of a workdir; returns its path. The arguments are those of `load_report`."""
    path = storage.join(workdir, REPORT_NAME)
    # From the reading on: another command's page would lack what this one has written.
    with hold_output(workdir, name=REPORT_LOCK_NAME, wait=WAIT_SECONDS):
        report = load_report(workdir, named=named, result=result, comparisons=comparisons)
        storage.write_bytes_atomic(path, render(report).encode())
    return path


def render(report: RunReport) -> str:
    """Returns the page as HTML."""
    templates = environment(Path(__file__).parent)
    templates.filters |= {"advice": _mark_code, "base64": _encode, "counted": counted, "note_name": note_name}
    return templates.get_template("report.html.j2").render(
        report=report,
        diagnostics=diagnose(report),
        checked_for=checked_for(report),
        samples=report.samples.samples if report.samples else [],
        piano_roll=piano_roll,
        curves=plot_curves(report),
        scored_records=select_scored_records(report),
        compare_with_ngram=compare_with_ngram,
        ngram_gaps=ngram_gaps,
        describe_ngram_gaps=describe_ngram_gaps,
        plot_distributions=plot_distributions,
        composer_columns=COMPOSER_COLUMNS,
        composer_rows=composer_rows,
        plot_form=plot_form,
        draw_pictures=draw_pictures,
        training_time=_training_time(report),
        throughput=float(np.median([record.notes_per_second for record in report.records])),
        config=dataclasses.asdict(report.config),
        preset=dataclasses.asdict(preset(report.config.preset)),
        split_names=SPLITS,
    )


def _mark_code(text: str) -> Markup:
    """Returns advice with its flags, and its command if there is one, as code."""
    before, program, rest = text.partition(f"{PROGRAM} ")
    parts = [element("code", part, class_="whole") if part.startswith("--") else part for part in _FLAG.split(before)]
    return Markup("").join([*parts, command(program + rest)] if program else parts)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _training_time(report: RunReport) -> str | None:
    """Returns the time of the train_steps over all processes, compilation included; None if it is unknown."""
    measured = [record.seconds for record in report.records if record.seconds is not None]
    if len(measured) == len(report.records):
        return duration(sum(measured))
    # Older files have only the speed.
    targets = report.run.targets_per_epoch
    if not targets or not all(record.notes_per_second > 0 for record in report.records):
        return None
    epochs = np.diff([0.0, *(record.epoch for record in report.records)])
    speeds = np.array([record.notes_per_second for record in report.records])
    return duration(float(np.sum(epochs * targets / speeds)))
