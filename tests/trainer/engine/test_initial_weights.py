"""A run that starts with another run's weights, and the parts that it leaves as they came."""

import dataclasses
import json
import logging
import re
import shutil

import numpy as np
import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.factories import write_dataset
from tests.trainer.runs import metrics, weights
from tests.trainer.workdir.test_remote import CONFIG, put_directory
from trainer.callbacks.metrics import MetricsWriter
from trainer.data.note_table import load_table
from trainer.engine import loop
from trainer.engine.initial_weights import fingerprint
from trainer.evaluation import statistics
from trainer.evaluation.scorer import Scorer
from trainer.export import export_model
from trainer.model.next_note import build_model
from trainer.model.parts import named_weights
from trainer.workdir import layout
from trainer.workdir.load_model import load_model

# So small that no weight moves far.
STILL = {"learning_rate": 1e-12, "warmup_steps": 0, "steps": 2, "evaluate_every": 1, "log_every": 1}


def train(data, workdir, init_from="", config=CONFIG, **changes):
    options = {name: changes.pop(name) for name in ("stop_at",) if name in changes}
    config = config.replace(init_from=str(init_from), **changes)
    return loop.train(config, Manifest.load(data), str(workdir), callbacks=[MetricsWriter()], **options)


@pytest.fixture(scope="module")
def source(dataset, tmp_path_factory):
    """A finished run and its export."""
    workdir = tmp_path_factory.mktemp("source") / "a"
    loop.train(CONFIG, Manifest.load(dataset), str(workdir), callbacks=[MetricsWriter()])
    export_model(str(workdir))
    return workdir


@pytest.fixture(scope="module")
def other_data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("other") / "data", {"train": [90, 60], "validation": [50]}, seed=7)


def model_weights(workdir, directory="checkpoints") -> list[np.ndarray]:
    values = weights(workdir, directory)
    return [values[f"model/{index}/.ATTRIBUTES/VARIABLE_VALUE"] for index in range(len(values)) if
            f"model/{index}/.ATTRIBUTES/VARIABLE_VALUE" in values]  # fmt: skip


def assert_equal(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []


def score(model, data) -> float:
    scores = Scorer(model).score(load_table(Manifest.load(data), "validation"))
    return statistics.compute_metrics(statistics.sum_scores(scores)).nats_per_note["total"]


def test_the_first_scores_are_those_of_the_source_which_run_json_names(source, other_data, tmp_path, caplog):
    """With an average too: it starts with the same weights."""
    train(other_data, tmp_path / "b", source, ema=0.9, **STILL)
    expected = score(load_model(str(source)).model, other_data)
    assert [line["val_nats"] for line in metrics(tmp_path / "b")] == pytest.approx([expected] * 2, abs=1e-5)
    assert abs(score(build_model(CONFIG), other_data) - expected) > 0.1
    # TensorFlow warns of its own affairs, such as graphs that the process has traced before.
    ours = [record for record in caplog.records if record.name.startswith(("trainer", "sostenuto"))]
    assert not [record for record in ours if record.levelno >= logging.WARNING]
    loaded = load_model(str(source))
    assert json.loads((tmp_path / "b" / "run.json").read_text())["init_from"] == {
        "path": str(source),
        "train_step": loaded.train_step,
        "sha256": fingerprint(loaded.model),
    }
    assert "init_from" not in json.loads((source / "run.json").read_text())
    variable = next(iter(named_weights(loaded.model).values()))
    variable.assign(variable + 1e-6)
    assert fingerprint(loaded.model) != layout.load_run(str(tmp_path / "b")).init_from.sha256


def test_an_export_in_a_bucket_starts_a_run_as_its_workdir_does(source, other_data, tmp_path, gcs):
    put_directory(gcs, source / "export", "gs://bucket/passed-on")
    for name, directory in (("workdir", source), ("export", "gs://bucket/passed-on")):
        train(other_data, tmp_path / name, directory, steps=5)
    assert_equal(weights(tmp_path / "export"), weights(tmp_path / "workdir"))
    here, there = (layout.load_run(str(tmp_path / name)).init_from for name in ("workdir", "export"))
    assert there == dataclasses.replace(here, path="gs://bucket/passed-on")


def test_a_stopped_run_resumes_to_the_bit_without_its_source(source, other_data, tmp_path):
    changes = {"steps": 12, "ema": 0.9, "freeze": "embedding,heads/hidden"}
    train(other_data, tmp_path / "whole", source, **changes)
    gone = shutil.copytree(source, tmp_path / "gone")
    train(other_data, tmp_path / "parts", gone, stop_at=5, **changes)
    recorded = layout.load_run(str(tmp_path / "parts")).init_from
    shutil.rmtree(gone)
    result = train(other_data, tmp_path / "parts", gone, **changes)
    assert result.train_step == 12
    assert_equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert layout.load_run(str(tmp_path / "parts")).init_from == recorded
    assert train(other_data, tmp_path / "parts", gone, **changes) == result  # It is finished.


def test_a_run_without_a_readable_checkpoint_starts_with_the_source_again(source, other_data, tmp_path):
    train(other_data, tmp_path / "b", source, stop_at=1, **STILL)
    (manifest,) = (tmp_path / "b" / "checkpoints").rglob("checkpoint.json")
    manifest.write_text("{")
    train(other_data, tmp_path / "b", source, **STILL)
    for ours, theirs in zip(model_weights(tmp_path / "b"), model_weights(source, "best"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_weights_come_in_another_precision(source, other_data, tmp_path):
    train(other_data, tmp_path / "b", source, precision="float64", **STILL)
    here, there = model_weights(tmp_path / "b"), model_weights(source, "best")
    assert {values.dtype for values in here} == {np.dtype("float64")}
    for ours, theirs in zip(here, there, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"units": 16}, r"has units=8, this run units=16\. Pass --units=8$"),
        (
            {"layers": 2, "memory_units": 0},
            r"has layers=1, memory_units=32, this run layers=2, memory_units=0\. Pass --layers=1 --memory_units=32$",
        ),
        ({"recent_embedding": 0}, r"Pass --recent_embedding=64$"),
        ({"model": "regression", "evaluate_every": 0, "monitor": "loss"}, r"Pass --model=density$"),
    ],
    ids=str,
)
def test_another_shape_is_one_line_that_names_the_flags_to_pass(source, other_data, tmp_path, changes, words):
    with pytest.raises(UserError, match=words) as error:
        train(other_data, tmp_path / "b", source, **changes)
    assert str(error.value).startswith(f"--init_from={source}: has ")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "b").exists()


