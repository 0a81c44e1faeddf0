"""Performances as serialized tf.train.Example messages, without TensorFlow.

The messages are those of tensorflow/core/example/{example,feature}.proto. They are declared in a descriptor pool of
their own, so that TensorFlow, which registers the same names in the default pool, can be used in the same process.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

from sostenuto.errors import RecordError
from sostenuto.music.notes import Notes
from sostenuto.text import counted

# Increase it when a reader of the former records would misread the new ones.
SCHEMA_VERSION = 1

_TEXTS = ("path", "piece", "split", "composer", "title")
_ARRAYS = ("pitch", "step_us", "duration_us", "velocity")

_PROTO = """
name: "sostenuto/example.proto" package: "tensorflow" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: ".tensorflow.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type: TYPE_MESSAGE type_name: ".tensorflow.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: ".tensorflow.Int64List" oneof_index: 0 }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".tensorflow.Feature" }
  }
  field {
    name: "feature" number: 1 label: LABEL_REPEATED
    type: TYPE_MESSAGE type_name: ".tensorflow.Features.FeatureEntry"
  }
}
message_type {
  name: "Example" field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".tensorflow.Features" }
}
"""
_pool = descriptor_pool.DescriptorPool()
_pool.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
_Example = message_factory.GetMessageClass(_pool.FindMessageTypeByName("tensorflow.Example"))


@dataclasses.dataclass(frozen=True)
class Performance:
    """The notes of one MIDI file, and its metadata.

    Attributes:
        path: the file, relative to the corpus, with forward slashes.
        piece: the composition; no piece is in two splits.
        split: train, validation or test.
        composer: "" if unknown.
        title: "" if unknown.
        year: of the performance; 0 if unknown.
        notes: the notes.
    """

    path: str
    piece: str
    split: str
    composer: str
    title: str
    year: int
    notes: Notes


def encode_performance(performance: Performance) -> bytes:
    """Returns a serialized tf.train.Example; equal performances give equal bytes.

    Texts are bytes features of one UTF-8 string; `year` and `schema_version` are int64 features of one value; the
    notes' fields are int64 features of one value per note.
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
        RecordError: the bytes are no Example, or one of another schema.
    """
    feature = _parse(record)
    try:
        arrays = {name: feature[name].int64_list.value for name in _ARRAYS}
        return Performance(
            **{name: feature[name].bytes_list.value[0].decode() for name in _TEXTS},
            year=feature["year"].int64_list.value[0],
            notes=Notes(**{name: np.fromiter(array, np.int64, len(array)) for name, array in arrays.items()}),
        )
    except (IndexError, ValueError) as error:
        raise RecordError(f"not a valid performance: {error}") from error


def summarize_record(record: bytes) -> tuple[str, int]:
    """Returns path and number of notes of a record, ten times as fast as `decode_performance`; raises RecordError."""
    feature = _parse(record)
    counts = {len(feature[name].int64_list.value) for name in _ARRAYS}
    if len(counts) != 1:
        raise RecordError(f"got fields of {sorted(counts)} notes, expected one number")
    try:
        return feature["path"].bytes_list.value[0].decode(), counts.pop()
    except (IndexError, UnicodeDecodeError) as error:
        raise RecordError(f"not a valid performance: {error}") from error


def _parse(record: bytes) -> Mapping[str, Any]:
    """Returns the features of a record of this schema; raises RecordError."""
    try:
        feature = _Example.FromString(record).features.feature
    except message.DecodeError as error:
        raise RecordError(f"not a tf.train.Example ({counted(len(record), 'byte')})") from error
    missing = [name for name in (*_TEXTS, "year", "schema_version", *_ARRAYS) if name not in feature]
    if missing:
        raise RecordError(f"lacks {', '.join(missing)}: not a performance of this project")
    version = next(iter(feature["schema_version"].int64_list.value), None)
    if version != SCHEMA_VERSION:
        raise RecordError(f"got schema version {version}, expected {SCHEMA_VERSION}. Run sostenuto preprocess again")
    return feature
