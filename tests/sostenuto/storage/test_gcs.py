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
from pathlib import Path

import pytest

from sostenuto import storage
from sostenuto.errors import UnavailableError, UserError
from sostenuto.storage import ChangedError, MissingError
from sostenuto.storage import gcs as remote
from tests.gcs_server import ACCOUNT, GcsServer
from tests.processes import run_python


@pytest.fixture
def quick_retries(monkeypatch):
    """As patient, but in small steps."""
    monkeypatch.setattr(remote, "_RETRY", remote._RETRY.with_delay(initial=0.01, multiplier=1.2, maximum=0.05))


def fill(directory: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_what_is_written_is_read(gcs):
    storage.write_bytes_atomic("gs://bucket/a/b", b"data")
    assert gcs.get("gs://bucket/a/b") == b"data"
    assert storage.read_bytes("gs://bucket/a/b") == b"data"
    with storage.open_binary("gs://bucket/a/b") as file:
        assert (file.read(1), file.seek(2), file.read()) == (b"d", 2, b"ta")
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


def test_patterns_match_as_on_the_disk(tmp_path):
    names = ["a.mid", "b.midi", ".c.mid", "x/a.mid", "x/y/a.mid", "x/.y/a.mid", "x/y/z/[1].mid", "X/a.MID"]
    fill(tmp_path, dict.fromkeys(names, b""))
    for pattern in (
        "*.mid",
        "**/*.mid",
        "x/**/a.mid",
        "x/**",
        "**",
        "?/*",
        "[!x]/*",
        "*/.y/*",
        "x/y/z/[[]1].mid",
        "**/y",
    ):
        on_disk = {path.as_posix() for path in map(Path, storage_glob(tmp_path, pattern))}
        assert set(storage.match_names(names, pattern)) == on_disk, pattern


def storage_glob(directory: Path, pattern: str) -> list[str]:
    import glob

    return [name for name in glob.glob(pattern, root_dir=directory, recursive=True) if (directory / name).is_file()]


def test_paths_are_joined_as_their_place_wants_it(tmp_path):
    assert storage.join("gs://bucket", "a", "b") == storage.join("gs://bucket/", "a", "b") == "gs://bucket/a/b"
    assert storage.join(tmp_path, "a") == str(tmp_path / "a")


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


def test_of_two_writers_one_is_told(gcs):
    late = pytest.raises(ChangedError, match="gs://bucket/file: was written by another process")
    with late, storage.atomic_write("gs://bucket/file") as file:
        file.write(b"mine")
        gcs.put("gs://bucket/file", b"theirs")
    taken = pytest.raises(ChangedError, match="gs://bucket/file: cannot be written: it is there already")
    with taken, storage.new_file("gs://bucket/file"):
        pass
    assert gcs.get("gs://bucket/file") == b"theirs"


def test_a_lease_is_had_by_one(gcs):
    path = "gs://bucket/lease"
    won = []
    threads = [
        threading.Thread(target=lambda name=name: won.append(storage.write_if_generation(path, name, 0)))
        for name in (b"a", b"b", b"c", b"d")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first,) = filter(None, won)
    assert won.count(None) == 3
    holder, generation = storage.read_with_generation(path)
    assert holder in (b"a", b"b", b"c", b"d")
    assert generation == first == storage.generation(path)
    second = storage.write_if_generation(path, b"again", first)
    assert storage.write_if_generation(path, b"late", first) is None
    assert not storage.remove_if_generation(path, first)
    assert storage.remove_if_generation(path, second)
    assert storage.remove_if_generation(path, second)
    assert storage.generation(path) == 0


def test_files_are_copied_there_and_back(gcs, tmp_path):
    files = {f"{index % 3}/{index}": os.urandom(index * 1000) for index in range(40)}
    source = fill(tmp_path / "source", files)
    generations = storage.upload_all(source, "gs://bucket/copy", files)
    assert gcs.contents("gs://bucket/copy/") == files
    assert generations == {name: gcs.generation(f"gs://bucket/copy/{name}") for name in files}
    assert storage.generations("gs://bucket/copy") == dict(sorted(generations.items()))
    assert storage.download_all("gs://bucket/copy", tmp_path / "target") == generations
    assert contents(tmp_path / "target") == files
    storage.download_all("gs://bucket/copy", tmp_path / "some", ["0/3", "1/1"])
    assert contents(tmp_path / "some") == {name: files[name] for name in ("0/3", "1/1")}
    with pytest.raises(MissingError, match="gs://bucket/copy/absent: no such object"):
        storage.download_all("gs://bucket/copy", tmp_path / "other", ["absent"])
    assert contents(tmp_path / "other") == {}
    with pytest.raises(ChangedError):
        storage.upload(source / "0/3", "gs://bucket/copy/0/3", if_generation=0)


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/out", "a//b"])
def test_a_name_that_leads_out_of_the_directory_is_refused(gcs, tmp_path, name):
    gcs.put(f"gs://bucket/in/{name}", b"evil")
    with pytest.raises(UserError, match="cannot be a file below"):
        storage.download_all("gs://bucket/in", tmp_path / "in")
    assert contents(tmp_path) == {}


def test_a_staged_object_is_fetched_again_only_when_it_has_changed(gcs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gcs.put("gs://bucket/corpus.zip", b"one")
    copy = storage.stage("gs://bucket/corpus.zip")
    assert Path(copy).read_bytes() == b"one"
    before = len(gcs.requests)
    assert storage.stage("gs://bucket/corpus.zip") == copy
    assert not [path for _, path in gcs.requests[before:] if "alt=media" in path]
    gcs.put("gs://bucket/corpus.zip", b"two")
    assert Path(storage.stage("gs://bucket/corpus.zip")).read_bytes() == b"two"
    assert storage.stage(tmp_path / "here") == str(tmp_path / "here")
    with pytest.raises(MissingError):
        storage.stage("gs://bucket/absent.zip")


@pytest.mark.parametrize("seed", range(2))
def test_faults_change_nothing(tmp_path, monkeypatch, quick_retries, seed):
    generator = random.Random(seed)
    files = {f"{index:02}": generator.randbytes(generator.randrange(300_000)) for index in range(40)}
    files["large"] = generator.randbytes(5 * remote.CHUNK_BYTES // 2)
    source = fill(tmp_path / "source", files)
    with GcsServer(error_rate=0.25, seed=seed) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        storage.upload_all(source, "gs://bucket/a", files)
        assert server.contents("gs://bucket/a/") == files
        storage.download_all("gs://bucket/a", tmp_path / "target")
        assert contents(tmp_path / "target") == files
        for name in files:
            storage.rename(f"gs://bucket/a/{name}", f"gs://bucket/b/{name}")
        assert server.contents("gs://bucket/") == {f"b/{name}": data for name, data in files.items()}
        for number in range(20):
            # The second is told so by the first's object, not by its own whose answer was lost.
            assert storage.write_if_generation(f"gs://bucket/lease-{number}", b"x", 0)
            assert storage.write_if_generation(f"gs://bucket/lease-{number}", b"x", 0) is None
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
            gcs.error_rate = float(len(parts) == 3)

    gcs.before = cut_the_third
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
    with pytest.raises(UserError, match="gs://bucket/file: was read 3 times with another checksum"):
        storage.read_bytes("gs://bucket/file")


def test_a_compressed_object_is_read_as_what_it_stands_for(gcs):
    gcs.put("gs://bucket/file", gzip.compress(b"plain" * 100), contentEncoding="gzip")
    assert storage.read_bytes("gs://bucket/file") == b"plain" * 100


def test_what_cannot_be_done_is_said_in_one_line(gcs):
    gcs.put("gs://bucket/file", b"data")
    for path, message in (
        ("gs://absent/file", "gs://absent/file: there is no bucket absent: correct its name"),
        ("gs://bucket/absent", "gs://bucket/absent: no such object"),
        ("gs://bucket", "gs://bucket: names a bucket, expected an object"),
        ("gs://Not_A_Bucket!/x", "expected gs://BUCKET/NAME"),
        ("gs://", "expected gs://BUCKET/NAME"),
    ):
        with pytest.raises(UserError, match=message):
            storage.read_bytes(path)
    with pytest.raises(UserError, match="there is no bucket absent"):
        storage.write_bytes_atomic("gs://absent/file", b"")
    with pytest.raises(UserError, match="there is no bucket absent"):
        storage.exists("gs://absent/file")
    with pytest.raises(UserError, match="there is no bucket absent"):
        storage.list_names("gs://absent")


@pytest.mark.parametrize(
    ("permission", "action"),
    [
        ("storage.objects.get", lambda: storage.read_bytes("gs://bucket/a/file")),
        ("storage.objects.list", lambda: storage.list_files("gs://bucket/a")),
        ("storage.objects.create", lambda: storage.write_if_generation("gs://bucket/new", b"", 0)),
        ("storage.objects.create", lambda: storage.write_if_generation("gs://bucket/new", bytes(2**24), 0)),
        ("storage.objects.delete", lambda: storage.remove("gs://bucket/a/file")),
        ("storage.objects.delete", lambda: storage.write_bytes_atomic("gs://bucket/a/file", b"")),
    ],
)
def test_a_missing_permission_is_named(gcs, permission, action):
    gcs.put("gs://bucket/a/file", b"data")
    gcs.forbid("bucket", permission)
    with pytest.raises(UserError, match=rf"gs://bucket/.*lacks the permission {permission} on bucket bucket: grant it"):
        action()
    gcs.allow("bucket")
    action()


def test_a_bucket_that_does_not_answer_is_given_up_after_a_while(monkeypatch, quick_retries):
    monkeypatch.setattr(remote, "_PATIENCE", 0.3)
    monkeypatch.setattr(remote, "_FIRST_PATIENCE", 0.2)
    with GcsServer(error_rate=1.0) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        with pytest.raises(UnavailableError, match="gs://bucket/file: the bucket does not answer"):
            storage.read_bytes("gs://bucket/file")
        assert server.faults > 3
    with pytest.raises(UnavailableError, match="gs://bucket/file: the bucket does not answer"):
        storage.write_if_generation("gs://bucket/file", b"", 0)
    storage.close()


def read_without_emulator(server, tmp_path, **environment):
    """Reads an object as on a machine of Google's with the environment given."""
    (tmp_path / "home").mkdir(exist_ok=True)
    program = """
from sostenuto import storage
from sostenuto.errors import UnavailableError, UserError
try:
    print(storage.read_bytes("gs://bucket/file").decode())
except UserError as error:
    print(error)
"""
    return run_python(
        "-W",
        "error",
        "-W",
        "ignore::ResourceWarning",
        "-c",
        program,
        API_ENDPOINT_OVERRIDE=server.url,
        HOME=str(tmp_path / "home"),
        CLOUDSDK_CONFIG=str(tmp_path / "home"),
        **environment,
    )


def test_credentials_come_from_the_environment(tmp_path, monkeypatch):
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    with GcsServer() as server:
        server.put("gs://bucket/file", b"data")
        nobody = {"NO_GCE_CHECK": "true"}
        pod = {"GCE_METADATA_HOST": server.address, "GCE_METADATA_IP": server.address}
        # A public bucket is read by nobody in particular.
        assert read_without_emulator(server, tmp_path, **nobody).stdout == "data\n"
        server.needs_credentials = True
        said = read_without_emulator(server, tmp_path, **nobody).stdout
        assert said.startswith(
            "gs://bucket/file: no credentials were found, and bucket bucket is not public: run gcloud"
        )
        assert "workload identity" in said
        process = read_without_emulator(server, tmp_path, **pod)
        assert (process.stdout, process.stderr) == ("data\n", "")
        server.forbid("bucket")
        said = read_without_emulator(server, tmp_path, **pod).stdout
        assert said.startswith(f"gs://bucket/file: {ACCOUNT} lacks the permission storage.objects.get on bucket bucket")
        (tmp_path / "key.json").write_text("{}")
        said = read_without_emulator(
            server, tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json"), **nobody
        ).stdout
        assert "key.json: cannot be used" in said
        assert said.count("\n") == 1


def test_a_forked_child_has_connections_of_its_own(gcs):
    gcs.put("gs://bucket/file", b"data")
    storage.read_bytes("gs://bucket/file")
    program = """
import os
from sostenuto import storage
assert storage.read_bytes("gs://bucket/file") == b"data"
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        os._exit(0 if all(storage.read_bytes("gs://bucket/file") == b"data" for _ in range(20)) else 1)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
"""
    process = run_python("-c", program)
    assert process.stdout == "[0, 0, 0, 0]\n", process.stderr


def test_the_library_is_loaded_only_for_a_bucket(tmp_path):
    program = f"""
import sys
from sostenuto import storage
storage.write_bytes_atomic({str(tmp_path / "file")!r}, b"data")
print(storage.read_bytes({str(tmp_path / "file")!r}), "google.cloud.storage" in sys.modules, "requests" in sys.modules)
"""
    assert run_python("-c", program).stdout == "b'data' False False\n"


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
    source = fill(tmp_path / "source", files)
    gcs.latency = 0.05
    started = time.monotonic()
    storage.upload_all(source, "gs://bucket/a", files)
    storage.download_all("gs://bucket/a", tmp_path / "target")
    # One after the other they would take 3 requests of 0.05 s each: 7.2 s.
    assert time.monotonic() - started < 3.6
    assert contents(tmp_path / "target") == files


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
    source = fill(tmp_path / "source", files)
    storage.upload_all(source, "gs://bucket/copy", files)
    assert storage.list_files("gs://bucket/copy") == sorted(files)
    assert storage.list_names("gs://bucket/copy") == ["a", "b", "large"]
    storage.download_all("gs://bucket/copy", tmp_path / "target")
    assert contents(tmp_path / "target") == files
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
