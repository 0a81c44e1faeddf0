"""Google Cloud Storage behind `sostenuto.storage`, against a server that keeps its rules and fails when told to."""

import gzip
import io
import os
import random
import socket
import subprocess
import sys
import threading
import time

import pytest

from sostenuto import storage
from sostenuto.errors import ChangedError, MissingError, UserError
from sostenuto.storage import gcs as remote
from tests.factories import read_files, write_files
from tests.gcs_server import GcsServer


def test_what_is_written_is_read(gcs):
    storage.write_bytes_atomic("gs://bucket/a/b", b"data")
    assert gcs.get("gs://bucket/a/b") == b"data"
    assert storage.read_bytes("gs://bucket/a/b") == b"data"
    assert storage.read_range("gs://bucket/a/b", 2, 9) == b"ta"
    storage.write_bytes_atomic("gs://bucket/empty", b"")
    assert storage.read_bytes("gs://bucket/empty", limit=10) == b""


def test_no_more_of_a_large_object_is_read_than_asked_for(gcs):
    gcs.put("gs://bucket/large", bytes(range(256)) * 2**14)
    assert storage.read_bytes("gs://bucket/large", limit=300) == (bytes(range(256)) * 2)[:300]
    assert len(storage.read_bytes("gs://bucket/large", limit=2**22)) == 2**22
    assert len(storage.read_bytes("gs://bucket/large", limit=2**23)) == 2**22


def test_directories_are_what_names_begin_with(gcs):
    gcs.page_size = 2
    for name in ("midi/b.mid", "midi/a/z.mid", "midi/a/c/y.mid", "midi/a.mid", "midi-2/x.mid", "midi/a/"):
        gcs.put(f"gs://bucket/{name}", b"")
    assert storage.list_files("gs://bucket/midi") == ["a.mid", "a/c/y.mid", "a/z.mid", "b.mid"]
    assert storage.list_files("gs://bucket/midi/") == storage.list_files("gs://bucket/midi")
    assert storage.list_names("gs://bucket/midi") == ["a", "a.mid", "b.mid"]
    assert storage.list_names("gs://bucket") == ["midi", "midi-2"]
    assert storage.list_names("gs://bucket/none") == []
    there = ["gs://bucket", "gs://bucket/", "gs://bucket/midi", "gs://bucket/midi/", "gs://bucket/midi/a"]
    assert all(map(storage.is_directory, there))
    assert not any(map(storage.is_directory, ["gs://bucket/mid", "gs://bucket/midi/b.mid", "gs://bucket/x"]))
    assert all(map(storage.exists, [*there, "gs://bucket/midi/b.mid"]))
    assert not any(map(storage.exists, ["gs://bucket/mid", "gs://bucket/midi/b", "gs://bucket/x/"]))
    with pytest.raises(UserError, match="gs://bucket/none: no such directory"):
        storage.list_files("gs://bucket/none")
    storage.make_directories("gs://bucket/none")


