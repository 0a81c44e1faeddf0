import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sostenuto.data.performance import Performance, decode_performance, encode_performance, summarize_record
from sostenuto.data.tfrecord import write_records
from sostenuto.errors import RecordError
from sostenuto.music.notes import MAX_TIME_US, Notes
from tests.factories import random_notes
from tests.processes import run_python

PERFORMANCE = Performance(
    path="2018/Étude.midi",
    piece="Chopin: Étude",
    split="train",
    composer="Frédéric Chopin",
    title="Étude",
    year=2018,
    notes=random_notes(0),
)


@st.composite
def performances(draw) -> Performance:
    count = draw(st.integers(0, 20))

    def integers(low, high):
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)), np.int64)

    step_us = integers(0, MAX_TIME_US)
    step_us[:1] = 0
    notes = Notes(integers(0, 127), step_us, integers(1, MAX_TIME_US), integers(1, 127))
    text = st.text(st.characters(codec="utf-8"), max_size=20)
    return Performance(*(draw(text) for _ in range(5)), year=draw(st.integers(0, 3000)), notes=notes)


@given(performances())
def test_a_performance_survives_its_record(performance):
    record = encode_performance(performance)
    assert decode_performance(record) == performance
    assert encode_performance(performance) == record
    assert summarize_record(record) == (performance.path, len(performance.notes))


def test_records_do_not_depend_on_the_process():
    program = "from tests.sostenuto.data.test_performance import *; print(encode_performance(PERFORMANCE).hex())"
    outputs = {run_python("-c", program, check=True, PYTHONHASHSEED=seed).stdout.strip() for seed in ("1", "2")}
    assert outputs == {encode_performance(PERFORMANCE).hex()}


def test_tensorflow_reads_shard_and_example(tmp_path):
    shard = tmp_path / "shard.tfrecord"
    with shard.open("wb") as file:
        assert write_records(file, [encode_performance(PERFORMANCE)] * 2) == 2
    # TensorFlow registers messages of the same names: this shows also that both live in one process.
    program = """
import sys
from sostenuto.data.performance import decode_performance
from sostenuto.data.tfrecord import parse_records
first = decode_performance(next(parse_records(open(sys.argv[1], "rb").read(), sys.argv[1])))
import tensorflow as tf
examples = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(sys.argv[1])]
assert len(examples) == 2
feature = examples[0].features.feature
assert feature["pitch"].int64_list.value == first.notes.pitch.tolist()
assert feature["step_us"].int64_list.value == first.notes.step_us.tolist()
assert feature["composer"].bytes_list.value[0].decode() == first.composer
assert feature["year"].int64_list.value == [2018]
"""
    process = run_python("-c", program, str(shard), CUDA_VISIBLE_DEVICES="")
    assert process.returncode == 0, process.stderr


def test_a_record_of_another_kind_is_refused():
    with pytest.raises(RecordError, match=r"not a tf\.train\.Example"):
        decode_performance(b"\xff\xff\xff")
    with pytest.raises(RecordError, match="lacks path"):
        decode_performance(b"")
