"""Inputs of the tests: MIDI files, notes, corpora, datasets, configs, models and workdirs, all of them small.

Nothing here imports TensorFlow before a function needs it.
"""

import dataclasses
import hashlib
import json
import struct
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sostenuto.data.manifest import SPLITS, Manifest, Shard, Split, Statistics
from sostenuto.data.performance import Performance, encode_performance
from sostenuto.data.tfrecord import write_records
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import FIELDS, Notes
from trainer.config import Config
from trainer.evaluation import generation_metrics
from trainer.evaluation.generation_metrics import Music
from trainer.evaluation.note_statistics import measure_composers
from trainer.generation import samples
from trainer.workdir.evaluation_formats import GenerationEvaluation, HeldOut
from trainer.workdir.formats import RunInfo, RunResult

# ---- Files ----


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    """Writes files below a directory and returns it."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def read_files(directory: Path) -> dict[str, bytes]:
    """Returns every file below a directory by its relative path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def write_zip(path: Path, files: dict[str, bytes], top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{top}{name}", data)
    return path


# ---- Standard MIDI files, built byte by byte: a library would correct them ----

END_OF_TRACK = (0, b"\xff\x2f\x00")

# (ticks since the previous event, the event's bytes)
Event = tuple[int, bytes]


def on(delta: int, pitch: int, velocity: int = 64, channel: int = 0) -> Event:
    return delta, bytes([0x90 | channel, pitch, velocity])


def off(delta: int, pitch: int, channel: int = 0) -> Event:
    return delta, bytes([0x80 | channel, pitch, 0])


def pedal(delta: int, value: int, channel: int = 0) -> Event:
    return delta, bytes([0xB0 | channel, 64, value])


def program(delta: int, number: int, channel: int = 0) -> Event:
    return delta, bytes([0xC0 | channel, number])


def tempo(delta: int, microseconds_a_quarter: int) -> Event:
    return delta, b"\xff\x51\x03" + microseconds_a_quarter.to_bytes(3, "big")


def track(events: Iterable[Event], *, end: bool = True) -> bytes:
    """Returns an MTrk chunk; `end` adds the end-of-track event."""
    body = b"".join(_variable_length(delta) + data for delta, data in [*events, *([END_OF_TRACK] if end else [])])
    return b"MTrk" + struct.pack(">I", len(body)) + body


def midi_bytes(
    *tracks: Iterable[Event] | bytes, resolution: int = 500, midi_format: int = 1, declared_tracks: int | None = None
) -> bytes:
    """Returns a MIDI file of the given tracks (lists of events, or chunks).

    With the default resolution and MIDI's default tempo, a tick is a millisecond.
    """
    chunks = [item if isinstance(item, bytes) else track(item) for item in tracks]
    declared = len(chunks) if declared_tracks is None else declared_tracks
    return b"MThd" + struct.pack(">IHHH", 6, midi_format, declared, resolution) + b"".join(chunks)


def melody(pitches: Sequence[int], *, step: int = 250, duration: int = 200, velocity: int = 64) -> bytes:
    """Returns a MIDI file that plays the pitches one after another; times in milliseconds."""
    times = sorted(
        (time, kind, pitch)
        for index, pitch in enumerate(pitches)
        for time, kind, pitch in ((index * step, "on", pitch), (index * step + duration, "off", pitch))
    )
    events, now = [], 0
    for time, kind, pitch in times:
        events.append(on(time - now, pitch, velocity) if kind == "on" else off(time - now, pitch))
        now = time
    return midi_bytes(events)


def _variable_length(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))


# ---- Notes ----


def random_notes(seed: int, count: int = 200) -> Notes:
    """Returns random chords and rests with all velocities; no pitch overlaps itself."""
    rng = np.random.default_rng(seed)
    onset_us = np.cumsum(rng.choice([0, 120_000, 250_000, 1_500_000], count, p=[0.3, 0.4, 0.25, 0.05]))
    onset_us += rng.integers(0, 10_000, count)
    onset_us.sort()
    pitch = 21 + rng.permutation(np.resize(np.arange(88), count))
    duration_us = rng.integers(20_000, 900_000, count)
    # A note ends, at the latest, at the next onset of its pitch.
    for index in range(count):
        again = np.flatnonzero((pitch == pitch[index]) & (onset_us > onset_us[index]))
        if again.size:
            duration_us[index] = min(duration_us[index], onset_us[again[0]] - onset_us[index])
    first = np.unique(np.stack([onset_us, pitch]), axis=1, return_index=True)[1]
    return Notes.from_onsets(
        pitch[first], onset_us[first], (onset_us + duration_us)[first], rng.integers(1, 128, count)[first]
    )


