"""The model card of an export, README.md: what was trained on what, its scores, how to use it and its limits.

It holds nothing that differs between two runs of the same config on the same data and machine: no time, no speed.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

from sostenuto import storage
from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.music.notes import PITCHES, note_name
from sostenuto.text import markdown_table
from trainer.config import Config
from trainer.presets import preset
from trainer.workdir.formats import SCORED_FIELDS, Evaluation, MetricsRecord, RunInfo
from trainer.workdir.layout import EXPORT_NAME, METRICS_NAME, dataset, load_run

CARD_NAME: Final = "README.md"
DESCRIPTION_NAME: Final = "export.json"

_SUSTAIN: Final = {
    "ignore": "`ignore`: a note ends when its key is released",
    "extend": "`extend`: a note ends when it stops sounding, sustain pedal included",
}

PROGRAM: Final = """\
import tensorflow as tf

export = tf.saved_model.load("workdir/export")
initial_state, next_note = export.signatures["initial_state"], export.signatures["next_note"]
silence = {"pitch": [128], "step_us": [0], "duration_us": [0], "velocity": [0]}
voice = {name: tf.constant(values) for name, values in silence.items()}
voice.update(initial_state(batch=tf.constant(1)))
onset_us = 0
for number in range(100):
    voice = next_note(**voice, temperature=tf.constant(1.0), seed=tf.constant([2024, number]))
    onset_us += int(voice["step_us"][0]) if number else 0  # Time begins with the first note.
    print(onset_us, int(voice["pitch"][0]), int(voice["duration_us"][0]), int(voice["velocity"][0]))
"""
"""Plays 100 notes from silence, with TensorFlow alone."""

PROGRAM_WITH_PRIMER: Final = """\
import tensorflow as tf

export = tf.saved_model.load("workdir/export")
initial_state, next_note, score = (export.signatures[name] for name in ("initial_state", "next_note", "score"))
# The primer is a scale. Take your own: as many notes as the model's seq_length.
scale = [60, 62, 64, 65, 67, 69, 71, 72] * 3
primer = {"pitch": scale, "step_us": [250_000] * 24, "duration_us": [240_000] * 24, "velocity": [80] * 24}
notes = {name: tf.constant([values]) for name, values in primer.items()}
state = initial_state(batch=tf.constant(1))
scored = score(**notes, **state)
voice = {name: values[:, -1] for name, values in notes.items()}
voice.update({name: scored[name] for name in state})
onset_us = 23 * 250_000
for number in range(100):
    voice = next_note(**voice, temperature=tf.constant(1.0), seed=tf.constant([2024, number]))
    onset_us += int(voice["step_us"][0])
    print(onset_us, int(voice["pitch"][0]), int(voice["duration_us"][0]), int(voice["velocity"][0]))
