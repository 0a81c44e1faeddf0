from beam_preprocess.corpus import CorpusFile
from beam_preprocess.plan import assign_shards, read_plan, write_plan

NAMES = ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]


def files(split: str, count: int) -> list[CorpusFile]:
    return [CorpusFile(path=f"{split}/{index}.mid", location="", split=split) for index in range(count)]


def test_shards_are_filled_evenly_and_completely():
    shards = assign_shards(files("train", 23) + files("test", 2), 5)
    assert list(shards) == [f"train-{index:05d}-of-00005.tfrecord" for index in range(5)] + [
        f"test-{index:05d}-of-00002.tfrecord" for index in range(2)
    ]
    assert sorted(map(len, shards.values())) == [1, 1, 4, 4, 5, 5, 5]
    assert sorted(file.path for part in shards.values() for file in part) == sorted(
        file.path for file in files("train", 23) + files("test", 2)
    )


def test_the_number_of_shards_follows_from_the_number_of_files():
    assert len(assign_shards(files("train", 100), 0)) == 1
    assert len(assign_shards(files("train", 399), 0)) == 4


def test_shards_do_not_depend_on_the_order_of_files():
    assert assign_shards(files("train", 30)[::-1], 4) == assign_shards(files("train", 30), 4)


def test_the_list_of_files_is_read_a_shard_at_a_time(tmp_path):
    odd = CorpusFile("a.mid", "odd \udce9 bytes/a.mid", "piece", "train", "Dvořák", "Humoresque", 1999)
    shards = {NAMES[0]: [odd, *files("train", 3)], NAMES[1]: files("test", 2)}
    ranges = write_plan(str(tmp_path / "plan"), shards)
    assert [shard.name for shard in ranges] == NAMES
    assert {shard.name: read_plan(str(tmp_path / "plan"), shard) for shard in reversed(ranges)} == shards
