"""Performances as TFRecords of tf.train.Example, without TensorFlow.

The messages are those of tensorflow/core/example/{example,feature}.proto, declared here at run time in a descriptor
pool of our own, so that TensorFlow, which registers the same names in the default pool, may live in the same process.
"""

import dataclasses
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from sostenuto import storage
from sostenuto.errors import RecordError
from sostenuto.music.notes import Notes

# Raise it whenever a reader of the old records would misread the new ones.
SCHEMA_VERSION = 1

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class Performance:
    """One MIDI file: its notes and what is known about it.

    Attributes:
        path: the file, relative to the corpus, with forward slashes.
        piece: the composition; no piece stands in two splits.
        split: train, validation or test.
        composer: "" where unknown.
        title: "" where unknown.
        year: of the performance; 0 where unknown.
        notes: the notes.
    """

    path: str
    piece: str
    split: str
    composer: str
    title: str
    year: int
    notes: Notes


_TEXTS = ("path", "piece", "split", "composer", "title")
_ARRAYS = ("pitch", "step_us", "duration_us", "velocity")


def _message_classes() -> type[message.Message]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="sostenuto/example.proto", package="tensorflow", syntax="proto3")

    def add(owner: descriptor_pb2.DescriptorProto, name: str, kind: int, **options: object) -> None:
        owner.field.add(name=name, number=len(owner.field) + 1, type=kind, **{"label": field.LABEL_OPTIONAL, **options})

    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        add(file.message_type.add(name=name), "value", kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for name, kind in (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")):
        add(feature, name, field.TYPE_MESSAGE, type_name=f".tensorflow.{kind}", oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", field.TYPE_STRING)
    add(entry, "value", field.TYPE_MESSAGE, type_name=".tensorflow.Feature")
    add(
        features,
        "feature",
        field.TYPE_MESSAGE,
        type_name=".tensorflow.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )
    add(file.message_type.add(name="Example"), "features", field.TYPE_MESSAGE, type_name=".tensorflow.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_Example = _message_classes()


def encode_performance(performance: Performance) -> bytes:
    """Returns a serialized tf.train.Example; equal performances give equal bytes.

    Texts are bytes features of one UTF-8 string, `year` and `schema_version` int64 features of one value, `pitch`,
    `step_us`, `duration_us` and `velocity` int64 features of one value a note.
    """
    example = _Example()
    feature = example.features.feature
    for name in _TEXTS:
        feature[name].bytes_list.value.append(getattr(performance, name).encode())
    feature["year"].int64_list.value.append(performance.year)
    feature["schema_version"].int64_list.value.append(SCHEMA_VERSION)
    for name in _ARRAYS:
        feature[name].int64_list.value.extend(getattr(performance.notes, name).tolist())
    return example.SerializeToString(deterministic=True)


def decode_performance(record: bytes) -> Performance:
    """Returns the performance that `encode_performance` wrote.

    Raises:
        RecordError: the bytes are no Example, or not one of this schema.
    """
    try:
        feature = _Example.FromString(record).features.feature
    except message.DecodeError as error:
        raise RecordError(f"a record of {len(record)} bytes is no tf.train.Example") from error
    missing = [name for name in (*_TEXTS, "year", "schema_version", *_ARRAYS) if name not in feature]
    if missing:
        raise RecordError(f"a record lacks {', '.join(missing)}: it is no performance of this project")
    try:
        version = feature["schema_version"].int64_list.value[0]
        if version != SCHEMA_VERSION:
            raise RecordError(
                f"a record has schema version {version}, expected {SCHEMA_VERSION}: preprocess the corpus anew"
            )
        arrays = {}
        for name in _ARRAYS:
            values = feature[name].int64_list.value
            arrays[name] = np.fromiter(values, np.int64, len(values))
        return Performance(
            **{name: feature[name].bytes_list.value[0].decode() for name in _TEXTS},
            year=feature["year"].int64_list.value[0],
            notes=Notes(**arrays),
        )
    except (IndexError, ValueError) as error:
        raise RecordError(f"a record holds no valid performance: {error}") from error


def summarize_record(record: bytes) -> tuple[str, int]:
    """Returns the path and the number of notes of what `encode_performance` wrote, ten times as fast as decoding it.

    Raises:
        RecordError: the bytes are no Example, or not one of this schema.
    """
    try:
        feature = _Example.FromString(record).features.feature
        version, path = feature["schema_version"].int64_list.value[0], feature["path"].bytes_list.value[0].decode()
        counts = {len(feature[name].int64_list.value) for name in _ARRAYS}
    except (message.DecodeError, IndexError, UnicodeDecodeError) as error:
        raise RecordError(f"a record of {len(record)} bytes is no performance of this project") from error
    if version != SCHEMA_VERSION or len(counts) != 1:
        raise RecordError(f"a record has schema version {version} and fields of {sorted(counts)} notes")
    return path, counts.pop()


def write_records(file: BinaryIO, records: Iterable[bytes]) -> int:
    """Writes records in TFRecord framing to an open file and returns their number.

    A record is its length (8 bytes, little endian), the masked CRC-32C of those 8 bytes, the data, and the masked
    CRC-32C of the data: tensorflow/core/lib/io/record_writer.h.
    """
    count = 0
    for record in records:
        length = _LENGTH.pack(len(record))
        file.write(length + _CRC.pack(_masked_crc(length)) + record + _CRC.pack(_masked_crc(record)))
        count += 1
    return count


def read_records(path: str) -> Iterator[bytes]:
    """Yields the records of a TFRecord file, each checked against its CRCs.

    Raises:
        RecordError: the file is damaged or cut short; says which file and record.
        UserError: the file cannot be read.
    """
    yield from parse_records(storage.read_bytes(path), path)


def parse_records(content: bytes, path: str) -> Iterator[bytes]:
    """Yields the records of a TFRecord file that was read already, each checked against its CRCs.

    Args:
        content: the file's bytes.
        path: what to call the file in an error.

    Raises:
        RecordError: as for `read_records`.
    """
    data = memoryview(content)
    start = number = 0
    while start < len(data):
        header, start = data[start : start + 12], start + 12
        if len(header) < 12:
            raise RecordError(f"{path}: record {number} is cut short: the file is damaged, preprocess the corpus anew")
        if _CRC.unpack(header[8:])[0] != _masked_crc(header[:8]):
            raise RecordError(
                f"{path}: record {number} has a damaged length: the file is damaged, preprocess the corpus anew"
            )
        length = _LENGTH.unpack(header[:8])[0]
        body, start = data[start : start + length + 4], start + length + 4
        if len(body) < length + 4:
            raise RecordError(f"{path}: record {number} is cut short: the file is damaged, preprocess the corpus anew")
        record = bytes(body[:length])
        if _CRC.unpack(body[length:])[0] != _masked_crc(record):
            raise RecordError(
                f"{path}: record {number} fails its checksum: the file is damaged, preprocess the corpus anew"
            )
        yield record
        number += 1


def _masked_crc(data: bytes | memoryview) -> int:
    # The mask keeps a CRC of data that holds CRCs from being trivial: tensorflow/core/lib/hash/crc32c.h.
    crc = google_crc32c.value(bytes(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