"""
"""Plays 100 notes after a primer: for a model of `positions=last`, which cannot begin from silence."""


def text(workdir: str, description: Mapping[str, Any], manifest: Manifest | None = None) -> str:
    """Returns the card of an export as Markdown.

    Args:
        workdir: of the run, here or in a bucket.
        description: the content of export.json.
        manifest: the run's dataset; by default it is read from where the run found it, if it is still there.
    """
    run = load_run(workdir)
    config = Config(**description["config"])
    parts = [
        "---\nlicense: unknown\ntags:\n- music\n- midi\n- piano\n---",
        "# A next-note model of piano music",
        "Given the notes so far, the model gives probabilities for the pitch, time, duration and velocity of the next "
        "one. Called again and again, it plays. It is a TensorFlow SavedModel, trained with Sostenuto.",
        _model(config, run, description),
        _data(config, run, manifest or dataset(run)),
        _scores(workdir, run, description),
        _use(config),
        _limits(run, description),
        _versions(run),
    ]
    return "\n\n".join(parts) + "\n"


def refresh(workdir: str, manifest: Manifest) -> str | None:
    """Writes the card of a workdir's export again, with the scores that the workdir holds by now.

    Args:
        workdir: here or in a bucket.
        manifest: the run's dataset.

    Returns:
        The card's path; None where the workdir has no export.

    Raises:
        FileError: it cannot be written.
    """
    directory = storage.join(workdir, EXPORT_NAME)
    described = storage.join(directory, DESCRIPTION_NAME)
    if not storage.exists(described):
        return None
    card = text(workdir, json.loads(storage.read_bytes(described)), manifest)
    path = storage.join(directory, CARD_NAME)
    storage.write_bytes_atomic(path, card.encode())
    return path


def _model(config: Config, run: RunInfo, description: Mapping[str, Any]) -> str:
    start = preset(config.preset)
    values = dataclasses.asdict(start)
    changed = [f"`{name}={value}`" for name, value in dataclasses.asdict(config).items() if value != values[name]]
    rows = [
        ("network", f"LSTM, {config.layers} x {config.units} units, `model={config.model}`"),
        ("preset", f"`{config.preset}`" + (f", with {', '.join(changed)}" if changed else "")),
        ("parameters", f"{run.parameters:,}" if run.parameters is not None else "not recorded"),
        ("weights", f"of train_step {description['train_step']:,}; a run keeps those with the best `{config.monitor}`"),
    ]
    parts = ["## Model", markdown_table(("", ""), rows), f"Every choice of the run stands in `{DESCRIPTION_NAME}`."]
    return "\n\n".join(parts)


def _licence(manifest: Manifest | None) -> str:
    """Returns the licence that the dataset records."""
    licence = manifest.options.get("licence") if manifest else None
    return licence or "not recorded: state it, above and here, before you publish the model"


def _data(config: Config, run: RunInfo, manifest: Manifest | None) -> str:
    rows = [
        ("path when training began", f"`{run.data}`" if run.data is not None else "not recorded"),
        ("sha256 of its dataset.json", f"`{run.dataset}`" if run.dataset is not None else "not recorded"),
        ("durations", _SUSTAIN.get(run.sustain or "", "not recorded")),
        ("licence", _licence(manifest)),
    ]
    parts = ["## Data", markdown_table(("dataset", ""), rows)]
    if manifest is None:
        parts.append("The dataset was not at that path when this card was written, so that its splits are not listed.")
    else:
        splits = [
            (
                split,
                f"{manifest.performances(split):,}",
                f"{manifest.notes(split):,}",
                f"{manifest.splits[split].seconds / 3600:,.1f}",
            )
            for split in SPLITS
        ]
        parts.append(markdown_table(("split", "performances", "notes", "hours"), splits))
        chosen = ", and chosen by the validation split" if config.monitor == "val_nats" else ""
        parts.append(f"The weights were trained on the train split{chosen}.")
    return "\n\n".join(parts)


def _scores(workdir: str, run: RunInfo, description: Mapping[str, Any]) -> str:
    rows = []
    report = _report(workdir, description["train_step"])
    if report is not None:
        nats = [report.val_nats, *(getattr(report, f"val_{field}_nll") for field in SCORED_FIELDS[1:])]
        rows.append(("validation, while training", *(f"{value:.3f}" for value in nats)))
    for split in reversed(SPLITS):
        evaluation = Evaluation.load_if_exists(Evaluation.path(workdir, split))
        expected = (run.dataset, description["train_step"])
        if evaluation and (evaluation.dataset, evaluation.train_step) == expected:
            nats = [evaluation.nats_per_note[field] for field in SCORED_FIELDS]
            low, high = evaluation.confidence_95["total"]
            total, *others = (f"{value:.3f}" for value in nats)
            rows.append((split, f"{total} ({low:.3f} to {high:.3f})", *others))
    told = markdown_table(("split", *SCORED_FIELDS), rows) if rows else "These weights have not been scored."
    if not any(row[0] == "test" for row in rows):
        told += "\n\nThe test split has not been scored: `sostenuto evaluate --workdir=WORKDIR` adds its row."
    return (
        "## Scores\n\nNats per note, less is better; times are scored on a grid of 10 ms. In brackets, the 95 % "
        f"interval over performances.\n\n{told}"
    )


def _report(workdir: str, train_step: int) -> MetricsRecord | None:
    """Returns the line of metrics.jsonl with the score of some weights."""
    path = storage.join(workdir, METRICS_NAME)
    records = MetricsRecord.load_all(path) if storage.exists(path) else []
    scored = (record for record in records if record.train_step == train_step and record.val_nats is not None)
    return next(scored, None)


def _use(config: Config) -> str:
    begins = config.positions == "every"
    needs = "from silence" if begins else "after a primer, which a model of `positions=last` needs"
    return (
        "## Use\n\nThis directory is all that is needed, with TensorFlow 2.21 or later. The program plays 100 notes "
        f"{needs}. Put the path of this directory in place of `workdir/export`.\n\n"
        f"```python\n{PROGRAM if begins else PROGRAM_WITH_PRIMER}```"
    )


def _limits(run: RunInfo, description: Mapping[str, Any]) -> str:
    lowest, highest = description["pitch_range"]
    pitches = (
        "It may play any MIDI pitch, 0 to 127: the run records no range."
        if (lowest, highest) == (0, PITCHES - 1)
        else f"It plays pitches {lowest} to {highest} ({note_name(lowest)} to {note_name(highest)}), the range of the "
        "notes that it was trained on; scores give every pitch a probability."
    )
    points = [
        "Piano alone, on one keyboard: a key that is struck again ends its former note. Instruments, drums, bars and "
        "tempo are not modelled.",
        "Times are drawn on a grid of 10 ms, at most 10 s."
        if description["config"]["model"] == "density"
        else "Times are the mean of what may come, so that the rhythm is more even than real music's.",
        pitches,
        "It knows which note follows which, and has no memory of a form.",
        "It may play runs of notes from the music that it was trained on: `sostenuto evaluate --generated` "
        "measures their length. The licence of that music applies.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


def _versions(run: RunInfo) -> str:
    versions = run.versions or {}
    told = ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"
    return f"## Versions\n\nTrained with: {told}."
