import dataclasses
import hashlib
import json

import pytest

from beam_preprocess.commit import commit_dataset
from beam_preprocess.plan import DatasetPlan
from beam_preprocess.shard_writer import ShardReport, SplitStats, write_shard
from sostenuto.data.manifest import FEW_TRAIN_NOTES, MANIFEST_NAME, Manifest
from sostenuto.data.performance import Performance
from sostenuto.errors import RecordError, UserError
from sostenuto.music.histograms import Histograms
from tests.factories import random_notes

PERFORMANCES = {
    "train": [Performance(f"{seed}.mid", f"{seed}.mid", "train", "", "", 0, random_notes(seed)) for seed in range(3)],
    "test": [Performance("9.mid", "9.mid", "test", "Anon.", "A Tune", 1999, random_notes(9))],
}


@pytest.fixture
def dataset(tmp_path):
    """A dataset with two shards of train, one of test and none of validation."""
    parts = {
        "train-00000-of-00002.tfrecord": PERFORMANCES["train"][:2],
        "train-00001-of-00002.tfrecord": PERFORMANCES["train"][2:],
        "test-00000-of-00001.tfrecord": PERFORMANCES["test"],
    }
    reports = []
    for name, performances in parts.items():
        temporary = str(tmp_path / f"{name}.tmp-000000000000")
        records, length, digest, crc = write_shard(temporary, performances)
        histograms = sum((Histograms.from_notes(p.notes) for p in performances), Histograms.zeros())
        notes = sum(len(p.notes) for p in performances)
        tally = SplitStats(notes=notes, microseconds=1_000_000, zero_length=0, drums=0, histograms=histograms)
        reports.append(ShardReport(name, temporary, records, length, digest, crc, tally, []))
    shards = {name: len(performances) for name, performances in parts.items()}
    commit_dataset(DatasetPlan(str(tmp_path), shards, source={}, options={}, max_rejected_fraction=0.0), reports)
    return tmp_path


def test_a_dataset_is_read_through_its_manifest(dataset):
    manifest = Manifest.load(dataset)
    assert manifest.sha256 == hashlib.sha256((dataset / MANIFEST_NAME).read_bytes()).hexdigest()
    assert manifest.shard_paths("train") == [
        str(dataset / "train-00000-of-00002.tfrecord"),
        str(dataset / "train-00001-of-00002.tfrecord"),
    ]
    assert (manifest.performances("train"), manifest.performances("test")) == (3, 1)
    read = list(manifest.read_performances("train"))
    assert [one.path for one in read] == ["0.mid", "1.mid", "2.mid"]
    assert all(one.notes == other.notes for one, other in zip(read, PERFORMANCES["train"], strict=True))
    assert manifest.notes("train") == sum(len(one.notes) for one in read)
    assert manifest.histograms("train") == sum((Histograms.from_notes(p.notes) for p in read), Histograms.zeros())


def test_only_a_training_split_of_few_notes_is_warned_of(dataset):
    manifest = Manifest.load(dataset)
    assert f"{manifest.notes('train'):,} notes, too few for a model that generalizes. Add" in manifest.size_warning()
    assert f"{FEW_TRAIN_NOTES:,} notes are the least" in manifest.size_warning()
    train = dataclasses.replace(manifest.splits["train"], notes=FEW_TRAIN_NOTES)
    assert not dataclasses.replace(manifest, splits={**manifest.splits, "train": train}).size_warning()


def test_files_that_the_manifest_does_not_name_are_not_read(dataset):
    (dataset / "train-00000-of-00001.tfrecord").write_bytes(b"of another run")
    assert len(list(Manifest.load(dataset).read_performances("train"))) == 3


def test_an_empty_split_is_said_to_be_empty(dataset):
    manifest = Manifest.load(dataset)
    assert (manifest.performances("validation"), manifest.shard_paths("validation")) == (0, [])
    with pytest.raises(UserError, match="validation split is empty, expected one of: train, test"):
        next(manifest.read_performances("validation"))


def test_an_unknown_split_is_refused(dataset):
    with pytest.raises(UserError, match=r"valid'.*train, validation, test"):
        Manifest.load(dataset).notes("valid")


