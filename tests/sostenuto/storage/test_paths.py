import glob
from pathlib import Path

import pytest

from sostenuto import storage
from sostenuto.errors import UserError
from tests.factories import write_files


def test_patterns_match_as_on_the_disk(tmp_path):
    names = ["a.mid", "b.midi", ".c.mid", "x/a.mid", "x/y/a.mid", "x/.y/a.mid", "x/y/z/[1].mid", "X/a.MID"]
    write_files(tmp_path, dict.fromkeys(names, b""))
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
    return [name for name in glob.glob(pattern, root_dir=directory, recursive=True) if (directory / name).is_file()]


def test_paths_are_joined_as_their_place_wants_it(tmp_path):
    assert storage.join("gs://bucket", "a", "b") == storage.join("gs://bucket/", "a", "b") == "gs://bucket/a/b"
    assert storage.join(tmp_path, "a") == str(tmp_path / "a")


def test_other_places_are_refused_in_one_line():
    with pytest.raises(UserError, match="s3://bucket/x: s3:// is not supported"):
        storage.read_bytes("s3://bucket/x")
    with pytest.raises(UserError, match="gs://bucket/x: gs:// is not supported"):
        storage.lock("gs://bucket/x")


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("s3://bucket/x", "Copy the files to a local directory or to gs:// first"),
        ("az://container/x", "Copy the files to a local directory or to gs:// first"),
        ("abfs://container@account/x", "Copy the files to a local directory or to gs:// first"),
        ("hdfs://host:8020/x", "Copy the files to a local directory or to gs:// first"),
        ("https://host/x", "Download the files to a local directory first"),
        ("HTTP://host/x", "Download the files to a local directory first"),
        ("file:///tmp/x", "Remove file:// from the path"),
        ("gs:/bucket/x", "Expected gs://BUCKET/PATH"),
        ("GS://bucket/x", "Expected gs://BUCKET/PATH"),
        ("gs:\\bucket\\x", "Expected gs://BUCKET/PATH"),
    ],
)
def test_a_path_of_another_store_names_the_remedy(path, remedy):
    calls = (
        storage.exists, storage.is_directory, storage.list_files, storage.list_names,
        storage.read_bytes, storage.remove, storage.remove_directory, storage.make_directories, storage.local_copy,
    )  # fmt: skip
    for call in calls:
        with pytest.raises(UserError) as raised:
            call(path)
        assert str(raised.value).startswith(f"{path}: ")
        assert str(raised.value).endswith(remedy)
    with pytest.raises(UserError), storage.atomic_write(path):
        raise AssertionError("it was opened")


@pytest.mark.parametrize("path", ["C:/x", "C:\\x", "C://x", "a:b", "./s3:x", "run:1/x", "x/s3://y"])
def test_a_path_with_a_colon_is_a_path(path):
    assert storage.local_path(path) == path
