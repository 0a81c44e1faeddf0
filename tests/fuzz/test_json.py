"""Damaged JSON files: each is an error of one line, or read as what it says.

SOSTENUTO_FUZZ=10000 tries that many damages of each file, with SOSTENUTO_SEED as the seed, which a failure names.
"""

import dataclasses
import hashlib
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from sostenuto.inspect.dataset import Survey, describe_dataset
from tests.factories import comparison, evaluation, write_dataset, write_run, write_samples
from tests.trainer.workdir.test_formats import EXPORT
from trainer.presets import preset, read_config
from trainer.reporting.load import load_report
from trainer.reporting.page import render
from trainer.workdir.evaluation_formats import Evaluation, GenerationEvaluation
from trainer.workdir.formats import ExportInfo, RunInfo, RunResult
from trainer.workdir.samples_index import SamplesIndex
from tuning.trial import AttemptResult, TrialStatus

COUNT = int(os.environ.get("SOSTENUTO_FUZZ") or 40)
SEED = int(os.environ.get("SOSTENUTO_SEED") or 0)

# JSON texts of values that some place of a file does not expect.
VALUES = (
    "null", "true", "0", "-1", "7", "1.5", "-0.25", "1e999", "-1e999", "NaN", "9" * 30, "9" * 5000, '""', '"x"',
    '"\\ud800"', '"a\\u0000b"', '"/etc/passwd"', '"../x"', "[]", "{}", "[[]]", '{"a": {}}', "[null]", "[NaN]",
    "[" * 500 + "]" * 500, "[" * 100_000,
)  # fmt: skip
MARK = "\x7fvalue\x7f"


class Damage(NamedTuple):
    """A damaged text, and whether it still says the same."""

    text: bytes
    is_harmless: bool = False


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Returns the paths of all values of a document, of long lists only the first."""
    parts = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [*([path] if path else []), *(place for key, part in parts for place in places(part, (*path, key)))]


def damage(text: bytes, rng: random.Random) -> Damage:
    """Returns a damaged copy of a file."""
    lines = text.splitlines()
    if len(lines) > 1 and lines[1].startswith(b"{"):  # of a .jsonl
        number = rng.randrange(len(lines))
        lines[number] = damage(lines[number], rng).text.replace(b"\n", b" ")
        return Damage(b"\n".join(lines))
    kinds: list[Callable[[bytes, random.Random], Damage]] = [damage_bytes, damage_value, damage_value, damage_keys]
    return rng.choice(kinds)(text, rng)


def damage_bytes(text: bytes, rng: random.Random) -> Damage:
    start, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    changed = rng.choice((
        b"", text[:start], text[end:], text[:start] + text[end:], text[:end] + text[start:], text + text,
        text[:start] + bytes([rng.randrange(256)]) + text[start + 1 :], text.decode().encode("utf-16"),
        text[:start] + b"\0" * (end - start) + text[end:], rng.randbytes(64),
    ))  # fmt: skip
    return Damage(changed, changed == text)


def damage_value(text: bytes, rng: random.Random) -> Damage:
    """Replaces a value by another one."""
    document, place, parent = pick(text, rng)
    value = rng.choice(VALUES)
    is_same = json.dumps(parent[place[-1]]) == value
    parent[place[-1]] = MARK
    return Damage(json.dumps(document).replace(json.dumps(MARK), value).encode(), is_same)


def damage_keys(text: bytes, rng: random.Random) -> Damage:
    """Removes, renames, repeats, adds or reorders keys."""
    document, place, parent = pick(text, rng)
    kind, key = rng.choice(("remove", "rename", "repeat", "add", "reorder", "format")), place[-1]
    if kind == "format":
        return Damage(b"\xef\xbb\xbf \n" + json.dumps(document, indent=7).encode() + b"\n\n", True)
    if kind == "remove":
        del parent[key]
    elif isinstance(parent, dict) and kind == "rename":
        parent[f"{key}_"] = parent.pop(key)
    elif isinstance(parent, dict) and kind == "repeat":
        items = ", ".join(f"{json.dumps(name)}: {json.dumps(part)}" for name, part in [*parent.items(), (key, 0)])
        parent.clear()
        parent[MARK] = 0
        return Damage(json.dumps(document).replace(f"{json.dumps(MARK)}: 0", items).encode(), False)
    elif kind == "add":
        document["later"] = {"nested": [1, "x"]}
    elif kind == "reorder":
        return Damage(json.dumps(dict(reversed(document.items()))).encode(), True)
    return Damage(json.dumps(document).encode(), False)


def pick(text: bytes, rng: random.Random) -> tuple[Any, tuple, Any]:
    """Returns a copy of the document, the path of one of its values, and the part that has that."""
    document = json.loads(text)
    place = rng.choice(places(document))
    part = document
    for key in place[:-1]:
        part = part[key]
    return document, place, part


class Format(NamedTuple):
    """A file, and a function of its path that reads it and does with it what commands do."""

    name: str
    text: bytes
    read: Callable[[Path], Any]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    lengths = {"train": [70, 33], "validation": [70, 33], "test": [70]}
    directory = write_dataset(tmp_path_factory.mktemp("fuzz") / "data", lengths)
    (directory / "rejected.jsonl").write_text("")
    source = {"files": 6, "unlisted": 1, "straddling_pieces": ["A: B"], "metadata": "my.csv", "metadata_sha256": "5e"}
    dataclasses.replace(Manifest.load(directory), source=source).save(directory)
    return directory


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A workdir with every file that reports read."""
    workdir = tmp_path_factory.mktemp("fuzz") / "run"
    documents = {"evaluation_test": evaluation(), "generated_test": comparison()}
    write_run(workdir, dataset, **documents)
    write_samples(workdir, dataset)
    (workdir / "export.json").write_text(json.dumps(EXPORT))
    return workdir