def test_an_unfinished_dataset_is_refused(dataset):
    (dataset / MANIFEST_NAME).unlink()
    with pytest.raises(UserError, match="unfinished or not a dataset"):
        Manifest.load(dataset)


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match="absent: no such directory"):
        Manifest.load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected JSON"),
        ("[]", "schema version None, expected 1"),
        ('{"schema_version": 1}', "source: got null, expected an object"),
        ('{"schema_version": 1, "source": {}, "options": {}}', "source is missing|splits is missing"),
        ("\xff", "expected JSON: 'utf-8' codec"),
    ],
)
def test_a_damaged_manifest_is_refused(dataset, text, words):
    (dataset / MANIFEST_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=rf"dataset\.json: .*{words}.*\. Run sostenuto preprocess again"):
        Manifest.load(dataset)


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("source", "files"), "many", r'source: files: got "many", expected an integer'),
        (("options", "sustain"), "half", r"options: sustain: got \"half\", expected 'ignore' or 'extend'"),
        (("splits", "test", "notes"), -1, r"splits\.test\.notes: got -1, expected an integer"),
        (("splits", "test", "seconds"), float("nan"), r"splits\.test\.seconds: got NaN, expected a number"),
        (("splits", "test", "notes"), 10**30, r"splits\.test\.notes: got 1e\+30, expected an integer"),
        (("splits", "train", "shards"), {}, r"splits\.train\.shards: got {}, expected a list"),
        (("statistics", "train", "histograms", "pitch"), [2**60], r"statistics\.train\.histograms: histogram of pitch"),
        *(
            (
                ("splits", "test", "shards", 0, "file"),
                name,
                rf'splits\.test\.shards\[0\]\.file: got "{name}", expected a file',
            )
            for name in ("/etc/passwd", "../x", "a/b", "..", "")
        ),
        (("splits", "test"), None, r"splits\.test: got null, expected an object"),
    ],
)
def test_a_wrong_value_of_a_manifest_is_named(dataset, keys, value, words):
    part = document = json.loads((dataset / MANIFEST_NAME).read_bytes())
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    (dataset / MANIFEST_NAME).write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"dataset\.json: {words}.*Run sostenuto preprocess again") as error:
        Manifest.load(dataset)
    assert "\n" not in str(error.value)


def test_another_schema_version_is_refused(dataset):
    document = json.loads((dataset / MANIFEST_NAME).read_bytes())
    (dataset / MANIFEST_NAME).write_text(json.dumps({**document, "schema_version": 99}))
    with pytest.raises(UserError, match="schema version 99, expected 1"):
        Manifest.load(dataset)


def test_a_shard_of_another_dataset_is_noticed(dataset):
    """Its records are sound, so that only the manifest can tell."""
    one, two = (dataset / f"train-0000{index}-of-00002.tfrecord" for index in (0, 1))
    one.write_bytes(two.read_bytes())
    message = rf"{one.name}: got [\d,]+ bytes, expected [\d,]+ as in dataset\.json\. Run sostenuto preprocess again$"
    with pytest.raises(RecordError, match=message):
        next(Manifest.load(dataset).read_performances("train"))


def test_a_shard_of_the_same_length_but_other_content_is_noticed(dataset):
    path = dataset / "test-00000-of-00001.tfrecord"
    length = path.stat().st_size
    write_shard(str(dataset / "other"), [dataclasses.replace(PERFORMANCES["test"][0], year=2000)])
    path.write_bytes((dataset / "other").read_bytes())
    assert path.stat().st_size == length
    with pytest.raises(RecordError, match=rf"{path.name}: got sha256 [0-9a-f]{{12}}…, expected [0-9a-f]+"):
        next(Manifest.load(dataset).read_performances("test"))


def test_a_manifest_with_another_count_of_records_is_noticed(dataset):
    text = (dataset / MANIFEST_NAME).read_text()
    (dataset / MANIFEST_NAME).write_text(text.replace('"records": 2', '"records": 3'))
    with pytest.raises(RecordError, match="got 2 records, expected 3"):
        list(Manifest.load(dataset).read_performances("train"))


def test_a_manifest_is_written_to_the_byte(dataset):
    content = (dataset / MANIFEST_NAME).read_bytes()
    Manifest.load(dataset).save(dataset)
    assert (dataset / MANIFEST_NAME).read_bytes() == content


@pytest.mark.parametrize("piece", ["Liszt: Etude [ 1 ]", "[1,  2]", "[\n1 2\n]", 'a "[ 1 ]"'])
def test_digits_in_brackets_within_a_text_of_a_manifest_stay_as_they_are(dataset, piece):
    manifest = Manifest.load(dataset)
    dataclasses.replace(manifest, source={**manifest.source, "straddling_pieces": [piece]}).save(dataset)
    assert Manifest.load(dataset).source["straddling_pieces"] == [piece]
