import os
import random
import struct
import tracemalloc
import zipfile

import pytest

from beam_preprocess.corpus import find_corpus
from beam_preprocess.corpus.archive import Reader, list_zip, open_zip
from sostenuto.errors import UserError
from sostenuto.music import midi
from tests.factories import melody, write_zip

# Names that would be dangerous to extract.
HOSTILE_NAMES = {
    "/etc/absolute.mid": "etc/absolute.mid",
    "../../above.mid": "above.mid",
    "a/../../etc/between.mid": "etc/between.mid",
    "//double.mid": "double.mid",
    "a/./b//plain.mid": "a/b/plain.mid",
    "..mid/odd.mid": "..mid/odd.mid",
}


def test_names_of_members_are_paths_below_the_archives_top(tmp_path):
    files = {name: melody([60 + number]) for number, name in enumerate(HOSTILE_NAMES)}
    corpus = find_corpus(str(write_zip(tmp_path / "x.zip", files)))
    assert {file.location: file.path for file in corpus.files} == HOSTILE_NAMES
    with Reader(corpus.archive) as reader:
        assert {file.location: reader.read(file.location, limit=999) for file in corpus.files} == files
    assert os.listdir(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("second", ["a.mid", "./a.mid", "/a.mid", "../a.mid", "b/../a.mid"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # intended here
def test_two_members_of_one_name_are_rejected(tmp_path, second):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.mid", melody([60]))
        archive.writestr(second, melody([61]))
    with pytest.raises(UserError, match=r"x\.zip: holds a\.mid more than once"):
        find_corpus(str(tmp_path / "x.zip"))


def test_an_archive_within_an_archive_is_not_opened(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", {"deep.mid": melody([60])}).read_bytes()
    path = write_zip(tmp_path / "x.zip", {"inner.zip": inner, "inner.mid": inner, "a.mid": melody([60])})
    corpus = find_corpus(str(path), split_fractions=(1, 0, 0))
    assert [file.path for file in corpus.files] == ["a.mid", "inner.mid"]
    with Reader(corpus.archive) as reader:
        assert reader.read("inner.mid", limit=2) == b"PK"


def test_an_archive_that_would_become_a_hundred_times_as_large_is_rejected(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(20):
            archive.writestr(f"{number}.mid", bytes(2**20))
    with pytest.raises(UserError, match="more than 100 times as many"):
        list_zip(str(tmp_path / "x.zip"), harmless_bytes=2**24)
    # A small archive of loops is allowed.
    with zipfile.ZipFile(tmp_path / "y.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(20):
            archive.writestr(f"{number}.mid", melody([60, 64, 67, 72] * 500))
    assert len(list_zip(str(tmp_path / "y.zip"), harmless_bytes=2**24)) == 20


def test_more_members_than_allowed_are_rejected(tmp_path):
    path = write_zip(tmp_path / "x.zip", {f"{number}.mid": b"" for number in range(40)})
    with pytest.raises(UserError, match="holds 40 members, more than the 39 allowed"):
        list_zip(str(path), max_members=39)
    # A directory that is longer than that of any allowed archive is not read at all.
    with (
        pytest.raises(UserError, match="its directory claims"),
        open_zip(str(path), max_directory_bytes=40 * 46),
    ):
        pass


@pytest.mark.parametrize(
    ("offset", "damage"), [(46, b"\xff\xfe"), (6, b"\xff\x00")], ids=["name not in UTF-8", "unknown version"]
)
def test_a_corrupt_directory_is_rejected(tmp_path, offset, damage):
    path = write_zip(tmp_path / "x.zip", {"é.mid": melody([60])})
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02") + offset
    data[start : start + len(damage)] = damage
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.zip: cannot be read as a zip file"):
        list_zip(str(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="absent"), Reader(None) as reader:
        reader.read(str(tmp_path / "absent"), limit=9)
    path = write_zip(tmp_path / "a.zip", {"a.mid": melody([60] * 100)})
    damaged = path.read_bytes().replace(b"MThd", b"MThx")
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="CRC"), Reader(str(path)) as reader:
        reader.read("a.mid", limit=10**6)


def test_a_bomb_among_the_members_is_read_no_further_than_asked(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.mid", bytes(2**28))
        archive.writestr("noise", random.randbytes(2**22), compress_type=zipfile.ZIP_STORED)
    (file,) = find_corpus(str(path), split_fractions=(1, 0, 0)).files
    tracemalloc.start()
    with Reader(str(path)) as reader:
        assert reader.read(file.location, limit=midi.MAX_BYTES + 1) == bytes(midi.MAX_BYTES + 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * midi.MAX_BYTES


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_methods_are_rejected(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("a.mid", melody([60]))
    with (
        pytest.raises(UserError, match=f"method {method}, expected stored or deflated"),
        Reader(str(tmp_path / "x.zip")) as reader,
    ):
        reader.read("a.mid", limit=999)


def with_declared_size(path, size):
    """Rewrites a zip file of one member, so that its directory and its local header declare another size."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", data, data.index(signature) + offset, size)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("declared", [0, 10, 10**6])
def test_a_member_with_a_false_size_is_read_up_to_that_size(tmp_path, declared):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mid", melody(range(40, 80)))
    path = with_declared_size(tmp_path / "x.zip", declared)
    with Reader(str(path)) as reader:
        try:
            data = reader.read("a.mid", limit=10**7)
        except UserError as error:
            assert "a.mid: cannot be read" in str(error)
        else:
            # At most the declared bytes and the existing ones; the decoder reports that the rest is missing.
            assert len(data) <= declared


def test_a_member_without_a_name_is_no_traceback(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"?.mid": melody([60]), "b.mid": melody([61])})
    # zipfile ends a name at its first NUL.
    path.write_bytes(path.read_bytes().replace(b"?.mid", b"\0.mid"))
    assert [name for name, _ in list_zip(str(path))] == ["", "b.mid"]