def read_record(kind: Any) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        record = kind.load(str(path))
        # A record that is read can be written and read again.
        text = json.dumps(record.to_json(), allow_nan=False)
        assert kind.parse(text.encode(), "again") == record
        return record

    return read


def read_page(path: Path) -> str:
    workdir = path.parent.parent if path.parent.name == "samples" else path.parent
    return render(load_report(str(workdir)))


def read_dataset(path: Path) -> Any:
    manifest = Manifest.load(path.parent)
    describe_dataset(manifest, Survey(), width=80)
    return dataclasses.replace(manifest, sha256="")


RECORDS = {
    "run.json": RunInfo,
    "result.json": RunResult,
    "evaluation-test.json": Evaluation,
    "generated-test.json": GenerationEvaluation,
    "export.json": ExportInfo,
    "samples/samples.json": SamplesIndex,
}


def check(path: Path, read: Callable[[Path], Any], rng: random.Random, count: int) -> None:
    """Damages a file several times, and checks what its reader makes of it."""
    text, original = path.read_bytes(), read(path)
    try:
        for number in range(count):
            damaged = damage(text, rng)
            path.write_bytes(damaged.text)
            note = f"SOSTENUTO_SEED={SEED}: damage {number} of {path.name}: {damaged.text[:20_000]!r}"
            try:
                result = read(path)
            except UserError as error:
                assert not damaged.is_harmless, f"{note}: {error}"
                assert re.fullmatch(r"[^\n]+", str(error)), note
                assert str(path.parent) in str(error), f"{note}: {error}"
            except BaseException as error:
                error.add_note(note)
                raise
            else:
                assert not damaged.is_harmless or result == original, note
    finally:
        path.write_bytes(text)


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_file_of_a_workdir_is_an_error_of_one_line(run, name):
    check(run / name, read_record(RECORDS[name]), random.Random(f"{name} {SEED}"), COUNT)


@pytest.mark.parametrize("name", [*(name for name in RECORDS if name != "export.json"), "config.json", "metrics.jsonl"])
def test_a_damaged_file_of_a_workdir_gives_a_page_or_an_error_of_one_line(run, name):
    check(run / name, read_page, random.Random(f"page {name} {SEED}"), max(COUNT // 5, 4))


def test_a_damaged_config_file_is_an_error_of_one_line(tmp_path):
    path = tmp_path / "my.json"
    path.write_text(preset("large").to_json())
    check(path, read_config, random.Random(f"config {SEED}"), COUNT)


def test_a_damaged_dataset_json_is_an_error_of_one_line(dataset, tmp_path):
    path = tmp_path / "dataset.json"
    for name in ("dataset.json", "rejected.jsonl"):
        (tmp_path / name).write_bytes((dataset / name).read_bytes())
    check(path, read_dataset, random.Random(f"dataset {SEED}"), COUNT)


def test_a_damaged_study_json_is_an_error_of_one_line(tmp_path):
    from tests.tuning.studies import SPACE, study_config
    from tuning.study import Study

    config = study_config("hyperband", 6)

    def read(path: Path) -> Any:
        with Study(path.parent, SPACE, config) as study:
            study.next_trial("tuner1")
            trials = study.trials()
        return [trial.values for trial in trials]

    with Study(tmp_path, SPACE, config) as study:
        for _ in range(3):
            trial = study.next_trial("tuner0")
            study.report_score(trial.trial, trial.attempt, train_step=9, share=0.1, score=8.5)
            study.end_trial(trial.trial, trial.attempt, AttemptResult(TrialStatus.COMPLETED, 8.5, "steps", 9))
    check(tmp_path / "study.json", read, random.Random(f"study {SEED}"), max(COUNT // 2, 4))


def test_a_damaged_manifest_of_a_checkpoint_makes_it_corrupt(tmp_path):
    from trainer.checkpoints.manager import checksum_json, read_checkpoint

    path = tmp_path / "00000007" / "checkpoint.json"
    path.parent.mkdir()
    (path.parent / "variables").write_bytes(b"weights")
    files = {"variables": hashlib.sha256(b"weights").hexdigest()}
    manifest: dict[str, Any] = {"train_step": 7, "extra": {"score": 1.5, "config": {"units": 8}}, "files": files}
    path.write_text(json.dumps(manifest | {"sha256": checksum_json(manifest)}))

    def read(path: Path) -> Any:
        checkpoint = read_checkpoint(str(path.parent))
        if checkpoint is None:
            raise UserError(f"{path.parent} is corrupt")
        assert (checkpoint.train_step, checkpoint.extra) == (7, manifest["extra"])
        return checkpoint

    check(path, read, random.Random(f"checkpoint {SEED}"), COUNT)
