"""TFRecord framing and checksums, without TensorFlow.

A record is its length (8 bytes, little endian), the masked CRC-32C of those 8 bytes, the data, and the masked CRC-32C
of the data: tensorflow/core/lib/io/record_writer.h.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import google_crc32c

from sostenuto.errors import RecordError

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CRC.size


def write_records(file: BinaryIO, records: Iterable[bytes]) -> int:
    """Writes records to an open file and returns their number."""
    count = 0
    for record in records:
        length = _LENGTH.pack(len(record))
        file.write(length + _CRC.pack(_masked_crc(length)) + record + _CRC.pack(_masked_crc(record)))
        count += 1
    return count


def parse_records(content: bytes, path: str) -> Iterator[bytes]:
    """Yields the records of a TFRecord file, each checked against its CRCs; raises RecordError with path and record."""
    data = memoryview(content)
    start = number = 0
    while start < len(data):
        header, start = data[start : start + _HEADER_BYTES], start + _HEADER_BYTES
        if len(header) < _HEADER_BYTES:
            raise _corrupt(path, number, "is truncated")
        if _CRC.unpack(header[_LENGTH.size :])[0] != _masked_crc(header[: _LENGTH.size]):
            raise _corrupt(path, number, "has a corrupt length")
        (length,) = _LENGTH.unpack(header[: _LENGTH.size])
        body, start = data[start : start + length + _CRC.size], start + length + _CRC.size
        if len(body) < length + _CRC.size:
            raise _corrupt(path, number, "is truncated")
        record = bytes(body[:length])
        if _CRC.unpack(body[length:])[0] != _masked_crc(record):
            raise _corrupt(path, number, "has another checksum")
        yield record
        number += 1


def _corrupt(path: str, number: int, problem: str) -> RecordError:
    return RecordError(f"{path}: record {number} {problem}. Run sostenuto preprocess again")


def _masked_crc(data: bytes | memoryview) -> int:
    """Returns a CRC-32C, masked so that data may itself contain CRCs: tensorflow/core/lib/hash/crc32c.h."""
    crc = google_crc32c.value(bytes(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