def test_a_failed_write_leaves_the_former_object_and_nothing_else(gcs):
    storage.write_bytes_atomic("gs://bucket/file", b"former")
    with pytest.raises(ZeroDivisionError), storage.atomic_write("gs://bucket/file") as file:
        file.write(b"half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), storage.new_file("gs://bucket/new") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert gcs.contents("gs://bucket/") == {"file": b"former"}


def test_objects_are_renamed_and_removed(gcs):
    gcs.put("gs://bucket/old", b"data")
    gcs.put("gs://bucket/taken", b"other")
    storage.rename("gs://bucket/old", "gs://bucket/taken")
    assert gcs.contents("gs://bucket/") == {"taken": b"data"}
    with pytest.raises(MissingError, match="gs://bucket/old: no such object"):
        storage.rename("gs://bucket/old", "gs://bucket/taken")
    storage.remove("gs://bucket/taken")
    storage.remove("gs://bucket/taken")
    assert gcs.contents("gs://bucket/") == {}


def test_the_later_of_two_writers_fails(gcs):
    late = pytest.raises(ChangedError, match="gs://bucket/file: another process wrote it first")
    with late, storage.atomic_write("gs://bucket/file") as file:
        file.write(b"mine")
        gcs.put("gs://bucket/file", b"theirs")
    taken = pytest.raises(ChangedError, match=r"gs://bucket/file: cannot be written \(it already exists")
    with taken, storage.new_file("gs://bucket/file"):
        pass
    assert gcs.get("gs://bucket/file") == b"theirs"


def test_a_lease_is_had_by_one(gcs):
    path = "gs://bucket/lease"
    won = []
    threads = [
        threading.Thread(target=lambda name=name: won.append(remote.write(path, io.BytesIO(name), generation=0)))
        for name in (b"a", b"b", b"c", b"d")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first,) = filter(None, won)
    assert won.count(None) == 3
    content = io.BytesIO()
    generation = remote.read(path, content)
    assert content.getvalue() in (b"a", b"b", b"c", b"d")
    assert generation == first == remote.generation(path)
    second = remote.write(path, io.BytesIO(b"again"), generation=first)
    assert remote.write(path, io.BytesIO(b"late"), generation=first) is None
    assert not remote.remove(path, generation=first)
    assert remote.remove(path, generation=second)
    assert remote.remove(path, generation=second)
    assert remote.generation(path) == 0


@pytest.mark.parametrize("seed", range(2))
def test_faults_change_nothing(tmp_path, monkeypatch, quick_retries, seed):
    generator = random.Random(seed)
    files = {f"{index:02}": generator.randbytes(generator.randrange(300_000)) for index in range(40)}
    files["large"] = generator.randbytes(5 * remote.CHUNK_BYTES // 2)
    source = write_files(tmp_path / "source", files)
    with GcsServer(error_rate=0.25, seed=seed) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        storage.upload_all(source, "gs://bucket/a", files)
        assert server.contents("gs://bucket/a/") == files
        storage.download_all("gs://bucket/a", tmp_path / "target")
        assert read_files(tmp_path / "target") == files
        for name in files:
            storage.rename(f"gs://bucket/a/{name}", f"gs://bucket/b/{name}")
        assert server.contents("gs://bucket/") == {f"b/{name}": data for name, data in files.items()}
        for number in range(20):
            # The second fails because of the first's object, not of its own, whose answer was lost.
            assert remote.write(f"gs://bucket/lease-{number}", io.BytesIO(b"x"), generation=0)
            assert remote.write(f"gs://bucket/lease-{number}", io.BytesIO(b"x"), generation=0) is None
        storage.remove_all(f"gs://bucket/b/{name}" for name in files)
        assert storage.list_names("gs://bucket/b") == []
        assert server.faults > 50
        storage.close()


def test_only_the_part_that_was_cut_is_sent_again(gcs, quick_retries):
    data = os.urandom(3 * remote.CHUNK_BYTES + 12345)
    parts = []

    def cut_the_third(method, path):
        if method == "PUT":
            parts.append(path)
            return "cut before" if len(parts) == 3 else None
        return None

    gcs.fault_of = cut_the_third
    with storage.new_file("gs://bucket/large") as file:
        file.write(data)
    assert gcs.get("gs://bucket/large") == data
    # Four parts, one of them lost, and perhaps the question how much has arrived.
    assert 5 <= len(parts) <= 6


def test_damage_in_transit_is_noticed(gcs, monkeypatch):
    gcs.put("gs://bucket/file", b"sound")
    send = gcs.find
    damaged = []

    def find(bucket, name, query):
        found = send(bucket, name, query)
        damaged.append(name)
        return found._replace(data=b"wrong") if len(damaged) < damage else found

    monkeypatch.setattr(gcs, "find", find)
    damage = 3
    assert storage.read_bytes("gs://bucket/file") == b"sound"
    damage = 99
    with pytest.raises(UserError, match="gs://bucket/file: corrupt in 3 downloads"):
        storage.read_bytes("gs://bucket/file")


def test_a_compressed_object_is_read_as_what_it_stands_for(gcs):
    gcs.put("gs://bucket/file", gzip.compress(b"plain" * 100), contentEncoding="gzip")
    assert storage.read_bytes("gs://bucket/file") == b"plain" * 100


def test_what_cannot_be_done_is_said_in_one_line(gcs):
    gcs.put("gs://bucket/file", b"data")
    for path, message in (
        (
            "gs://absent/file",
            r"gs://absent/file: there is no bucket absent \(The .* does not exist.\)\. Correct its name",
        ),
        ("gs://bucket/absent", "gs://bucket/absent: no such object"),
        ("gs://bucket", "gs://bucket: got only a bucket, expected an object"),
        ("gs://Not_A_Bucket!/x", "Expected gs://BUCKET/NAME"),
        ("gs://", "Expected gs://BUCKET/NAME"),
    ):
        with pytest.raises(UserError, match=message):
            storage.read_bytes(path)
    with pytest.raises(UserError, match="there is no bucket absent"):
        storage.write_bytes_atomic("gs://absent/file", b"")
    with pytest.raises(UserError, match="there is no bucket absent"):
        storage.exists("gs://absent/file")
    with pytest.raises(UserError, match="there is no bucket absent"):
        storage.list_names("gs://absent")


@pytest.fixture
def emulator(tmp_path, monkeypatch):
    """The emulator of a package, so that we do not only agree with ourselves."""
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gcp_storage_emulator", "--data-dir", str(tmp_path / "emulator"), "start"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--default-bucket", "bucket", "--in-memory", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            assert process.poll() is None
            time.sleep(0.1)
        yield
    finally:
        storage.close()
        process.terminate()
        process.wait(timeout=30)


def test_another_emulator_agrees(emulator, tmp_path):
    files = {"a": b"", "b/c": b"data", "b/d": os.urandom(100_000), "large": os.urandom(2 * remote.CHUNK_BYTES + 5)}
    source = write_files(tmp_path / "source", files)
    storage.upload_all(source, "gs://bucket/copy", files)
    assert storage.list_files("gs://bucket/copy") == sorted(files)
    assert storage.list_names("gs://bucket/copy") == ["a", "b", "large"]
    storage.download_all("gs://bucket/copy", tmp_path / "target")
    assert read_files(tmp_path / "target") == files
    assert storage.read_bytes("gs://bucket/copy/large", limit=1000) == files["large"][:1000]
    storage.write_bytes_atomic("gs://bucket/copy/a", b"new")
    storage.rename("gs://bucket/copy/a", "gs://bucket/copy/b/c")
    assert storage.read_bytes("gs://bucket/copy/b/c") == b"new"
    storage.remove("gs://bucket/copy/b/c")
    assert not storage.exists("gs://bucket/copy/b/c")
    content = io.BytesIO()
    with pytest.raises(MissingError):
        remote.read("gs://bucket/absent", content)
    with pytest.raises(UserError, match="there is no bucket absent"):
        storage.read_bytes("gs://absent/file")


def test_sizes_and_checksums_are_those_of_the_disk(gcs, tmp_path):
    files = {"a": b"", "b/c": b"data"}
    for name, data in read_files(write_files(tmp_path, files)).items():
        gcs.put(f"gs://bucket/x/{name}", data)
    assert storage.sizes("gs://bucket/x") == storage.sizes(tmp_path) == {"a": 0, "b/c": 4}
    for name in (*files, "absent"):
        assert storage.checksum(f"gs://bucket/x/{name}") == storage.checksum(tmp_path / name)
    for directory in ("gs://bucket/x", str(tmp_path)):
        for name, data in files.items():
            storage.copy(storage.join(directory, name), storage.join(directory, "copy"))
            assert storage.read_bytes(storage.join(directory, "copy")) == data
            storage.remove(storage.join(directory, "copy"))


def test_empty_objects_work_where_the_server_leaves_out_zeros(gcs):
    """Google's testbench has no `size` for them, nor numbers of bytes in the answer to a copy."""
    gcs.omits_zeros = True
    storage.write_bytes_atomic("gs://bucket/x/empty", b"")
    storage.rename("gs://bucket/x/empty", "gs://bucket/x/renamed")
    storage.copy("gs://bucket/x/renamed", "gs://bucket/x/copy")
    assert storage.sizes("gs://bucket/x") == {"copy": 0, "renamed": 0}
    assert storage.checksum("gs://bucket/x/copy") == (0, "AAAAAA==")
    assert storage.read_bytes("gs://bucket/x/copy") == b""
