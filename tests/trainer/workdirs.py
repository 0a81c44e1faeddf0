"""Workdirs as runs leave them, but written by hand: no training, and no TensorFlow."""

import json
import pathlib
from typing import Any, NamedTuple

from sostenuto.data.manifest import Manifest
from sostenuto.music.notes import FIELDS, Notes
from tests.trainer.datasets import random_notes
from trainer.config import Config
from trainer.evaluation import generation_metrics
from trainer.evaluation.generation_metrics import Music
from trainer.generation import samples
from trainer.workdir.formats import GenerationEvaluation, HeldOut, RunInfo, RunResult

CONFIG = Config(units=128, layers=1, steps=200, max_minutes=0, dropout=0.25)


class Played(NamedTuple):
    """What a player returns."""

    notes: list[Notes]
    notes_per_second: float


class StandInPlayer:
    """Plays without a model: scales after each primer."""

    def sample(self, primers, *, num_notes, **_: Any) -> Played:
        return Played([joined(one, random_notes(num_notes, index)) for index, one in enumerate(primers)], 1234.5)


def joined(primer: Notes, after: Notes) -> Notes:
    """One after the other, a fifth of a second between them."""
    if not len(primer):
        return after
    onset = [*primer.onset_us, *(after.onset_us + primer.onset_us[-1] + 200_000)]
    offset = [start + long for start, long in zip(onset, [*primer.duration_us, *after.duration_us], strict=True)]
    return Notes.from_onsets([*primer.pitch, *after.pitch], onset, offset, [*primer.velocity, *after.velocity])


def reports(scores=(9.0, 8.5, 8.2, 8.1)) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl each 10 train_steps to 200; the scores lie evenly among them."""
    lines = []
    for index in range(20):
        loss = 12 - 3 * (index / 19) ** 0.5
        line = {"train_step": 10 * (index + 1), "epoch": 0.1 * (index + 1), "loss": loss, "learning_rate": 1e-3,
                "notes_per_second": 1000.0, "pitch_nll": loss / 4, "step_nll": loss / 4, "duration_nll": loss / 4,
                "velocity_nll": loss / 4}  # fmt: skip
        if scores and (index + 1) % (20 // len(scores)) == 0:
            score = scores[(index + 1) // (20 // len(scores)) - 1]
            line |= {"val_nats": score, "val_pitch_top1": 0.2}
            line |= {f"val_{field}_nll": score / 3 for field in ("pitch", "step", "duration")}
        lines.append(line)
    return lines


def evaluation(split: str = "test", *, total: float = 7.5, ngram: float = 9.0, train_step: int = 200) -> dict[str, Any]:
    """evaluation-SPLIT.json."""

    def nats(value: float) -> dict[str, float]:
        return {"pitch": value / 3, "step": value / 3, "duration": value / 3, "total": value}

    return {
        "split": split, "nats_per_note": nats(total), "pitch_top1": 0.3, "pitch_top5": 0.65, "step_within_30ms": 0.78,
        "notes": 1234, "performances": 3, "train_step": train_step,
        "confidence_95": {name: [value - 0.1, value + 0.1] for name, value in nats(total).items()},
        "by_composer": {
            name: {"nats_per_note": nats(value), "notes": 600, "performances": 2}
            for name, value in (("Clara Schumann", total + 0.5), ("Fanny Hensel", total - 0.5))
        },
        "baselines": {"ngram": nats(ngram), "histogram": nats(10.5)},
    }  # fmt: skip


def comparison(split: str = "test", *, train_step: int = 200) -> dict[str, Any]:
    """generated-SPLIT.json, of random music."""
    music = {
        name: Music([random_notes(300, seed + index) for index in range(4)], list("abcd"))
        for seed, name in enumerate(("generated", "real", "held_out"))
    }
    metrics = generation_metrics.compare_generated(**music, train=[random_notes(300, 50)], first=20)
    return GenerationEvaluation(
        split=split, **metrics._asdict(), primers=["a", "b", "c", "d"], primer_notes=20, num_notes=280,
        held_out=HeldOut(4, 4, 1200), temperature=dict.fromkeys(FIELDS, 1.0), top_p=dict.fromkeys(FIELDS, 1.0), seed=0,
        train_step=train_step, sustain="ignore", dataset="",
    ).to_json()  # fmt: skip


def write_run(
    directory: pathlib.Path,
    data: pathlib.Path,
    *,
    lines: list[dict[str, Any]] | None = None,
    finished: bool = True,
    config: Config = CONFIG,
    **documents: dict[str, Any],
) -> pathlib.Path:
    """Writes a workdir without weights.

    Args:
        directory: where; it is created.
        data: the dataset.
        lines: of metrics.jsonl.
        finished: whether there is a result.json.
        config: the run's.
        documents: further files by name, as in evaluation_test for evaluation-test.json; of the run's dataset unless
            they name another one.
    """
    directory.mkdir(parents=True)
    lines = reports() if lines is None else lines
    (directory / "config.json").write_text(config.to_json())
    sha256 = Manifest.load(data).sha256
    RunInfo(
        dataset=sha256, data=str(data), sustain="ignore", steps=200, versions={"tensorflow": "2.21.0"},
        device="2 x Thinking Machine", hosts=2, parameters=4321, targets_per_epoch=5000,
    ).save(str(directory / "run.json"))  # fmt: skip
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        RunResult(200, 8.1, 200, "val_nats", "steps").save(str(directory / "result.json"))
    for name, document in documents.items():
        (directory / f"{name.replace('_', '-')}.json").write_text(
            json.dumps({**document, "dataset": document.get("dataset") or sha256})
        )
    return directory


def write_samples(directory: pathlib.Path, data: pathlib.Path, *, train_step: int = 200) -> None:
    """Lets the stand-in play the workdir's samples."""
    primers = samples.select_primers(Manifest.load(data))
    samples.write_samples(StandInPlayer(), primers, str(directory), train_step=train_step, sustain="ignore")
