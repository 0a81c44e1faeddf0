"""Copies between this machine and a bucket, and the local cache."""

import os
import random
import time
from pathlib import Path

import pytest

from sostenuto import storage
from sostenuto.errors import ChangedError, MissingError, UserError
from tests.factories import read_files, write_files


def test_files_are_copied_there_and_back(gcs, tmp_path):
    files = {f"{index % 3}/{index}": os.urandom(index * 1000) for index in range(40)}
    source = write_files(tmp_path / "source", files)
    generations = storage.upload_all(source, "gs://bucket/copy", files)
    assert gcs.contents("gs://bucket/copy/") == files
    assert generations == {name: gcs.generation(f"gs://bucket/copy/{name}") for name in files}
    assert storage.generations("gs://bucket/copy") == dict(sorted(generations.items()))
    assert storage.download_all("gs://bucket/copy", tmp_path / "target") == generations
    assert read_files(tmp_path / "target") == files
    storage.download_all("gs://bucket/copy", tmp_path / "some", ["0/3", "1/1"])
    assert read_files(tmp_path / "some") == {name: files[name] for name in ("0/3", "1/1")}
    with pytest.raises(MissingError, match="gs://bucket/copy/absent: no such object"):
        storage.download_all("gs://bucket/copy", tmp_path / "other", ["absent"])
    assert read_files(tmp_path / "other") == {}
    with pytest.raises(ChangedError):
        storage.upload(source / "0/3", "gs://bucket/copy/0/3", if_generation=0)


@pytest.mark.parametrize("name", ["../out", "..", "a/../../out", "/etc/out", "a//b"])
def test_a_name_that_leads_out_of_the_directory_is_refused(gcs, tmp_path, name):
    gcs.put(f"gs://bucket/in/{name}", b"evil")
    with pytest.raises(UserError, match="cannot be a file below"):
        storage.download_all("gs://bucket/in", tmp_path / "in")
    assert read_files(tmp_path) == {}


def test_a_cached_object_is_fetched_again_only_when_it_has_changed(gcs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gcs.put("gs://bucket/corpus.zip", b"one")
    copy = storage.local_copy("gs://bucket/corpus.zip")
    assert Path(copy).read_bytes() == b"one"
    before = len(gcs.requests)
    assert storage.local_copy("gs://bucket/corpus.zip") == copy
    assert not [path for _, path in gcs.requests[before:] if "alt=media" in path]
    gcs.put("gs://bucket/corpus.zip", b"two")
    assert Path(storage.local_copy("gs://bucket/corpus.zip")).read_bytes() == b"two"
    gcs.put("gs://bucket/other.zip", b"one")
    other = Path(storage.local_copy("gs://bucket/other.zip"))
    other.write_bytes(b"0ne")  # damaged
    assert storage.local_copy("gs://bucket/other.zip") == str(other)
    assert other.read_bytes() == b"one"
    assert storage.local_copy(tmp_path / "here") == str(tmp_path / "here")
    with pytest.raises(MissingError):
        storage.local_copy("gs://bucket/absent.zip")


def test_results_come_in_order_and_an_error_at_its_turn():
    def work(item):
        time.sleep(random.random() / 100)
        if item == 70:
            raise UserError("seventy")
        return item * item

    results = storage.concurrently(work, range(100))
    assert [next(results) for _ in range(70)] == [item * item for item in range(70)]
    with pytest.raises(UserError, match="seventy"):
        next(results)
    under_way, most = [], 0

    def watch(item):
        nonlocal most
        under_way.append(item)
        most = max(most, len(under_way))
        time.sleep(0.001)
        under_way.remove(item)

    assert len(list(storage.concurrently(watch, range(20), bytes_each=2**30))) == 20
    assert most == 1


def test_many_small_objects_are_moved_at_once(gcs, tmp_path):
    files = {f"{index:02}": b"data" for index in range(48)}
    source = write_files(tmp_path / "source", files)
    gcs.latency = 0.05
    started = time.monotonic()
    storage.upload_all(source, "gs://bucket/a", files)
    storage.download_all("gs://bucket/a", tmp_path / "target")
    # One after the other they would take 3 requests of 0.05 s each: 7.2 s.
    assert time.monotonic() - started < 3.6
    assert read_files(tmp_path / "target") == files
