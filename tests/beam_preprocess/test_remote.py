"""Corpora and datasets in a bucket: the same bytes as on the disk, also with network errors."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from beam_preprocess.config import Config
from beam_preprocess.corpus import find_corpus
from beam_preprocess.preprocess import preprocess
from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.errors import FileError, LostError, RecordError, UserError
from sostenuto.storage import gcs_retry
from tests.factories import melody, read_files, write_files
from tests.processes import REPOSITORY, run_python

CSV = "canonical_composer,canonical_title,split,year,midi_filename\n" + "".join(
    f"Composer {index % 4},Title {index % 5},{SPLITS[index % 5 % 3]},2010,{index % 3}/{index}.mid\n"
    for index in range(30)
)
FILES = {
    **{f"{index % 3}/{index}.mid": melody(range(40, 50 + index)) for index in range(30)},
    "0/text.mid": b"Dear diary",
    "2/extra.mid": melody([60, 62]),
}


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(gcs_retry, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(gcs_retry, "LONGEST_PAUSE", 0.2)


@pytest.fixture
def corpus_directory(tmp_path):
    return write_files(tmp_path / "corpus", FILES)


def run(input_, output, **config) -> Manifest:
    config = {"num_shards": 3, "max_rejected_fraction": 0.2, **config}
    return preprocess(Config(str(input_), str(output), **config), quiet=True)


def put_corpus(gcs, directory: Path, uri: str) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            gcs.put(f"{uri}/{path.relative_to(directory).as_posix()}", path.read_bytes())


def zip_of(directory: Path) -> bytes:
    path = directory.parent / "corpus.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(directory.rglob("*.*")):
            archive.write(file, file.relative_to(directory))
    return path.read_bytes()


def test_a_bucket_has_the_same_bytes_as_the_disk_despite_errors(gcs, corpus_directory, tmp_path):
    run(corpus_directory, tmp_path / "local")
    expected = read_files(tmp_path / "local")
    put_corpus(gcs, corpus_directory, "gs://bucket/in/corpus")
    gcs.put("gs://bucket/corpus.zip", zip_of(corpus_directory))
    gcs.page_size = 7
    gcs.error_rate = 0.1
    for number, source in enumerate(["gs://bucket/in/", "gs://bucket/in/**/*.mid", "gs://bucket/corpus.zip"]):
        output = f"gs://bucket/out/{number}"
        manifest = run(source, output)
        assert gcs.contents(f"{output}/") == expected
        assert manifest.sha256 == Manifest.load(tmp_path / "local").sha256
    assert gcs.faults > 20
    local = Manifest.load(tmp_path / "local")
    for split in SPLITS:
        read = [performance.path for performance in manifest.read_performances(split)]
        assert read == [performance.path for performance in local.read_performances(split)]


def test_the_metadata_may_be_in_a_bucket(gcs, corpus_directory, tmp_path):
    run(write_files(corpus_directory, {"m.csv": CSV.encode()}), tmp_path / "local")
    expected = read_files(tmp_path / "local")
    put_corpus(gcs, corpus_directory, "gs://bucket/in")
    run("gs://bucket/in", "gs://bucket/own")
    run("gs://bucket/in/[0-9]/*.mid", "gs://bucket/glob")
    gcs.delete("gs://bucket/in/m.csv")
    gcs.put("gs://bucket/elsewhere/m.csv", CSV.encode())
    run("gs://bucket/in", "gs://bucket/named", metadata="gs://bucket/elsewhere/m.csv")
    for output in ("own", "glob", "named"):
        assert gcs.contents(f"gs://bucket/{output}/") == expected
    # A file that the pattern does not match exists; others are missing.
    assert len(find_corpus("gs://bucket/in/[1]/*.mid", metadata="gs://bucket/elsewhere/m.csv").files) == 10
    gcs.delete("gs://bucket/in/2/5.mid")
    with pytest.raises(UserError, match=r"m.csv: names 1 of 30 files that gs://bucket/in/\[1\]/\*.mid does not hold"):
        find_corpus("gs://bucket/in/[1]/*.mid", metadata="gs://bucket/elsewhere/m.csv")


def test_one_object_is_a_corpus_if_empty_splits_are_asked_for(gcs):
    gcs.put("gs://bucket/in/a.mid", melody([60]))
    (file,) = find_corpus("gs://bucket/in/a.mid", split_fractions=(1, 0, 0)).files
    assert (file.path, file.location) == ("a.mid", "gs://bucket/in/a.mid")


def test_a_zip_is_fetched_once(gcs, corpus_directory):
    gcs.put("gs://bucket/corpus.zip", zip_of(corpus_directory))
    run("gs://bucket/corpus.zip", "gs://bucket/out")
    assert len([path for _, path in gcs.requests if "corpus.zip" in path and "alt=media" in path]) == 1


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ({"input_": "gs://absent/x"}, "there is no bucket absent"),
        ({"input_": "gs://bucket/absent"}, "gs://bucket/absent: no such object or directory"),
        ({"input_": "gs://bucket/in/*.midi"}, r"gs://bucket/in/\*.midi: matches no object"),
        ({"input_": "gs://*/in"}, r"gs://\*/in: not a path of Google Cloud Storage. Expected gs://BUCKET/NAME"),
        ({"input_": "gs://bucket/none.zip"}, "gs://bucket/none.zip: cannot be read as a zip file"),
        ({"output": "gs://absent/x"}, "there is no bucket absent"),
        ({"output": "gs://bucket/in/a.mid"}, "gs://bucket/in/a.mid: is a file"),
        ({"output": "gs://bucket/data"}, "gs://bucket/data: already holds a dataset"),
        ({"metadata": "gs://bucket/m.csv"}, "gs://bucket/m.csv: no such object"),
    ],
)
def test_a_mistake_is_reported_and_writes_nothing(gcs, corpus_directory, tmp_path, paths, message):
    gcs.put("gs://bucket/in/a.mid", melody([60]))
    gcs.put("gs://bucket/none.zip", b"PK, but no more")
    gcs.put("gs://bucket/data/dataset.json", b"{}")
    before = gcs.names("gs://bucket/")
    with pytest.raises(UserError, match=message):
        run(**{"input_": corpus_directory, "output": tmp_path / "out", **paths})
    assert not (tmp_path / "out").exists()
    assert gcs.names("gs://bucket/") == before


def test_a_mistake_found_while_running_is_one_line_and_status_2(gcs, corpus_directory):
    gcs.forbid("bucket", "storage.objects.create")
    process = run_python("-m", "beam_preprocess", f"--input={corpus_directory}", "--output=gs://bucket/out", "--quiet")
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert re.search(r"lacks the permission storage.objects.create on bucket bucket \(.*\)\. Grant it", line)
    assert gcs.names("gs://bucket/") == []


def test_a_failed_replacement_leaves_the_former_dataset(gcs, corpus_directory, tmp_path):
    run(corpus_directory, "gs://bucket/out", num_shards=4)
    before = gcs.contents("gs://bucket/out/")
    with pytest.raises(UserError, match="1 of 32 files was rejected"):
        run(corpus_directory, "gs://bucket/out", overwrite=True, max_rejected_fraction=0.0)
    assert gcs.contents("gs://bucket/out/") == before
    shutil.rmtree(corpus_directory / "1")
    run(corpus_directory, "gs://bucket/out", overwrite=True)
    run(corpus_directory, tmp_path / "fresh")
    assert gcs.contents("gs://bucket/out/") == read_files(tmp_path / "fresh")


def test_no_manifest_ever_names_shards_of_other_content(gcs, corpus_directory, tmp_path):
    """A reader sees the old dataset or the new one while it is replaced, never none, never a mixture."""
    run(corpus_directory, "gs://bucket/out")
    (corpus_directory / "0" / "0.mid").write_bytes(melody([1, 2, 3]))
    seen = set()

    def look(method, path):
        objects = gcs.contents("gs://bucket/out/")
        document = json.loads(objects["dataset.json"])
        seen.add(document["splits"]["train"]["notes"])
        for split in SPLITS:
            for shard in document["splits"][split]["shards"]:
                assert len(objects[shard["file"]]) == shard["bytes"]
                assert hashlib.sha256(objects[shard["file"]]).hexdigest() == shard["sha256"]

    gcs.before = look
    run(corpus_directory, "gs://bucket/out", overwrite=True)
    look("", "")
    assert len(seen) == 2


def test_a_killed_run_leaves_no_dataset_and_the_next_one_cleans_up(gcs, corpus_directory, tmp_path):
    command = [sys.executable, "-m", "beam_preprocess", f"--input={corpus_directory}", "--output=gs://bucket/out"]
    command += ["--num_shards=3", "--max_rejected_fraction=0.2"]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    gave_a_name = []

    def kill(method, path):
        if "rewriteTo" in path and not gave_a_name:
            gave_a_name.append(path)
            process.send_signal(signal.SIGKILL)

    gcs.before = kill
    assert process.wait(timeout=120) == -signal.SIGKILL
    time.sleep(0.2)
    assert "dataset.json.unfinished" in gcs.names("gs://bucket/out/")
    with pytest.raises(UserError, match="unfinished"):
        Manifest.load("gs://bucket/out")
    run(corpus_directory, "gs://bucket/out")
    run(corpus_directory, tmp_path / "fresh")
    assert gcs.contents("gs://bucket/out/") == read_files(tmp_path / "fresh")


def test_an_exchanged_shard_is_noticed(gcs, corpus_directory):
    manifest = run(corpus_directory, "gs://bucket/out")
    one, two, _ = manifest.shard_paths("train")
    gcs.put(one, gcs.get(two))
    with pytest.raises(RecordError, match=r"train-00000-of-00003.tfrecord: got .*, expected .*dataset\.json"):
        list(manifest.read_performances("train"))


def test_a_network_that_fails_is_not_taken_for_broken_files(gcs, corpus_directory, monkeypatch):
    put_corpus(gcs, corpus_directory, "gs://bucket/in")
    monkeypatch.setattr(gcs_retry, "RETRY_SECONDS", 0.2)

    gcs.fault_of = lambda method, path: "refuse" if "7.mid" in path and "alt=media" in path else None
    with pytest.raises(UserError, match=r"the bucket does not answer .*\. Try again later"):
        run("gs://bucket/in", "gs://bucket/out", max_rejected_fraction=1.0)
    assert gcs.names("gs://bucket/out/") == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (403, r"/1/7\.mid.*storage\.objects\.get"),
        (404, r"/1/7\.mid: no such object"),
        ("checksum", r"/1/7\.mid: corrupt in 3 downloads"),
    ],
)
def test_one_bad_answer_of_a_bucket_is_not_the_files_fault(gcs, corpus_directory, monkeypatch, fault, message):
    """Left out as a broken file, it would have given another dataset, with status 0."""
    put_corpus(gcs, corpus_directory, "gs://bucket/in")
    find = gcs.find

    def answer(bucket, name, query):
        if not name.endswith("/7.mid"):
            return find(bucket, name, query)
        if fault == 404:
            return find(bucket, f"{name}-absent", query)
        if fault == "checksum":
            return find(bucket, name, query)._replace(data=b"MThd, but no more")
        gcs.forbid("bucket", "storage.objects.get")
        try:
            return find(bucket, name, query)
        finally:
            gcs.allow("bucket")

    monkeypatch.setattr(gcs, "find", answer)
    with pytest.raises(FileError, match=message):
        run("gs://bucket/in", "gs://bucket/out", max_rejected_fraction=1.0)
    assert gcs.names("gs://bucket/out/") == []


def test_a_run_that_lost_its_output_to_another_process_changes_nothing_more(gcs, corpus_directory):
    """As after a minute without network, or stopped."""
    run(corpus_directory, "gs://bucket/out", num_shards=1)
    expected = Manifest.load("gs://bucket/out")
    (corpus_directory / "0" / "0.mid").write_bytes(melody([1, 2, 3]))
    living = {
        "train-00000-of-00001.tfrecord.tmp-0123456789ab": b"of the other process",
        ".lock": b'{"pid": 7, "host": "h"}',
    }
    seen = {}

    def take_over(method, path):
        if "rewriteTo" in path and not seen:
            for name, data in living.items():
                gcs.put(f"gs://bucket/out/{name}", data)
            seen.update(gcs.contents("gs://bucket/out/"))

    gcs.before = take_over
    with pytest.raises(LostError, match="gs://bucket/out: process 7 on h has taken it over"):
        run(corpus_directory, "gs://bucket/out", num_shards=1, overwrite=True)
    after = gcs.contents("gs://bucket/out/")
    assert {name: after[name] for name in living} == living
    assert len(set(seen.items()) ^ set(after.items())) <= 3  # the copy that was asked for before, of up to three
    manifest = Manifest.load("gs://bucket/out")
    assert manifest.sha256 == expected.sha256
    for split in SPLITS:
        list(manifest.read_performances(split))


def test_empty_files_are_committed_where_the_server_leaves_out_zeros(gcs, corpus_directory):
    """As Google's testbench: rejected.jsonl of a clean corpus is empty, and so is a shard of rejected files."""
    write_files(corpus_directory, {f"{number}.mid": b"no MIDI" for number in range(6)})
    gcs.omits_zeros = True
    for overwrite in (False, True):
        manifest = run(corpus_directory, "gs://bucket/out", num_shards=99, max_rejected_fraction=1, overwrite=overwrite)
        assert any(shard.records == 0 for split in manifest.splits.values() for shard in split.shards)
        assert sum(map(manifest.performances, SPLITS)) == 31
    assert run(corpus_directory, "gs://bucket/out", num_shards=99, max_rejected_fraction=1).sha256 == manifest.sha256
