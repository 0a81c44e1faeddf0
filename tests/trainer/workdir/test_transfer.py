"""Order of uploads."""

import random

from trainer.workdir.transfer import stale_names, upload_sort_key

ORDERED = [
    "config.json", "best/00000020/variables.index", "best/00000020/checkpoint.json", "metrics.jsonl",
    "summaries/train/events", "run.json", "checkpoints/00000020/variables.index",
    "checkpoints/00000020/checkpoint.json", "checkpoints/00000010/variables.index",
    "checkpoints/00000010/checkpoint.json", "export/variables/variables.index", "export/saved_model.pb",
    "export/export.json", "result.json",
]  # fmt: skip


def test_a_file_follows_those_that_it_refers_to():
    names = list(ORDERED)
    random.Random(1).shuffle(names)
    assert sorted(names, key=upload_sort_key) == ORDERED


def test_of_checkpoints_that_are_gone_the_manifests_go_first():
    remote = [name for name in ORDERED if name.startswith("checkpoints/")]
    local = ["checkpoints/00000030/checkpoint.json", "checkpoints/00000030/variables.index"]
    stale = stale_names([*remote, *local], local, max_to_keep=2)
    assert stale == ["checkpoints/00000010/checkpoint.json", "checkpoints/00000010/variables.index"]
    assert stale_names(remote, ["metrics.jsonl"], max_to_keep=1) == []


def test_an_export_is_replaced_as_a_whole():
    remote = ["export/old.bin", "export/saved_model.pb", "metrics.jsonl"]
    assert stale_names(remote, ["export/saved_model.pb"], max_to_keep=1) == ["export/old.bin"]
