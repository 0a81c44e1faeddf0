import itertools
import shutil

import numpy as np
import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.factories import write_dataset
from tests.trainer.data.windows import table_of
from trainer.data.note_table import load_table, select_fraction


@pytest.fixture
def data(dataset, tmp_path):
    """A dataset that a test may corrupt."""
    return shutil.copytree(dataset, tmp_path / "data")


def assert_holds(table, manifest, split):
    performances = [performance.notes for performance in manifest.read_performances(split)]
    texts = [(performance.composer, performance.piece) for performance in manifest.read_performances(split)]
    assert [*zip(table.composers, table.pieces, strict=True)] == texts
    np.testing.assert_array_equal(table.lengths, [len(notes) for notes in performances])
    for index, notes in enumerate(performances):
        for field, column in table.performance(index)._asdict().items():
            assert column.dtype == np.int32
            np.testing.assert_array_equal(column, getattr(notes, field))


def test_a_table_is_built_once_and_mapped(data, tmp_path):
    manifest = Manifest.load(data)
    cache = str(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    for split in ("train", "validation"):
        for _ in range(2):
            table = load_table(manifest, split, cache_directory=cache)
            assert isinstance(table.notes, np.memmap)
            assert table.notes.dtype.itemsize == 10
            assert_holds(table, manifest, split)
    kept = load_table(manifest, "train", cache_directory=cache)
    for shard in data.glob("*.tfrecord"):
        shard.unlink()
    np.testing.assert_array_equal(load_table(manifest, "train", cache_directory=cache).notes, kept.notes)
    with pytest.raises(UserError):
        load_table(manifest, "test", cache_directory=cache)


def test_a_dataset_in_a_bucket_is_read_once(data, tmp_path, gcs):
    for path in data.iterdir():
        gcs.put(f"gs://bucket/data/{path.name}", path.read_bytes())
    remote, local = Manifest.load("gs://bucket/data"), Manifest.load(data)
    assert_holds(load_table(remote, "train", cache_directory=str(tmp_path)), local, "train")
    requests = len(gcs.requests)
    # Its table is that of the same dataset on the disk: the manifest's checksum names both.
    load_table(local, "train", cache_directory=str(tmp_path))
    load_table(remote, "train", cache_directory=str(tmp_path))
    assert len(gcs.requests) == requests
    (shard, *_) = remote.shard_paths("validation")
    gcs.put(shard, gcs.get(shard)[:-1])
    with pytest.raises(UserError, match=r"got 985 bytes, expected 986 as in dataset\.json"):
        load_table(remote, "validation", cache_directory=str(tmp_path))


@pytest.mark.parametrize("part", ["notes", "notes.sha256"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-7],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: b"\xff" * 999,
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    ],
    ids=["its end is lost", "its start is left", "empty", "other bytes", "one bit is flipped"],
)
def test_a_corrupt_cached_table_is_read_again_with_one_line_and_gives_the_same_notes(
    data, tmp_path, caplog, part, damage
):
    manifest = Manifest.load(data)
    load_table(manifest, "train", cache_directory=str(tmp_path))
    (path,) = tmp_path.glob(f"*-train-*.{part}")
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level("WARNING"):
        for _ in range(2):
            assert_holds(load_table(manifest, "train", cache_directory=str(tmp_path)), manifest, "train")
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(str(path).removesuffix(".sha256"))
    assert "the cached file is corrupt" in line
    assert "\n" not in line


def test_another_dataset_has_a_table_of_its_own(data, tmp_path):
    manifest = Manifest.load(data)
    other = Manifest.load(write_dataset(tmp_path / "other", {"train": [70, 33, 120, 5]}, seed=9))
    for dataset in (manifest, other, manifest):
        assert_holds(load_table(dataset, "train", cache_directory=str(tmp_path)), dataset, "train")


def test_the_table_of_an_empty_split_names_the_others(tmp_path):
    manifest = Manifest.load(write_dataset(tmp_path / "other", {"train": [7]}))
    with pytest.raises(UserError, match="the test split is empty, expected one of: train"):
        load_table(manifest, "test", cache_directory=str(tmp_path))
    assert list(tmp_path.glob("*.notes*")) == []


@pytest.mark.parametrize("performances", [1, 7, 399])
def test_a_fraction_of_the_corpus_is_within_every_larger_fraction(performances):
    shares = [set(select_fraction(performances, share)) for share in (1e-9, 0.1, 0.5, 0.99, 1.0)]
    assert len(shares[0]) == 1
    assert all(less <= more for less, more in itertools.pairwise(shares))
    assert shares[2] <= set(range(performances))
    assert len(shares[2]) == -(-performances // 2)
    assert shares[-1] == set(range(performances))
    if performances == 399:
        # Not the first ones: performances of one composer stand together.
        assert max(shares[1]) > 350


def test_a_subset_of_a_table_has_exactly_these_performances():
    table = table_of([5, 3, 8])
    subset = table.subset([2, 0])
    assert subset.lengths.tolist() == [8, 5]
    for index, whole in ((0, 2), (1, 0)):
        for one, other in zip(subset.performance(index), table.performance(whole), strict=True):
            np.testing.assert_array_equal(one, other)
    assert table.subset([]).lengths.tolist() == []


def test_the_pieces_of_a_composer_are_counted_once_however_often_they_are_performed():
    table = table_of([3] * 5)._replace(composers=("Liszt", "", "Alkan", "Liszt", "Liszt"))
    assert table.composer_pieces().tolist() == [3, 1, 1, 3, 3]
    table = table._replace(pieces=("b", "b", "b", "a", "b"))
    assert table.composer_pieces().tolist() == [2, 1, 1, 2, 2]
    assert table.subset([0, 2, 4]).composer_pieces().tolist() == [1, 1, 1]
    assert table_of([3, 1]).composer_pieces().tolist() == [2, 2]


def test_performances_have_the_numbers_of_their_composers():
    table = table_of([3, 1, 2])._replace(composers=("Liszt", "", "Alkan"))
    assert table.composer_ids(["Alkan", "Chopin", "Liszt"]).tolist() == [3, 0, 1]
    assert table.composer_ids([]).tolist() == [0, 0, 0]
    assert table.subset([2, 0]).composer_ids(["Alkan", "Liszt"]).tolist() == [1, 2]
    assert table_of([3, 1]).composer_ids(["Alkan"]).tolist() == [0, 0]
