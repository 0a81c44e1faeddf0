import os
from pathlib import Path

import pytest

from beam_preprocess.shard_writer import write_shard
from sostenuto import storage
from sostenuto.data.performance import Performance
from sostenuto.errors import UserError
from tests.factories import random_notes

NAMES = ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]


def performance(index: int) -> Performance:
    return Performance(f"{index}.mid", "p", "train", "", "", 0, random_notes(index))


@pytest.mark.parametrize("damage", ["flip", "cut", "swap"])
def test_a_shard_that_reads_back_as_something_else_stops_the_run(tmp_path, monkeypatch, damage):
    """A faulty disk."""
    other = tmp_path / "other"
    write_shard(str(other), [performance(5), performance(6)])

    def read_damaged(path):
        data = bytearray(Path(path).read_bytes())
        match damage:
            case "flip":
                data[len(data) // 2] ^= 1
            case "cut":
                del data[-1000:]
            case "swap":
                data = other.read_bytes()
        return bytes(data)

    monkeypatch.setattr(storage, "read_bytes", read_damaged)
    with pytest.raises(UserError, match="train-00000-of-00002"):
        write_shard(str(tmp_path / NAMES[0]), [performance(1), performance(2)])
    assert os.listdir(tmp_path) == ["other"]