def test_a_shape_that_the_model_does_not_use_may_differ(dataset, tmp_path):
    config = CONFIG.replace(model="regression", evaluate_every=0, monitor="loss", steps=1)
    train(dataset, tmp_path / "a", config=config)
    train(dataset, tmp_path / "b", tmp_path / "a", config=config, head_units=9, seq_length=9)


def test_a_source_without_weights_is_one_line_and_leaves_nothing(other_data, tmp_path):
    (tmp_path / "a").mkdir()
    for files, words in (
        ({}, r"--init_from: .*a: is no workdir"),
        ({"config.json": CONFIG.to_json()}, r"--init_from: .*a: holds no checkpoint yet"),
    ):
        for name, text in files.items():
            (tmp_path / "a" / name).write_text(text)
        with pytest.raises(UserError, match=words) as error:
            train(other_data, tmp_path / "b", tmp_path / "a")
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"--init_from: .*none: no such directory"):
        train(other_data, tmp_path / "b", tmp_path / "none")
    assert not (tmp_path / "b").exists()


def test_durations_of_another_kind_are_a_warning(source, dataset, tmp_path, caplog):
    directory = shutil.copytree(source, tmp_path / "extended")
    layout.update_run(str(directory), {"sustain": "extend"})
    train(dataset, tmp_path / "b", directory, **STILL)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "has learned durations of sustain=extend, and the dataset's are of sustain=ignore" in line


def test_a_frozen_part_stays_to_the_bit_while_others_are_trained(source, other_data, tmp_path):
    names = list(named_weights(load_model(str(source)).model))
    train(other_data, tmp_path / "b", source, steps=6, freeze="lstm_0, heads/pitch_logits", ema=0.9, weight_decay=0.5)
    before = model_weights(source, "best")
    for directory in ("checkpoints", "best"):
        after = model_weights(tmp_path / "b", directory)
        same = {name for name, ours, theirs in zip(names, after, before, strict=True) if np.array_equal(ours, theirs)}
        assert {name for name in names if re.match(r"lstm_0/|heads/pitch_logits/", name)} <= same
        moved = set(names) - same
        assert {"embedding/pitch/embeddings", "norm_1/gamma", "heads/step_logits/kernel"} <= moved
    saved = weights(tmp_path / "b")
    trained = sum(values.size for name, values in zip(names, before, strict=True) if
                  not re.match(r"lstm_0/|heads/pitch_logits/", name))  # fmt: skip
    moments = [values.size for name, values in saved.items() if name.startswith("optimizer/") and values.ndim]
    assert sum(moments) == 2 * trained
    assert sum(values.size for name, values in saved.items() if name.startswith("ema/")) == trained


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        (
            "lstm0",
            r"no part 'lstm0'\. Did you mean 'lstm_0'\? Pass some of lstm_0, embedding, recent, composer, norm_1, ",
        ),
        ("embedding,heads/pitch_logit", r"no part 'heads/pitch_logit'\. Did you mean 'heads/pitch_logits'\?"),
        ("x", r"no part 'x'\. Pass some of lstm_0, "),
        ("lstm_0,embedding,recent,composer,norm_1,heads", r"every part is frozen, .*nothing to train\. Leave out"),
    ],
)
def test_what_cannot_be_frozen_is_one_line_and_leaves_nothing(source, other_data, tmp_path, freeze, words):
    with pytest.raises(UserError, match=words) as error:
        train(other_data, tmp_path / "b", source, freeze=freeze)
    assert str(error.value).startswith(f"--freeze={freeze}: ")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "b").exists()
