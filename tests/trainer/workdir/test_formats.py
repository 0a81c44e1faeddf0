"""JSON files of a workdir: what is written is read back, and a wrong file is an error that names file and key."""

import dataclasses
import json

import pytest

from sostenuto.data.json_record import write_json
from sostenuto.errors import UserError
from tests.factories import CONFIG, comparison, evaluation, reports
from trainer.presets import config_from_json
from trainer.workdir import layout
from trainer.workdir.evaluation_formats import Evaluation, GenerationEvaluation
from trainer.workdir.formats import ExportInfo, MetricsRecord, RunInfo, RunResult
from trainer.workdir.samples_index import SampleEntry, SamplesIndex

INDEX = {
    "train_step": 3, "num_notes": 4, "num_samples": 1, "temperature": 1.0, "top_p": 1.0, "returns": 2.0,
    "end_odds": 0.0, "seed": 0,
    "density": 0.0, "tempo": 1.0, "avoid_repeats": 0, "sustain": "ignore", "pedal": True, "notes_per_second": 5.5,
    "files": ["sample-000.mid"],
    "samples": [{"midi": "sample-000.mid", "primer": None, "primer_notes": 0, "seconds": 2.5}],
}  # fmt: skip
BY_COMMAND = {
    "workdir": "/w", "train_step": 3, "primer": None, "primer_notes": 0, "num_notes": 4, "num_samples": 1,
    "temperature": {"pitch": 1.0, "step": 1.0, "duration": 1.0, "velocity": 1}, "top_p": dict.fromkeys(
        ("pitch", "step", "duration", "velocity"), 0.5
    ), "returns": 0.0, "end_odds": 3.0, "seed": 0, "key": "D minor", "range": "C2-C7", "density": 8.0,
    "tempo": 1.25, "avoid_repeats": 8,
    "sustain": "extend", "pedal": False, "notes_per_second": 5.5, "files": [],
    "samples": [{"midi": "sample-000.mid", "seconds": 2.5, "synthesizer": "sines"}],
}  # fmt: skip
RESULT = {"train_step": 9, "best": None, "best_train_step": 0, "monitor": "loss", "reason": "steps"}
EXPORT = {"train_step": 3, "pitch_range": [21, 108], "composers": ["Alkan"], "config": dataclasses.asdict(CONFIG)}
LENGTH = dict.fromkeys(("steps", "horizon", "horizon_from", "evaluate_every", "revisions", "max_minutes"))
REGRESSION = {"residuals": {name: {"kind": "laplace", "centre": 0.0, "scale": 1} for name in ("step", "duration")}}


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (RunInfo, {}),
        (RunInfo, {"dataset": "5e", "data": "/d", "sustain": "ignore", "versions": {"python": "3.11"}}),
        (RunInfo, {"pitch_range": [21, 108], **LENGTH, "steps": 100, "horizon_from": 0, "max_minutes": 0}),
        (RunResult, RESULT),
        (RunResult, {**RESULT, "best": 1.5}),
        (Evaluation, {**evaluation(), **REGRESSION, "dataset": "5e", "sustain": None, "baselines": None}),
        (Evaluation, {**evaluation(), "dataset": "5e", "sustain": "ignore", "confidence_95": None}),
        (GenerationEvaluation, comparison()),
        (ExportInfo, EXPORT),
        (SamplesIndex, INDEX),
        (SamplesIndex, BY_COMMAND),
    ],
)
def test_a_file_that_is_read_and_written_again_has_the_same_content(kind, document, tmp_path):
    path = str(tmp_path / "file.json")
    write_json(path, document)
    record = kind.load(path)
    assert record.to_json() == document
    record.save(path)
    assert kind.load(path) == record
    assert kind.load_if_exists(str(tmp_path / "none.json")) is None


