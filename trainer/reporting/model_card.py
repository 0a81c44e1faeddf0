"""Model card of an export, README.md, without times and speeds: equal runs have equal cards."""

import dataclasses
from pathlib import Path
from typing import Final

from sostenuto import storage
from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.html.pages import environment
from sostenuto.music.notes import PITCHES, note_name
from sostenuto.text import markdown_table
from trainer.presets import preset
from trainer.workdir.evaluation_formats import Evaluation
from trainer.workdir.formats import SCORED_FIELDS, ExportInfo, MetricsRecord, RunInfo
from trainer.workdir.layout import EXPORT_INFO_NAME, EXPORT_NAME, METRICS_NAME, REPORT_LOCK_NAME, dataset, load_run
from trainer.workdir.outputs import WAIT_SECONDS, hold_output

CARD_NAME: Final = "README.md"


def text(workdir: str, exported: ExportInfo, manifest: Manifest | None = None) -> str:
    """Returns the card of an export as Markdown; without a manifest, the run's dataset is read, if it is there."""
    run, config = load_run(workdir), exported.config
    manifest = manifest or dataset(run)
    defaults = dataclasses.asdict(preset(config.preset))
    values = dataclasses.asdict(config)
    lowest, highest = exported.pitch_range
    # The card is Markdown: nothing in it is escaped.
    templates = environment(Path(__file__).parent).overlay(autoescape=False, finalize=None, keep_trailing_newline=True)
    return templates.get_template("model_card.md.j2").render(
        config=config,
        changed=[f"`{name}={value}`" for name, value in values.items() if value != defaults[name]],
        run=run,
        train_step=exported.train_step,
        manifest=manifest,
        splits=[_split_row(manifest, split) for split in SPLITS] if manifest else [],
        scores=_score_rows(workdir, run, exported.train_step),
        pitch_range=(lowest, highest),
        pitch_names=[] if (lowest, highest) == (0, PITCHES - 1) else [note_name(lowest), note_name(highest)],
        composers=", ".join(f"{number} {name}" for number, name in enumerate(exported.composers, 1)),
        versions=[f"{name} {version}" for name, version in (run.versions or {}).items()],
        not_recorded="not recorded",
        table=markdown_table,
    )


def refresh(workdir: str, manifest: Manifest) -> str | None:
    """Writes the card of a workdir's export again, with the current scores; returns its path, or None without one."""
    info, path = (storage.join(workdir, EXPORT_NAME, name) for name in (EXPORT_INFO_NAME, CARD_NAME))
    exported = ExportInfo.load_if_exists(info)
    if exported is None:
        return None
    with hold_output(workdir, name=REPORT_LOCK_NAME, wait=WAIT_SECONDS):
        card = text(workdir, exported, manifest)
        storage.write_bytes_atomic(path, card.encode())
    return path


def _split_row(manifest: Manifest, split: str) -> list[str]:
    hours = manifest.splits[split].seconds / 3600
    return [split, f"{manifest.performances(split):,}", f"{manifest.notes(split):,}", f"{hours:,.2f}"]


def _score_rows(workdir: str, run: RunInfo, train_step: int) -> list[list[str]]:
    """Returns the scores of the exported weights: while training, and of each split that was evaluated."""
    rows = []
    path = storage.join(workdir, METRICS_NAME)
    for record in MetricsRecord.load_all(path) if storage.exists(path) else []:
        if record.train_step == train_step and record.val_nats is not None:
            nats = [record.val_nats, *(getattr(record, f"val_{field}_nll") for field in SCORED_FIELDS[1:])]
            rows.append(["validation, while training", *(f"{value:.3f}" for value in nats)])
    for split, evaluation in Evaluation.load_splits(workdir).items():
        if (evaluation.dataset, evaluation.train_step) == (run.dataset, train_step):
            total, *others = (f"{evaluation.nats_per_note[field]:.3f}" for field in SCORED_FIELDS)
            rows.append([split, f"{total} ({evaluation.describe_interval()})", *others])
    return rows
