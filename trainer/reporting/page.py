"""A workdir as one HTML page, report.html: the run's config and dataset, curves, scores and eight samples to hear.

The page is made of the workdir's files, without TensorFlow. A missing part leaves a note with the command that adds it.
"""

import base64
import dataclasses
import json
import math
import os
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sostenuto import storage
from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.errors import UserError
from sostenuto.html import charts
from sostenuto.html.charts import Axis, Series, continuous, legend, piano_roll, plot
from sostenuto.html.elements import BASE, DARK, LIGHT, command, document, element, scrolling, section, theme, tiles
from sostenuto.music.notes import TICK_US, note_name
from sostenuto.text import duration
from trainer.config import Config, preset
from trainer.evaluation import generation_metrics
from trainer.evaluation.generation_metrics import DISTRIBUTIONS
from trainer.generation import samples
from trainer.reporting import diagnostics
from trainer.reporting.diagnostics import Circumstances, Diagnostic
from trainer.workdir.formats import RunInfo, RunResult
from trainer.workdir.layout import METRICS_NAME, REPORT_NAME, RESULT_NAME, dataset, load_config, load_run

_POINTS: Final = 400  # of a curve at most; more could not be told apart
# Of the train_steps at the start of a run, while the loss falls from where chance put it.
_WARM_UP_SHARE: Final = 0.03
_FIELDS: Final = ("pitch", "step", "duration")
_FIGURES: Final = ("total", *_FIELDS)
# Of each distribution, outside of what the charts show, at either end.
_CUT_SHARE: Final = 0.004
_PROGRAM: Final = "sostenuto"
_FLAG: Final = re.compile(r"(--[a-z]\w*(?:=[\w.,=]*\w)?)")
_SCORED: Final = ("test", "validation")  # splits to score or to continue, the first one that serves
_MUSIC: Final = {"held_out": "held-out music", "real": "real continuations", "generated": "generated"}

_STYLE: Final = (
    theme(
        LIGHT
        | {
            "train": "#5b9bd0",
            "validation": "#d55e00",
            "primer": "#d55e00",
            "played": "#0b5fae",
            "real": "#009e73",
            "black": "#f1f3f6",
            "warn": "#fff4ea",
        },
        DARK
        | {
            "train": "#5f9fd6",
            "validation": "#ff9e4f",
            "primer": "#ff9e4f",
            "played": "#6fbaff",
            "real": "#3fcf9f",
            "black": "#1e2631",
            "warn": "#32271d",
        },
    )
    + BASE
    + charts.STYLE
    + """
:root{--bar:var(--played)} .tiles{grid-template-columns:repeat(auto-fit,minmax(8.4rem,1fr))}
.train{--colour:var(--train)} .validation{--colour:var(--validation)} .rate{--colour:var(--played)}
.held{--colour:var(--soft)} .generated{--colour:var(--played)} .real{--colour:var(--real)}
.key.primer{--colour:var(--primer)} .key.played{--colour:var(--played)} .key{height:.4rem}
nav{display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;margin:0 0 1.25rem;font-size:.9rem} a{color:var(--played)}
.findings{list-style:none;margin:0;padding:0;display:grid;gap:.7rem}
.findings li{border-left:3px solid var(--edge);padding:.15rem 0 .15rem .8rem} .findings p{margin:0}
.findings .warning{border-color:var(--best);background:var(--warn);padding:.5rem .8rem;border-radius:0 8px 8px 0}
.multiples{grid-template-columns:repeat(auto-fit,minmax(min(17rem,100%),1fr))}
.samples{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(27rem,100%),1fr));gap:1.6rem 1.5rem;--roll:13rem}
.sample{max-width:none;min-width:0;break-inside:avoid} .sample figcaption{margin:0 0 .4rem;overflow-wrap:anywhere}
.sample .listen{display:flex;align-items:center;gap:.75rem;margin:.3rem 0 0 2.1rem}
audio{flex:1;min-width:0;height:2.4rem}
.note{border:1px dashed var(--edge);border-radius:8px;padding:.7rem .9rem;margin:0 0 .8rem;color:var(--soft)}
.note:last-child{margin:0} .ci{color:var(--soft);font-size:.78rem;display:block}
.facts{display:grid;grid-template-columns:minmax(6rem,max-content) 1fr;gap:.25rem 1rem;margin:0 0 1rem;font-size:.92rem}
.facts dd{font-size:inherit;font-weight:400;overflow-wrap:anywhere}
summary{cursor:pointer;font-weight:600;padding:.3rem 0}
.overlap{min-width:7rem} .config{columns:17rem;column-gap:2rem} .config div{break-inside:avoid;display:flex;gap:.6rem;
 justify-content:space-between;border-bottom:1px solid var(--edge);padding:.15rem 0;font-size:.88rem}
.config dt{font-size:inherit} .config dd{font-size:inherit;font-weight:400} .config .changed dd{font-weight:700}
@media (max-width:34rem){.samples{--roll:10rem} .sample .listen{margin-left:0}
 .ci{white-space:normal;width:min-content;font-size:.66rem;margin-left:auto}}
@media print{nav,audio,.sample .listen{display:none} .samples{grid-template-columns:1fr 1fr}
 .note{break-inside:avoid} a{color:inherit;text-decoration:none}}
"""
)

