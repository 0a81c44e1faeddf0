import io

import pytest

from sostenuto.data.tfrecord import parse_records, write_records
from sostenuto.errors import RecordError


def test_records_survive_framing():
    records = [b"", b"a", bytes(range(256)) * 300]
    buffer = io.BytesIO()
    assert write_records(buffer, records) == 3
    assert list(parse_records(buffer.getvalue(), "shard.tfrecord")) == records


def test_any_flipped_byte_of_a_shard_is_noticed():
    buffer = io.BytesIO()
    write_records(buffer, [b"first record", b"second record"])
    whole = buffer.getvalue()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        with pytest.raises(RecordError, match=r"shard\.tfrecord: record [01]"):
            list(parse_records(bytes(damaged), "shard.tfrecord"))


def test_a_shard_cut_short_is_noticed_unless_cut_between_records():
    buffer = io.BytesIO()
    write_records(buffer, [b"first", b"second"])
    whole = buffer.getvalue()
    boundary = 16 + len(b"first")
    for length in set(range(1, len(whole))) - {boundary}:
        with pytest.raises(RecordError, match="is truncated"):
            list(parse_records(whole[:length], "shard.tfrecord"))