def test_the_keys_of_a_file_have_the_order_of_the_fields():
    assert list(SamplesIndex.from_json(BY_COMMAND, "x").to_json()) == list(BY_COMMAND)
    assert list(SamplesIndex.from_json(INDEX, "x").to_json()["samples"][0]) == list(INDEX["samples"][0])
    assert list(SampleEntry(midi="a", seconds=1.0).to_json()) == ["midi", "seconds"]


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (SamplesIndex, {"files": None}, r"file\.json: files: got null, expected a list\. Delete"),
        (SamplesIndex, {"files": ["a", 3]}, r"files\[1\]: got 3, expected a string"),
        (SamplesIndex, {"files": ["/a/sample-000.mid"]}, r'files\[0\]: got "/a/sample-000\.mid", expected a file name'),
        (SamplesIndex, {"pedal": 1}, r"pedal: got 1, expected true or false"),
        (SamplesIndex, {"temperature": "warm"}, r'temperature: got "warm", expected a number'),
        (SamplesIndex, {"temperature": {"pitch": 1}}, r"temperature\.step is missing"),
        (SamplesIndex, {"samples": [{}]}, r"samples\[0\]\.midi is missing"),
        (RunResult, {"train_step": 1.5}, r"train_step: got 1\.5, expected an integer"),
        (RunResult, {"train_step": True}, r"train_step: got true, expected an integer"),
        (RunResult, {"monitor": ["x" * 50]}, r"monitor: got \[\"x{30,}…, expected a string"),
        (RunInfo, {"sustain": "half"}, r"sustain: got \"half\", expected 'ignore' or 'extend'"),
        (RunInfo, {"pitch_range": [1]}, r"pitch_range: got \[1\], expected a list"),
        (RunInfo, {"versions": []}, r"versions: got \[\], expected an object"),
        (ExportInfo, {"train_step": "3"}, r'file\.json: train_step: got "3", expected an integer\. Delete'),
        (ExportInfo, {"composers": ["Alkan"], "config": None}, r"config: got null, expected an object"),
        (
            ExportInfo,
            {"composers": ["Alkan"], "config": {"units": "many"}},
            r'config\.units: got "many", expected an integer',
        ),
        (
            ExportInfo,
            {"composers": ["Alkan"], "config": {"units": 0}},
            r"file\.json: config: units=0: expected at least 1 and at most 16,384\. Delete",
        ),
    ],
)
def test_a_wrong_value_is_an_error_that_names_file_and_key(kind, change, words, tmp_path):
    document = {SamplesIndex: INDEX, RunResult: RESULT, RunInfo: {}, ExportInfo: EXPORT}[kind]
    (tmp_path / "file.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(UserError, match=words) as error:
        kind.load(str(tmp_path / "file.json"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("chroma", "words"),
    [
        (["00000000000f", "0f"], "chroma: got '0f', expected 12 hexadecimal digits"),
        (["00000000000F"], "chroma: got '00000000000F', expected 12"),
        ([], "chroma: got 0 seconds, expected 1 to 600"),
        (["00000000000f"] * 601, "chroma: got 601 seconds, expected 1 to 600"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_an_error(chroma, words):
    document = comparison()
    document["pictures"]["real"]["chroma"] = chroma
    with pytest.raises(UserError, match=rf"file\.json: {words}.*\. Delete the file"):
        GenerationEvaluation.from_json(document, "file.json")


def test_the_config_of_an_export_has_the_defaults_of_its_preset():
    config = {"preset": "tutorial", "units": 8, "model": "regression"}
    exported = ExportInfo.from_json({**EXPORT, "composers": ["Alkan"], "config": config}, "x")
    assert exported.config == config_from_json(config, "x")


@pytest.mark.parametrize("key", ["files", "samples", "train_step"])
def test_a_missing_key_is_named(key, tmp_path):
    (tmp_path / "file.json").write_text(json.dumps({name: value for name, value in INDEX.items() if name != key}))
    with pytest.raises(UserError, match=rf"file\.json: {key} is missing\. Delete"):
        SamplesIndex.load(str(tmp_path / "file.json"))


@pytest.mark.parametrize(("text", "words"), [("{", "expected JSON"), ("[]", r"got \[\], expected an object")])
def test_a_file_of_another_format_is_an_error(text, words, tmp_path):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UserError, match=rf"file\.json: {words}.* Delete the file and repeat"):
        RunResult.load(str(tmp_path / "file.json"))


def test_unknown_keys_are_ignored():
    assert RunResult.from_json({**RESULT, "later": 1}, "x") == RunResult.from_json(RESULT, "x")


def test_recorded_values_stay_when_others_are_recorded(tmp_path):
    layout.update_run(str(tmp_path), {"dataset": "5e", "pitch_range": (21, 108)})
    layout.update_run(str(tmp_path), {**LENGTH, "max_minutes": 0})
    assert list(json.loads((tmp_path / "run.json").read_text())) == ["dataset", "pitch_range", *LENGTH]
    assert layout.load_run(str(tmp_path)).pitch_range == (21, 108)


def test_metrics_are_in_order_and_the_later_line_of_a_train_step_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [MetricsRecord.from_json(line, "x").to_line() for line in reports()]
    assert [json.loads(line) for line in lines] == reports()
    again = json.dumps({**reports()[4], "loss": 1.0})
    path.write_text("".join([*lines, again, "\n", '{"train_step": 210']))
    records = MetricsRecord.load_all(str(path))
    assert [record.train_step for record in records] == [report["train_step"] for report in reports()]
    assert records[4].loss == 1.0
    path.write_text(lines[0] + '{"train_step": 20}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: epoch is missing\. Delete the line"):
        MetricsRecord.load_all(str(path))


def test_files_by_split_begin_with_the_test_split(tmp_path):
    for split in ("validation", "test"):
        document = {**evaluation(split), "dataset": "5e"}
        Evaluation.from_json(document, "x").save(Evaluation.path(str(tmp_path), split))
    assert (tmp_path / "evaluation-test.json").exists()
    assert list(Evaluation.load_splits(str(tmp_path))) == ["test", "validation"]
    assert GenerationEvaluation.load_splits(str(tmp_path)) == {}


def test_a_sample_has_its_own_primer_or_that_of_all():
    own, shared = SamplesIndex.from_json(INDEX, "x"), SamplesIndex.from_json({**BY_COMMAND, "primer": "p.mid"}, "x")
    assert own.primer_of(own.samples[0]) == (None, 0)
    assert shared.primer_of(shared.samples[0]) == ("p.mid", 0)