def regular_notes(length: int, seed: int) -> Notes:
    """Returns notes with some regularity to learn: scales in one of two rhythms, with chords."""
    random = np.random.default_rng(seed)
    steps = np.where(random.random(length) < 0.2, 0, random.choice([120_000, 250_000], length))
    steps = (steps + random.integers(0, 9_000, length)).astype(np.int64)
    pitch = 48 + (np.arange(length) * 2 + random.integers(0, 3, length) + seed) % 36
    onset = np.cumsum(steps)
    duration = random.integers(60_000, 900_000, length)
    return Notes.from_onsets(pitch, onset, onset + duration, random.integers(30, 110, length))


# ---- Corpora and datasets ----

CSV_HEADER = "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration\n"

# Quoted commas, non-ASCII letters and performances that share a piece, as in MAESTRO's own.
MAESTRO_CSV = CSV_HEADER + (
    'Alban Berg,"Sonata, Op. 1",train,2018,2018/berg.midi,2018/berg.wav,698.66\n'
    "Frédéric Chopin,Étude,validation,2004,2004/one.midi,,12.5\n"
    "Frédéric Chopin,Étude,validation,2006,2006/two.midi,,12.5\n"
    "Franz Liszt,Mazeppa,test,2006,2006/three.midi,,1\n"
)

MAESTRO_FILES = {
    "2018/berg.midi": melody([60]),
    "2004/one.midi": melody([61]),
    "2006/two.midi": melody([62]),
    "2006/three.midi": melody([63]),
    "README": b"no music",
}

COMPOSERS = ("Fanny Hensel", "Clara Schumann")
"""Of the performances of each split, in turn."""


def write_dataset(
    directory: Path, lengths: dict[str, list[int]], *, seed: int = 0, straddling_pieces: Sequence[str] = ()
) -> Path:
    """Writes a finished dataset of random performances.

    Args:
        directory: the new dataset's directory.
        lengths: notes of each performance of each split; missing splits are empty.
        seed: of the notes.
        straddling_pieces: names of pieces, such as test-0, that another split is said to have too.
    """
    directory.mkdir(parents=True)
    splits, statistics = {}, {}
    for number, split in enumerate(SPLITS):
        performances = [
            Performance(
                f"{split}/{index}.mid",
                f"{split}-{index}",
                split,
                COMPOSERS[index % len(COMPOSERS)],
                "",
                0,
                regular_notes(length, seed + 100 * number + index),
            )
            for index, length in enumerate(lengths.get(split, []))
        ]
        notes = [performance.notes for performance in performances]
        shards = (_write_shard(directory / f"{split}-00000-of-00001.tfrecord", performances),) if performances else ()
        splits[split] = Split(
            len(notes), sum(map(len, notes)), sum(performance.seconds for performance in notes), shards
        )
        statistics[split] = Statistics(histograms=sum(map(Histograms.from_notes, notes), Histograms.zeros()))
    source = {"files": 1, "straddling_pieces": [*straddling_pieces]}
    Manifest(source, {"sustain": "ignore"}, splits, {}, statistics).save(directory)
    return directory


def _write_shard(path: Path, performances: list[Performance]) -> Shard:
    with path.open("wb") as file:
        write_records(file, map(encode_performance, performances))
    data = path.read_bytes()
    return Shard(path.name, len(performances), len(data), hashlib.sha256(data).hexdigest())


# ---- Configs and models ----

# Flags of the trainer by preset. Without samples, which take longer than such a run.
TINY = {
    "base": [
        *("--preset=base", "--units=16", "--head_units=16", "--seq_length=16", "--batch_size=8", "--warmup_steps=5"),
        "--samples=0",
    ],
    "tutorial": ["--preset=tutorial", "--units=16", "--seq_length=8", "--batch_size=8", "--samples=0"],
}

