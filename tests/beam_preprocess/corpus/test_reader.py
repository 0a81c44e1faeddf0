import random
import struct
import tracemalloc
import zipfile

import pytest

from beam_preprocess.corpus import find_corpus
from beam_preprocess.corpus.reader import Reader
from sostenuto.errors import UserError
from sostenuto.music import midi
from tests.beam_preprocess.corpus_files import write_zip
from tests.midi_files import melody


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
            # At most what was declared and what is there; the decoder says that the rest is missing.
            assert len(data) <= declared