_SCRIPT: Final = (
    charts.HOVER_SCRIPT
    + """
const players = [...document.querySelectorAll("audio")];
for (const player of players) {
  const sheet = player.closest(".sample").querySelector(".sheet"), head = sheet.querySelector(".head");
  const seconds = Number(sheet.dataset.seconds);
  const place = () => {
    head.style.left = Math.min(100, 100 * player.currentTime / seconds) + "%";
    head.style.display = "block";
    if (!player.paused) requestAnimationFrame(place);
  };
  player.addEventListener("play", () => {
    for (const other of players) if (other !== player) other.pause();
    place();
  });
  player.addEventListener("seeked", place);
  sheet.addEventListener("click", (event) => {
    const box = sheet.getBoundingClientRect();
    player.currentTime = seconds * (event.clientX - box.left) / box.width;
    player.play().catch(() => {}); // Another click may come before it begins.
  });
}
const names = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"];
for (const sheet of document.querySelectorAll(".sheet")) {
  const { low, high, seconds } = sheet.dataset;
  sheet.addEventListener("pointermove", (event) => {
    const box = sheet.getBoundingClientRect();
    const pitch = Math.floor(Number(high) - (event.clientY - box.top) / box.height * (high - low));
    const time = seconds * (event.clientX - box.left) / box.width;
    sheet.title = names[pitch % 12] + (Math.floor(pitch / 12) - 1) + ", " + time.toFixed(1) + " s";
  });
}
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
"""
)


@dataclasses.dataclass(frozen=True)
class Run:
    """The content of a workdir.

    Attributes:
        workdir: its path, as the user named it.
        config: the run's.
        run: run.json.
        reports: the lines of metrics.jsonl by train_step, at least one.
        result: how it ended, or None.
        evaluations: evaluation-SPLIT.json of the run's dataset by split, test first.
        generated: generated-SPLIT.json likewise.
        foreign: the same files of other datasets than the run's, by name: the split, and the dataset's sha256.
        samples: the content of samples/, or None.
        manifest: the dataset, or None where it is no longer at its place.
        continued: a split whose performances are long enough to be continued and compared; None where there is none.
        comparisons: other runs: the name that the page gives each, and its evaluation-SPLIT.json by split.
    """

    workdir: str
    config: Config
    run: RunInfo
    reports: Sequence[Mapping[str, Any]]
    result: RunResult | None
    evaluations: Mapping[str, Mapping[str, Any]]
    generated: Mapping[str, Mapping[str, Any]]
    foreign: Mapping[str, tuple[str, str]]
    samples: samples.Samples | None
    manifest: Manifest | None
    continued: str | None
    comparisons: Sequence[tuple[str, Mapping[str, Mapping[str, Any]]]]

    @property
    def best_train_step(self) -> int | None:
        """The train_step of the best weights; None while the run has not finished."""
        return None if self.result is None else self.result.best_train_step or self.result.train_step

    @property
    def circumstances(self) -> Circumstances:
        """What decides which advice can work for the run."""
        histograms = self.manifest.histograms("train") if self.manifest else None
        return Circumstances(self.config, self.reports, self.result, self.run.steps, histograms)

    @property
    def scored(self) -> str | None:
        """A split that trainer.evaluate can score with this run's model; None where there is none."""
        manifest = self.manifest
        if manifest is None:
            return "test"
        filled = [split for split in _SCORED if manifest.notes(split) > manifest.performances(split)]
        if self.config.model == "regression" and "validation" not in filled:
            return None  # The spread of its errors is measured there.
        return filled[0] if filled else None


def write(
    workdir: str, *, named: str | None = None, result: RunResult | None = None, comparisons: Sequence[str] = ()
) -> str:
    """Writes the page of a workdir; returns its path.

    Args:
        workdir: here or in a bucket.
        named: what the page calls it, where it is the mirror of one in a bucket.
        result: how the run ended, where result.json, which comes last, is still to be written.
        comparisons: workdirs of other runs, whose scores stand in this one's tables.

    Raises:
        UserError: it is no workdir, nothing was reported in it yet, a file cannot be read or written, or a run beside
            it has no score of what it was scored on.
    """
    path = storage.join(workdir, REPORT_NAME)
    storage.write_bytes_atomic(path, page(load(workdir, named=named, result=result, comparisons=comparisons)).encode())
    return path


def load(
    workdir: str, *, named: str | None = None, result: RunResult | None = None, comparisons: Sequence[str] = ()
) -> Run:
    """Reads a workdir; arguments and errors are those of `write`."""
    config = load_config(workdir)
    path = storage.join(workdir, METRICS_NAME)
    reports = _reports(storage.read_bytes(path)) if storage.exists(path) else []
    if not reports:
        raise UserError(f"{workdir}: nothing was trained in it yet: {METRICS_NAME} has no report. Train first")
    run = load_run(workdir)
    if result is None:
        result = RunResult.load_if_exists(storage.join(workdir, RESULT_NAME))
    evaluations, generated = (_of_splits(workdir, kind) for kind in ("evaluation", "generated"))
    foreign = {}
    for kind, documents in (("evaluation", evaluations), ("generated", generated)):
        for split in [split for split, own in documents.items() if own["dataset"] != run.dataset]:
            foreign[f"{kind}-{split}.json"] = split, documents.pop(split)["dataset"]
    manifest = dataset(run)
    return Run(
        named or workdir,
        config,
        run,
        reports,
        result,
        evaluations,
        generated,
        foreign,
        samples.read(workdir),
        manifest,
        continued_split(manifest) if manifest and not generated else "test",
        [_beside(other, evaluations) for other in comparisons],
    )