_TINY_MODELS = {
    "density": {
        "units": 16,
        "seq_length": 16,
        "head_units": 24,
        "pitch_embedding": 12,
        "time_embedding": 8,
        "velocity_embedding": 6,
    },
    "regression": {
        "units": 16,
        "seq_length": 16,
        "model": "regression",
        "layers": 1,
        "monitor": "loss",
        "evaluate_every": 0,
    },
}


def tiny_model(kind: str, *, seed: int = 0, pitch_range=None, composers=(), **changes):
    """Returns an untrained model of 16 units with random weights; `kind` is density or regression."""
    from trainer.model.heads import ALL_PITCHES
    from trainer.model.next_note import build_model

    model = build_model(
        Config(**{**_TINY_MODELS[kind], "composer_embedding": 4 if composers else 0, **changes}),
        pitch_range or ALL_PITCHES,
        composers,
    )
    random, random_ends = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    for variable in model.weights:
        # Ticks within a bin are 32 times as sensitive, and all of them should occur.
        spread = 0.02 if variable.name == "ticks" else 0.5
        source = random_ends if variable.path.startswith("end/") else random
        variable.assign(source.normal(0, spread, variable.shape))
    return model


def write_trained(directory: Path, model) -> Path:
    """Writes a workdir that holds a config and a model's weights as the best ones; returns it."""
    from trainer.checkpoints.manager import CheckpointManager, model_variables
    from trainer.workdir.layout import BEST_NAME, CONFIG_NAME, RUN_NAME

    directory.mkdir(exist_ok=True)
    (directory / CONFIG_NAME).write_text(model.config.to_json())
    run = {"pitch_range": model.heads.pitch_range, "composers": model.composers}
    (directory / RUN_NAME).write_text(json.dumps(run))
    extra = {"config": dataclasses.asdict(model.config)}
    CheckpointManager(str(directory / BEST_NAME), max_to_keep=1).save(7, model_variables(model), extra)
    return directory


def random_arrays(*shape: int, seed: int = 0):
    """Returns legal notes in arrays of the shape, int32; many chords, some rests of more than 10 s."""
    import tensorflow as tf

    from trainer.data.note_tensors import NoteTensors

    random = np.random.default_rng(seed)
    times = [np.where(random.random(shape) < 0.1, 0, random.lognormal(12, 1.5, shape).astype(np.int32)) for _ in "sd"]
    fields = random.integers(0, 128, shape), times[0], np.maximum(times[1], 1), random.integers(1, 128, shape)
    return NoteTensors(*(tf.constant(field, tf.int32) for field in fields))


# ---- Workdirs, without training ----

CONFIG = Config(units=128, layers=1, steps=200, max_minutes=0, dropout=0.25)


class Played(NamedTuple):
    """What a player returns."""

    notes: list[Notes]
    notes_per_second: float


class StandInPlayer:
    """Plays without a model: scales after each primer."""

    composers = ()

    def sample(self, primers, *, num_notes, **_: Any) -> Played:
        return Played([joined(one, regular_notes(num_notes, index)) for index, one in enumerate(primers)], 1234.5)


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
        name: Music([regular_notes(300, seed + index) for index in range(4)], list("abcd"))
        for seed, name in enumerate(("generated", "real", "held_out"))
    }
    metrics = generation_metrics.compare_generated(**music, train=[regular_notes(300, 50)], first=20)
    return GenerationEvaluation(
        split=split, **vars(metrics), primers=["a", "b", "c", "d"], primer_notes=20, num_notes=280,
        held_out=HeldOut(4, 4, 1200),
        by_composer=measure_composers(music["generated"].notes, music["real"].notes, ["Bach", "Ada", "Bach", ""]),
        temperature=dict.fromkeys(FIELDS, 1.0), top_p=dict.fromkeys(FIELDS, 1.0),
        returns=2.0, seed=0,
        train_step=train_step, sustain="ignore", dataset="",
    ).to_json()  # fmt: skip


def write_run(
    directory: Path,
    data: Path,
    *,
    lines: list[dict[str, Any]] | None = None,
    finished: bool = True,
    config: Config = CONFIG,
    **documents: dict[str, Any],
) -> Path:
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


def write_samples(directory: Path, data: Path, *, train_step: int = 200) -> None:
    """Lets the stand-in play the workdir's samples."""
    primers = samples.select_primers(Manifest.load(data))
    samples.write_samples(StandInPlayer(), primers, str(directory), train_step=train_step, sustain="ignore")
