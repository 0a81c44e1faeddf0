"""Model card of an export, README.md: model, data, scores, use and limits.

It has no times and no speeds: runs of one config on one dataset and machine have equal cards.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Final

import jinja2

from sostenuto import storage
from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.music.notes import PITCHES, note_name
from sostenuto.text import markdown_table
from trainer.presets import preset
from trainer.workdir.formats import SCORED_FIELDS, Evaluation, ExportInfo, MetricsRecord, RunInfo
from trainer.workdir.layout import EXPORT_NAME, METRICS_NAME, dataset, load_run

CARD_NAME: Final = "README.md"
DESCRIPTION_NAME: Final = "export.json"


def text(workdir: str, exported: ExportInfo, manifest: Manifest | None = None) -> str:
    """Returns the card of an export as Markdown.

    Args:
        workdir: of the run, a local directory or a gs:// URI.
        exported: content of export.json.
        manifest: the run's dataset; None reads it from its path, if it is still there.
    """
    run, config = load_run(workdir), exported.config
    manifest = manifest or dataset(run)
    defaults = dataclasses.asdict(preset(config.preset))
    values = dataclasses.asdict(config)
    lowest, highest = exported.pitch_range
    return _template().render(
        config=config,
        changed=[f"`{name}={value}`" for name, value in values.items() if value != defaults[name]],
        run=run,
        train_step=exported.train_step,
        manifest=manifest,
        splits=[_split_row(manifest, split) for split in SPLITS] if manifest else [],
        scores=_score_rows(workdir, run, exported.train_step),
        pitch_range=(lowest, highest),
        pitch_names=[] if (lowest, highest) == (0, PITCHES - 1) else [note_name(lowest), note_name(highest)],
        versions=[f"{name} {version}" for name, version in (run.versions or {}).items()],
        not_recorded="not recorded",
        table=markdown_table,
    )


def refresh(workdir: str, manifest: Manifest) -> str | None:
    """Writes the card of a workdir's export again, with the workdir's current scores.

    Args:
        workdir: a local directory or a gs:// URI.
        manifest: the run's dataset.

    Returns:
        The card's path, or None if the workdir has no export.

    Raises:
        UserError: export.json is corrupt, or the card cannot be written.
    """
    directory = storage.join(workdir, EXPORT_NAME)
    exported = ExportInfo.load_if_exists(storage.join(directory, DESCRIPTION_NAME))
    if exported is None:
        return None
    card = text(workdir, exported, manifest)
    path = storage.join(directory, CARD_NAME)
    storage.write_bytes_atomic(path, card.encode())
    return path


@functools.cache
def _template() -> jinja2.Template:
    """Returns the card's template, which is Markdown: nothing in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2")


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
            low, high = evaluation.confidence_95["total"]
            total, *others = (f"{evaluation.nats_per_note[field]:.3f}" for field in SCORED_FIELDS)
            rows.append([split, f"{total} ({low:.3f} to {high:.3f})", *others])
    return rows