def _beside(workdir: str, evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """The name of another run, and its scores of what `evaluations` scored too.

    Raises:
        UserError: it is no workdir, or there are none.
    """
    name = f"{load_config(workdir).preset}, {os.path.basename(workdir.rstrip('/'))}"
    same: dict[str, Mapping[str, Any]] = {
        split: own
        for split, own in _of_splits(workdir, "evaluation").items()
        if split in evaluations and own["dataset"] == evaluations[split]["dataset"]
    }
    if not same:
        raise UserError(
            f"--beside={workdir}: expected a score of a split and dataset that this run was scored on too "
            f"({', '.join(evaluations) or 'none yet'}): score both with sostenuto evaluate"
        )
    return name, same


def _of_splits(workdir: str, kind: str) -> dict[str, dict[str, Any]]:
    """Returns the files `KIND-SPLIT.json` of a workdir by split, the test split first."""
    return {
        split: found for split in reversed(SPLITS) if (found := _json(storage.join(workdir, f"{kind}-{split}.json")))
    }


def continued_split(manifest: Manifest) -> str | None:
    """Returns a split that `trainer.evaluate --generated` can continue; None where all are too short for it."""
    for split in _SCORED:
        if manifest.notes(split) >= 2 * generation_metrics.JUDGED_NOTES:
            try:
                performances = [(len(one.notes), one.piece) for one in manifest.read_performances(split)]
                generation_metrics.long_enough(*zip(*performances, strict=True))
            except UserError:
                continue
            return split
    return None


def _json(path: str) -> dict[str, Any] | None:
    return json.loads(storage.read_bytes(path)) if storage.exists(path) else None


def _reports(data: bytes) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a kill cut short is left out."""
    by_train_step = {}
    for line in data.decode().splitlines():
        try:
            report = json.loads(line)
        except ValueError:
            continue
        by_train_step[report["train_step"]] = report
    return [by_train_step[train_step] for train_step in sorted(by_train_step)]


def page(run: Run) -> str:
    """The text of the page."""
    sections = {
        "listen": _listen(run),
        "curves": _curves(run),
        "scores": _scores(run),
        "music": _music(run),
        "run": _facts(run),
    }
    names = {"listen": "Listen", "curves": "Curves", "scores": "Scores", "music": "Real music", "run": "The run"}
    nav = element(
        "nav", *(element("a", names[anchor], href=f"#{anchor}") for anchor in sections), aria_label="Parts of the page"
    )
    has_sound = run.samples is not None and any(sample.mp3 for sample in run.samples.samples)
    return document(
        f"{_name(run)}: {_best(run)}", _header(run), nav, _findings(run), *sections.values(),
        style=_STYLE, script=_SCRIPT, has_sound=has_sound,
    )  # fmt: skip


# Words


def _name(run: Run) -> str:
    return os.path.basename(run.workdir.rstrip("/")) or run.workdir


def _best(run: Run) -> str:
    scores = [report["val_nats"] for report in run.reports if "val_nats" in report]
    return f"{min(scores):.3f} nats/note on validation" if scores else "not scored"


def _seconds(run: Run) -> float | None:
    """How long the train_steps took in all, of all processes that went on with the run; None where it is not known."""
    targets = run.run.targets_per_epoch
    if not targets:
        return None
    epochs = np.diff([0.0, *(report["epoch"] for report in run.reports)])
    return float(
        sum(part * targets / report["notes_per_second"] for part, report in zip(epochs, run.reports, strict=True))
    )


def _header(run: Run) -> ET.Element:
    last = run.reports[-1]
    config = run.config
    scores = [report for report in run.reports if "val_nats" in report]
    shown = []
    evaluation = next(iter(run.evaluations.values()), None)
    if evaluation:
        low, high = evaluation["confidence_95"]["total"]
        shown.append(
            (
                f"{evaluation['split']} split",
                f"{evaluation['nats_per_note']['total']:.3f}",
                f"nats/note, {low:.2f} to {high:.2f}",
            )
        )
        if diagnostics.standing(evaluation):
            gain = evaluation["baselines"]["ngram"]["total"] - evaluation["nats_per_note"]["total"]
            side = "better" if gain >= 0 else "worse"
            shown.append(("against counting", f"{abs(gain):.2f}", f"nats/note {side} than the n-gram baseline"))
    if scores:
        best = min(scores, key=lambda report: report["val_nats"])
        shown.append(
            ("validation, best", f"{best['val_nats']:.3f}", f"nats/note, at train_step {best['train_step']:,}")
        )
    shown.append(("train_steps", f"{last['train_step']:,}", f"{last['epoch']:.1f} epochs"))
    seconds = _seconds(run)
    if seconds is not None:
        shown.append(("trained for", duration(seconds), "h:mm:ss, without scoring"))
    speeds = [report["notes_per_second"] for report in run.reports]
    shown.append(("throughput", f"{float(np.median(speeds)):,.0f}", "notes/s, median"))
    kind = "times as distributions" if config.model == "density" else "times as plain numbers"
    lead = f"A next-note model of {config.layers} x {config.units} units, {kind}"
    if run.run.parameters is not None:
        lead += f", {run.run.parameters:,} parameters"
    if run.manifest:
        manifest = run.manifest
        lead += f", trained on {manifest.notes('train'):,} notes of {manifest.performances('train'):,} performances"
    lead += ". Scores are nats per note, the model's surprise at the next note: less is better."
    return element(
        "header",
        element("p", "Sostenuto · a training run", class_="eyebrow"),
        element("h1", _name(run)),
        element("p", lead, class_="lead"),
        tiles(*shown),
    )


def _findings(run: Run) -> ET.Element:
    circumstances = run.circumstances
    can_score = run.scored == "validation" or (run.manifest and run.manifest.notes("validation") > 0)
    score = _command("evaluate", run, "--split=validation") if can_score or not run.manifest else None
    found = diagnostics.of_training(circumstances, score)
    for name, (split, sha256) in run.foreign.items():
        told = f"It is left out here. Its dataset has sha256 {sha256[:12]}…, the run's {str(run.run.dataset)[:12]}…."
        flags = ["--generated"] if name.startswith("generated") else []
        advice = f"Evaluate on the run's dataset: {_command('evaluate', run, f'--split={split}', *flags)}"
        found.append(Diagnostic(True, f"{name} is of another dataset", told, advice))
    if not run.evaluations:
        found.append(Diagnostic(False, *_not_evaluated(run)))
    for evaluation in run.evaluations.values():
        found += diagnostics.of_evaluation(evaluation, circumstances)
        found += _of_other_weights(run, evaluation, "The evaluation")
    if not run.generated:
        found.append(Diagnostic(False, *_not_compared(run)))
    for generated in run.generated.values():
        found += diagnostics.of_generated(generated, circumstances)
        found += _of_other_weights(run, generated, "The comparison with real music", "--generated")
    if run.samples:
        if not run.generated:
            found += diagnostics.of_samples(run.samples, circumstances)
        if run.best_train_step is not None:
            advice = f"Remove {samples.SAMPLES_NAME}/ from the workdir, then: {_command('report', run)}"
            train_step = run.samples.document["train_step"]
            found += diagnostics.of_other_weights(train_step, run.best_train_step, "The music below", advice)
    warnings = sum(one.is_warning for one in found)
    told = f"{warnings} {'warning' if warnings == 1 else 'warnings'}." if warnings else _looked_for(run)
    if any(not one.is_warning for one in found):
        told += " Missing parts come last."
    items = [
        element(
            "li",
            element("b", f"{'⚠ ' if one.is_warning else ''}{one.title}."),
            element("p", one.told),
            element("p", *_advice(one.advice), class_="small") if one.advice else None,
            class_="warning" if one.is_warning else None,
        )
        for one in sorted(found, key=lambda one: not one.is_warning)
    ]
    content = [element("ul", *items, class_="findings")] if items else []
    return section("What to know", told, *content, anchor="know")


def _looked_for(run: Run) -> str:
    """Returns what the page looked for in vain, as far as this workdir can show it."""
    looked_for = [
        *(["overfitting"] if len(run.circumstances.scores) > 1 else []),
        *(["copied music", "repetition"] if run.generated else []),
        *(["a rhythm that has collapsed"] if run.generated or run.samples else []),
        *(["counting that does as well"] if any(map(diagnostics.standing, run.evaluations.values())) else []),
    ]
    return (
        f"Nothing looks wrong. The page looked for {', '.join(looked_for)}." if looked_for else "Nothing looks wrong."
    )


def _of_other_weights(run: Run, document: Mapping[str, Any], subject: str, *flags: str) -> list[Diagnostic]:
    if run.best_train_step is None:
        return []
    split = document["split"]
    advice = _command("evaluate", run, f"--split={split}", *flags)
    return diagnostics.of_other_weights(
        document["train_step"], run.best_train_step, f"{subject} ({split} split)", f"Evaluate again: {advice}"
    )


def _not_evaluated(run: Run) -> tuple[str, str, str]:
    """Returns a title, a sentence and advice for a run without an evaluation."""
    title = "Not evaluated yet"
    if run.scored is None:
        return (
            title,
            "The dataset has no notes to score it on.",
            "Preprocess the corpus again with shares for validation and test, such as --split_fractions=0.8,0.1,0.1.",
        )
    evaluate = _command("evaluate", run, f"--split={run.scored}")
    return title, "No split has been scored note by note.", f"Score one: {evaluate}"


def _not_compared(run: Run) -> tuple[str, str, str]:
    """Returns a title, a sentence and advice for a run whose music was not compared with real music."""
    if run.continued is None:
        return (
            "The music cannot be compared with real music",
            f"That takes two pieces of {generation_metrics.JUDGED_NOTES} notes in the test or the validation split, "
            f"{generation_metrics.PRIMER_NOTES} to start from and {generation_metrics.CONTINUATION_NOTES} to compare "
            "with. The pieces of this dataset are shorter.",
            "",
        )
    evaluate = _command("evaluate", run, f"--split={run.continued}", "--generated")
    return (
        "The music is not compared with real music yet",
        "Distributions, repetition and copies were not measured.",
        f"Measure them: {evaluate}",
    )


def _advice(text: str) -> list[ET.Element | str]:
    """Returns advice with its flags and its command, if there is one, as code."""
    before, program, rest = text.partition(f"{_PROGRAM} ")
    parts: list[ET.Element | str] = [
        element("code", part, class_="whole") if part.startswith("--") else part for part in _FLAG.split(before)
    ]
    return [*parts, command(program + rest)] if program else parts


def _command(name: str, run: Run, *flags: str) -> str:
    """Returns a command for this run; DATASET stands for a dataset that is no longer at its place."""
    data = str(run.run.data) if run.manifest else "DATASET"
    return shlex.join([_PROGRAM, name, f"--workdir={run.workdir}", f"--data={data}", *flags])


def _note(told: str, advice: str = "") -> ET.Element:
    """Returns a note in the place of a missing part."""
    return element("p", f"{told} ", *_advice(advice), class_="note")


# Samples


def _listen(run: Run) -> ET.Element:
    title = "Listen"
    report = _command("report", run)
    if run.samples is None:
        # A model of last positions never saw the beginning of a performance, so that it cannot start from silence.
        if run.config.positions == "last" and run.manifest and not run.manifest.performances("validation"):
            note = _note("There are none: this model needs primers, and the dataset has no validation split.")
        else:
            note = _note("There are none yet.", f"Play them: {report}")
        return section(title, "Samples of the model's music.", note, anchor="listen")
    shown = run.samples.samples
    continued = any(one.primer_notes for one in shown)
    told = (
        f"{len(shown)} samples, played with the weights of train_step {run.samples.document['train_step']:,}. "
        + (
            "Each continues the beginning of a performance of the validation split: first the performer's notes, then "
            "the model's. "
            if continued
            else "Each starts from silence. "
        )
        + "Louder notes have a stronger colour."
        + (" A click on a roll plays from there." if any(one.mp3 for one in shown) else "")
    )
    keys = [("primer", "primer, the performer's")] if continued else []
    content = [legend(*keys, ("played", "played by the model"))]
    if not all(one.mp3 for one in shown):
        needs = "The samples have no sound yet."
        content.append(_note(needs, f"Install soundfile (pip install '.[train]' in a checkout), then: {report}"))
    content.append(element("div", *(_sample(index, one) for index, one in enumerate(shown, 1)), class_="samples"))
    return section(title, told, *content, anchor="listen")


def _sample(index: int, one: samples.Sample) -> ET.Element:
    seconds, seam = one.notes.seconds, 0.0
    if 0 < one.primer_notes < len(one.notes):
        seam = one.notes.onset_us[one.primer_notes] / 1e6
    low, high = (note_name(int(pitch)) for pitch in (one.notes.pitch.min(), one.notes.pitch.max()))
    after = f"after {one.primer}" if one.primer else "from silence"
    played = len(one.notes) - one.primer_notes
    told = (
        f"Piano roll of sample {index}, {after}: {seconds:.0f} seconds, {low} to {high}; "
        + (f"{one.primer_notes} notes of the primer, then from {seam:.0f} seconds on " if one.primer_notes else "")
        + f"{played} notes by the model."
    )
    midi = "data:audio/midi;base64," + base64.b64encode(one.midi).decode()
    listen = [element("a", "MIDI", download=f"{one.name}.mid", href=midi, aria_label=f"MIDI file of sample {index}")]
    if one.mp3:
        listen.insert(
            0,
            element(
                "audio",
                controls="controls",
                preload="metadata",
                src="data:audio/mpeg;base64," + base64.b64encode(one.mp3).decode(),
                aria_label=f"Sample {index}, {after}",
            ),
        )
    words = f" {after}, {played} notes by the model" + (f" from {seam:.0f} s on" if seam else "")
    return element(
        "figure",
        element("figcaption", element("b", f"Sample {index}"), words),
        piano_roll(one.notes, one.primer_notes, told=told),
        element("div", *listen, class_="listen"),
        class_="sample",
    )


# Curves


def _curves(run: Run) -> ET.Element:
    reports = run.reports
    last = max(reports[-1]["train_step"], 1)
    along = continuous(0, last, count=4)
    nlls = tuple(f"{field}_nll" for field in _FIELDS)
    panels: list[tuple[str, str, tuple[str, ...], str | None]] = [
        ("loss", "weighted, as it is minimized", ("loss",), None),
        ("total", "nats/note", nlls, "val_nats"),
        *((field, "nats/note", (f"{field}_nll",), f"val_{field}_nll") for field in _FIELDS),
        ("velocity", "nats/note", ("velocity_nll",), None),
        ("step", "squared error, seconds²", ("step_mse",), None),
        ("duration", "squared error, seconds²", ("duration_mse",), None),
    ]
    figures = []
    for title, unit, trained, scored in panels:
        series = []
        points = _points(reports, trained)
        if points:
            series.append(_series("training", "train thin", points, "{:.3f}"))
        points = _points(reports, (scored,)) if scored else []
        if points:
            kind = "validation dots" if len(points) <= 60 else "validation"
            series.append(_series("validation", kind, points, "{:.3f}"))
        if series:
            up = _range([one.points for one in series], last)
            figures.append(plot(title, unit, series, along, up, told=_curve_in_words(title, unit, series)))
    for title, unit, key, form in (
        ("learning rate", "of the next update", "learning_rate", "{:.3g}"),
        ("throughput", "notes/s, scoring left out", "notes_per_second", "{:,.0f}"),
    ):
        one = _series(title, "rate", _points(reports, (key,)), form)
        up = continuous(0, 1.05 * max(value for _, value in one.points) or 1)
        figures.append(plot(title, unit, [one], along, up, told=_curve_in_words(title, unit, [one])))
    told = (
        "Over train_steps. Training is measured on the windows that the model reads, with the run's augmentation and "
        "dropout; validation on whole performances that it was not trained on. Values far above, at the start, are cut "
        "off."
    )
    return section(
        "Curves", told, legend(("train", "training"), ("validation", "validation")),
        element("div", *figures, class_="multiples"), *_score_table(run), anchor="curves",
    )  # fmt: skip


def _points(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[tuple[float, float]]:
    """(train_step, sum of some metrics) where a report has them all, all finite; thinned to what can be seen."""
    points = [
        (report["train_step"], float(sum(report[name] for name in names)))
        for report in reports
        if all(report.get(name) is not None for name in names)
    ]
    points = [point for point in points if math.isfinite(point[1])]
    every = -(-len(points) // _POINTS)
    # The last is always there.
    return points[::-1][:: max(every, 1)][::-1]


def _series(name: str, kind: str, points: Sequence[tuple[float, float]], form: str) -> Series:
    at = [f"train_step {train_step:,}" for train_step, _ in points]
    return Series(name, kind, points, at, [form.format(value) for _, value in points])


def _range(curves: Sequence[Sequence[tuple[float, float]]], last: int) -> Axis:
    """An axis for what comes after the start of the run, with a margin."""
    late = [value for curve in curves for train_step, value in curve if train_step >= _WARM_UP_SHARE * last]
    low, high = min(late), max(late)
    margin = 0.05 * (high - low) or 0.5
    return continuous(low - margin, high + margin)


def _curve_in_words(title: str, unit: str, series: Sequence[Series]) -> str:
    parts = []
    for one in series:
        lowest = min(range(len(one.points)), key=lambda index: one.points[index][1])
        parts.append(
            f"{one.name} goes from {one.values[0]} at {one.at[0]} to {one.values[-1]} at {one.at[-1]}, lowest "
            f"{one.values[lowest]} at {one.at[lowest]}"
        )
    return f"{title[:1].upper()}{title[1:]}, {unit}, over train_steps: {'; '.join(parts)}."


def _score_table(run: Run) -> list[ET.Element]:
    """The validation scores as numbers, to be unfolded."""
    scores = [report for report in run.reports if "val_nats" in report]
    if not scores:
        return []
    best = min(scores, key=lambda report: report["val_nats"])
    keys = ["val_nats", *(f"val_{field}_nll" for field in _FIELDS)]
    heads = ["train_step", "total", *_FIELDS, "pitch right"]
    every = -(-len(scores) // 40)
    rows = [
        [f"{report['train_step']:,}", *(f"{report[key]:.3f}" for key in keys), f"{report['val_pitch_top1']:.1%}"]
        for report in scores[::-1][::every][::-1]
    ]
    table = _table(
        "Validation scores, nats/note", heads, rows,
        is_best=lambda row: row[0] == f"{best['train_step']:,}", class_="compact",
    )  # fmt: skip
    return [element("details", element("summary", "The validation scores in numbers"), scrolling("Scores", table))]


def _table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str | ET.Element]],
    *,
    is_best: Callable[[Sequence[str | ET.Element]], bool] | None = None,
    class_: str | None = None,
) -> ET.Element:
    """A table whose first column names the rows, and whose other columns are numbers."""
    body = [
        element(
            "tr",
            element("th", name, scope="row"),
            *(element("td", cell, class_="number") for cell in cells),
            class_="best" if is_best and is_best((name, *cells)) else None,
        )
        for name, *cells in rows
    ]
    first, *others = heads
    head = [element("th", first, scope="col"), *(element("th", name, scope="col", class_="number") for name in others)]
    return element(
        "table", element("caption", caption, class_="hidden"), element("thead", element("tr", *head)),
        element("tbody", *body), class_=class_,
    )  # fmt: skip


# Scores


def _scores(run: Run) -> ET.Element:
    title = "Scores"
    told = (
        "How well the model predicts each note of a split, in nats per note: less is better. Below each score is its "
        "95 % confidence interval over performances."
    )
    if not run.evaluations:
        return section(title, told, _note(*_not_evaluated(run)[1:]), anchor="scores")
    content: list[ET.Element] = []
    for split, evaluation in run.evaluations.items():
        content.append(element("h3", f"The {split} split"))
        comparisons = [(name, splits[split]) for name, splits in run.comparisons if split in splits]
        content.append(scrolling(f"Scores of the {split} split", _against_others(split, evaluation, comparisons)))
        if compared := diagnostics.against_counting(evaluation):
            content.append(
                element("p", f"{compared} The n-gram only counts the values that followed the same few notes.")
            )
        content.append(
            element(
                "p",
                f"The likeliest pitch is right for {evaluation['pitch_top1']:.1%} of the notes, one of the five "
                f"likeliest for {evaluation['pitch_top5']:.1%}; the step is within 30 ms for "
                f"{evaluation['step_within_30ms']:.1%}. Scored: {evaluation['notes']:,} notes of "
                f"{evaluation['performances']:,} performances, with the weights of train_step "
                f"{evaluation['train_step']:,}.",
                class_="small",
            )
        )
        if len(evaluation["by_composer"]) > 1:
            content.append(scrolling(f"The {split} split by composer", _by_composer(split, evaluation)))
    return section(title, told, *content, anchor="scores")


def _against_others(
    split: str, evaluation: Mapping[str, Any], comparisons: Sequence[tuple[str, Mapping[str, Any]]]
) -> ET.Element:
    def row(name: str, own: Mapping[str, Any]) -> list[str | ET.Element]:
        return [name, *(with_interval(own, figure) for figure in _FIGURES)]

    def with_interval(own: Mapping[str, Any], figure: str) -> ET.Element:
        low, high = own["confidence_95"][figure]
        interval = element("span", f"{low:.3f} ", element("span", f"to {high:.3f}", class_="whole"), class_="ci")
        return element("span", f"{own['nats_per_note'][figure]:.3f}", interval)

    rows = [row("this model", evaluation), *(row(*other) for other in comparisons)]
    baselines = evaluation.get("baselines") or {}
    for key, name in (("ngram", "n-gram"), ("histogram", "histogram")):
        if key in baselines:
            rows.append([name, *(f"{baselines[key][figure]:.3f}" for figure in _FIGURES)])
    if not baselines:
        rows.append(["counting alone", *["not measured"] * len(_FIGURES)])
    return _table(
        f"Nats per note on the {split} split, of this model{', other runs' * bool(comparisons)} "
        "and models that only count",
        ["", *_FIGURES], rows,
        is_best=lambda row: row[0] == "this model",
    )  # fmt: skip


def _by_composer(split: str, evaluation: Mapping[str, Any]) -> ET.Element:
    composers = sorted(evaluation["by_composer"].items(), key=lambda one: one[1]["nats_per_note"]["total"])
    rows = [
        [
            name,
            *(f"{own['nats_per_note'][figure]:.3f}" for figure in _FIGURES),
            f"{own['notes']:,}",
            f"{own['performances']:,}",
        ]
        for name, own in composers
    ]
    return _table(
        f"Nats per note on the {split} split by composer, best first",
        ["composer", *_FIGURES, "notes", "performances"], rows,
    )  # fmt: skip


# What it plays


def _music(run: Run) -> ET.Element:
    title = "The music, compared with real music"
    told = (
        "The model continues performances that it was not trained on. Its continuations are compared with real music "
        "of other pieces. So are the performers' own continuations: their figures are what a model can reach."
    )
    if not run.generated:
        return section(title, told, _note(*_not_compared(run)[1:]), anchor="music")
    content: list[ET.Element] = []
    for split, generated in run.generated.items():
        content.append(
            element(
                "h3",
                f"{len(generated['primers'])} continuations of {generated['num_notes']} notes, {split} split",
            )
        )
        if "counts" in generated:
            content.append(legend(("held", "held-out music"), ("real", "real"), ("generated", "generated")))
            figures = [_distribution(name, generated) for name in DISTRIBUTIONS]
            content.append(element("div", *figures, class_="multiples"))
        content.append(scrolling(f"Distributions, {split} split", _overlaps(split, generated)))
        content.append(scrolling(f"Repetition and copies, {split} split", _of_each(split, generated)))
    return section(title, told, *content, anchor="music")


def _distribution(name: str, generated: Mapping[str, Any]) -> ET.Element:
    """Histograms of held-out, real and generated music over each other; times on a logarithmic axis, per octave."""
    distribution = DISTRIBUTIONS[name]
    shares = {music: np.array(generated["counts"][music][name], float) for music in _MUSIC}
    shares = {music: counts / max(counts.sum(), 1) for music, counts in shares.items()}
    inside = np.flatnonzero(
        np.max([np.minimum(np.cumsum(one), np.cumsum(one[::-1])[::-1]) for one in shares.values()], axis=0) > _CUT_SHARE
    )
    first, last = int(inside[0]), int(inside[-1]) + 1
    is_time = name in ("step", "duration")
    if is_time:
        # Tick 0, all below 5 ms, is drawn as the octave below that.
        edges: NDArray[np.floating] = np.append(0.25, distribution.edges[1:] - 0.5) * TICK_US / 1e6
        heights = {music: values / np.log2(edges[1:] / edges[:-1]) for music, values in shares.items()}
        middles = np.sqrt(edges[1:] * edges[:-1])
    else:
        edges = distribution.edges - (0.0 if name == "notes_per_second" else 0.5)
        heights, middles = shares, (edges[1:] + edges[:-1]) / 2
    along = continuous(float(edges[first]), float(edges[last]), log=is_time)
    named = _named_ticks(name, int(distribution.edges[first]), int(distribution.edges[last]))
    if named:
        along = Axis(along.place, [(along.place(value), text) for value, text in named])
    highest = max(float(values[first:last].max()) for values in heights.values())
    series = [
        Series(
            label,
            {"held_out": "held area", "real": "real thin", "generated": "generated"}[music],
            list(zip(middles[first:last].tolist(), heights[music][first:last].tolist(), strict=True)),
            [_bin_in_words(name, distribution.edges, index) for index in range(first, last)],
            [f"{share:.1%}" for share in shares[music][first:last]],
            edges[first : last + 1].tolist(),
        )
        for music, label in _MUSIC.items()
    ]
    nearness = generated["distributions"][name]
    words, _, unit = distribution.title.partition(", ")
    told = (
        f"Distribution of {words}: generated music overlaps {nearness['generated']['overlap']:.0%} with held-out "
        f"music, real continuations {nearness['real']['overlap']:.0%}."
    )
    up = continuous(0, 1.05 * highest)
    percent = Axis(up.place, [(place, f"{100 * float(text):g}%") for place, text in up.ticks])
    per = "share per octave" if is_time else "share"
    return plot(words, f"{unit + ', ' if unit else ''}{per}", series, along, percent, told=told)


def _named_ticks(name: str, low: int, high: int) -> list[tuple[float, str]]:
    """The ticks of a distribution's axis as a musician reads them; none where plain numbers do."""
    if name == "pitch":
        return [(pitch, note_name(pitch)) for pitch in range(-(-low // 12) * 12, high, 12)]
    if name == "pitch_class":
        return [(key, note_name(60 + key)[:-1]) for key in range(low, high)]
    if name == "interval":
        return [
            (semitones, f"{semitones:+d}" if semitones else "0") for semitones in range(-(-low // 12) * 12, high, 12)
        ]
    if name in ("step", "duration"):
        times = (0.0035, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
        ends = [max(edge - 0.5, 0.25) * TICK_US / 1e6 for edge in (low, high)]
        return [(time, f"{time:g}" if time > 0.005 else "0") for time in times if ends[0] <= time <= ends[1]]
    return []


def _bin_in_words(name: str, edges: np.ndarray, index: int) -> str:
    low, high = int(edges[index]), int(edges[index + 1])
    if name == "pitch":
        return note_name(low)
    if name == "pitch_class":
        return note_name(60 + low)[:-1]
    unit = {"step": " ms", "duration": " ms", "interval": " semitones"}.get(name, "")
    scale = 10 if unit == " ms" else 1
    if high - low == 1 and name != "notes_per_second":
        return f"{low * scale}{unit}"
    return f"{low * scale} to {(high - (name != 'notes_per_second')) * scale}{unit}"


def _overlaps(split: str, generated: Mapping[str, Any]) -> ET.Element:
    rows: list[list[str | ET.Element]] = []
    for name, by_music in generated["distributions"].items():
        rows.append(
            [
                name.replace("_", " "),
                *(f"{by_music[music]['overlap']:.3f}" for music in ("generated", "real")),
                *(f"{by_music[music]['kl']:.3f}" for music in ("generated", "real")),
            ]
        )
    mean = generated["mean_overlap"]
    rows.append(["mean", f"{mean['generated']:.3f}", f"{mean['real']:.3f}", "", ""])
    return _table(
        f"How far distributions overlap with those of held-out music of the {split} split, and their divergence",
        ["distribution", "overlap: generated", "real", "KL, nats: generated", "real"], rows,
    )  # fmt: skip


def _of_each(split: str, generated: Mapping[str, Any]) -> ET.Element:
    rows: list[list[str | ET.Element]] = []
    for key, name, mean, most in (
        ("pitch_class_entropy", "pitch-class entropy, bits", "{:.2f}", "{:.2f}"),
        ("longest_loop", "longest loop, notes", "{:.1f}", "{:,}"),
        ("repeated_8grams", "repeated 8-grams of pitches", "{:.1%}", "{:.1%}"),
        ("copied_run", "longest run copied from train, notes", "{:.1f}", "{:,}"),
    ):
        cells = [
            form.format(generated[key][music][which])
            for music in ("generated", "real")
            for which, form in (("mean", mean), ("max", most))
        ]
        rows.append([name, *cells])
    return _table(
        f"Repetition and copies in the continuations of the {split} split",
        ["per continuation", "generated: mean", "most", "real: mean", "most"], rows,
    )  # fmt: skip


# What was trained on what


def _facts(run: Run) -> ET.Element:
    config, said = run.config, run.run
    versions = ", ".join(f"{name} {version}" for name, version in (said.versions or {}).items())
    hosts = said.hosts or 1
    facts = {
        "workdir": run.workdir,
        "dataset": said.data,
        "fingerprint": said.dataset,
        "durations": {"ignore": "of the keys", "extend": "of the sound, with the pedal"}.get(said.sustain or ""),
        "device": f"{said.device}{f' on each of {hosts} hosts' if hosts > 1 else ''}" if said.device else None,
        "precision": config.precision,
        "versions": versions or None,
        "ended": _ended(run.result),
    }
    listed = element(
        "dl",
        *(part for name, value in facts.items() if value for part in (element("dt", name), element("dd", value))),
        class_="facts",
    )
    content = [listed]
    if run.manifest:
        rows = []
        for split in SPLITS:
            hours = run.manifest.document["splits"][split]["seconds"] / 3600
            rows.append(
                [split, f"{run.manifest.performances(split):,}", f"{run.manifest.notes(split):,}", f"{hours:,.1f}"]
            )
        table = _table("The dataset's splits", ["split", "performances", "notes", "hours"], rows, class_="compact")
        content.append(scrolling("The dataset's splits", table))
    else:
        content.append(_note("The dataset is no longer at its place, so that the figures of its splits are missing."))
    start = dataclasses.asdict(preset(config.preset))
    values = [
        element(
            "div",
            element("dt", name),
            element("dd", f"{value:g}" if isinstance(value, float) else str(value)),
            class_="changed" if value != start[name] else None,
        )
        for name, value in dataclasses.asdict(config).items()
    ]
    content.append(
        element(
            "details",
            element("summary", f"The config: the preset {config.preset}, with changed values in bold"),
            element("dl", *values, class_="config"),
        )
    )
    return section("The run", "Its dataset, machine and config.", *content, anchor="run")


def _ended(result: RunResult | None) -> str | None:
    if result is None:
        return None
    why = {"steps": "its length was reached", "patience": "the score stopped improving"}
    return f"at train_step {result.train_step:,}: {why.get(result.reason, result.reason)}"
