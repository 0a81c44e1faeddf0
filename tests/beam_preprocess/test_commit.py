import contextlib
import dataclasses
import json
import os
import time

import pytest

from beam_preprocess.commit import UNFINISHED_NAME, commit_dataset, hold_output, prepare_output
from beam_preprocess.plan import DatasetPlan
from beam_preprocess.shard_writer import Rejection, ShardReport, SplitStats, write_shard
from sostenuto import storage
from sostenuto.data.manifest import MANIFEST_NAME, Manifest, Split
from sostenuto.data.performance import Performance
from sostenuto.errors import UserError
from sostenuto.music.histograms import Histograms
from tests.factories import random_notes

NAMES = ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]


def reported(output, *, salt: int = 0) -> tuple[DatasetPlan, list[ShardReport]]:
    """Writes two shards of two performances under temporary names; one file of the second was rejected."""
    shards, reports = {}, []
    for number, name in enumerate(NAMES):
        performances = [
            Performance(f"{number}{index}.mid", "p", "train", "", "", 0, random_notes(salt + 10 * number + index))
            for index in range(2)
        ]
        temporary = storage.temporary_name(os.path.join(output, name))
        records, length, digest, crc = write_shard(temporary, performances)
        histograms = sum((Histograms.from_notes(performance.notes) for performance in performances), Histograms.zeros())
        tally = SplitStats(sum(len(performance.notes) for performance in performances), 10**7, number, 2, 3, histograms)
        rejections = [Rejection("1x.mid", "not_midi", "is empty")] if number else []
        shards[name] = len(performances) + len(rejections)
        reports.append(ShardReport(name, temporary, records, length, digest, crc, tally, rejections))
    return DatasetPlan(str(output), shards, {"files": 5}, {"sustain": "ignore"}, 0.5, overwrite=True), reports


def test_committing_leaves_exactly_the_dataset(tmp_path):
    plan, reports = reported(tmp_path)
    commit_dataset(plan, reports[::-1])
    assert sorted(os.listdir(tmp_path)) == sorted([*NAMES, "dataset.json", "rejected.jsonl"])
    manifest = Manifest.load(tmp_path)
    assert manifest.performances("train") == len(list(manifest.read_performances("train"))) == 4
    assert manifest.splits["train"].seconds == 20.0
    assert manifest.rejected == {"not_midi": 1}
    statistics = manifest.statistics["train"]
    assert (statistics.zero_length_dropped, statistics.unended_dropped, statistics.drums_dropped) == (1, 4, 6)
    assert statistics.quantiles["pitch"]["0.5"] == manifest.histograms("train").quantile("pitch", 0.5)
    assert manifest.splits["test"] == Split(performances=0, notes=0, seconds=0.0, shards=())
    (line,) = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line) == {"path": "1x.mid", "reason": "not_midi", "detail": "is empty"}


def test_too_many_rejected_files_stop_the_run_before_any_shard_is_renamed(tmp_path):
    plan, reports = reported(tmp_path)
    with pytest.raises(
        UserError, match=r"1 of 5 files was rejected \(1 not_midi\).*--max_rejected_fraction=0.1.*1x.mid"
    ):
        commit_dataset(dataclasses.replace(plan, max_rejected_fraction=0.1), reports)
    assert all(storage.TEMPORARY.search(name) for name in os.listdir(tmp_path))


def test_a_split_of_nothing_but_rejected_files_stops_the_run(tmp_path):
    plan, reports = reported(tmp_path)
    name = "test-00000-of-00001.tfrecord"
    temporary = storage.temporary_name(tmp_path / name)
    records, length, digest, crc = write_shard(temporary, [])
    rejected = ShardReport(
        name, temporary, records, length, digest, crc, SplitStats(), [Rejection("t.mid", "smpte", "counts")]
    )
    plan = dataclasses.replace(plan, shards={**plan.shards, name: 1})
    with pytest.raises(UserError, match=r"every file of the test split was rejected.*t\.mid counts"):
        commit_dataset(plan, [*reports, rejected])
    assert MANIFEST_NAME not in os.listdir(tmp_path)


@pytest.mark.parametrize("former", [False, True])
def test_a_shard_that_disappears_before_it_is_renamed_stops_the_run(tmp_path, former):
    if former:
        commit_dataset(*reported(tmp_path))
    plan, reports = reported(tmp_path, salt=100)
    os.remove(reports[0].temporary_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    with pytest.raises(UserError, match=r"train-00000-of-00002.*was written and is gone"):
        commit_dataset(plan, reports)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_committing_a_dataset_of_ten_thousand_shards_takes_no_longer_a_shard(tmp_path):
    def seconds(shards: int) -> float:
        plan = DatasetPlan(str(tmp_path), {f"{index}": 1 for index in range(shards)}, {}, {}, max_rejected_fraction=1)
        reports = [
            ShardReport(f"{index}", "", 0, 0, "", "", SplitStats(), [Rejection("", "", "")]) for index in range(shards)
        ]
        started = time.process_time()
        with pytest.raises(UserError, match="is gone"):
            commit_dataset(plan, reports)
        return time.process_time() - started

    few = seconds(1_000)
    assert seconds(10_000) < 40 * max(few, 0.005)


def test_a_shard_or_file_without_report_stops_the_run(tmp_path):
    plan, reports = reported(tmp_path)
    with pytest.raises(RuntimeError, match="1 shard reported of 2"):
        commit_dataset(plan, reports[:1])
    with pytest.raises(RuntimeError, match="2 files written or rejected of 3"):
        commit_dataset(plan, [reports[0], dataclasses.replace(reports[1], rejections=[])])


@pytest.mark.parametrize("calls_before_the_crash", range(14))
@pytest.mark.parametrize("has_former", [True, False])
def test_a_crash_at_any_point_of_the_commit_leaves_the_old_dataset_or_the_new_one_and_can_be_repeated(
    tmp_path, monkeypatch, calls_before_the_crash, has_former
):
    old: list[Performance] = []
    if has_former:
        commit_dataset(*reported(tmp_path))
        (tmp_path / "validation-00007-of-00008.tfrecord").touch()
        old = list(Manifest.load(tmp_path).read_performances("train"))
    plan, reports = reported(tmp_path, salt=100)
    calls = 0

    def crashing(operation):
        def wrapped(*arguments):
            nonlocal calls
            if calls == calls_before_the_crash:
                raise KeyboardInterrupt
            calls += 1
            return operation(*arguments)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("remove", "rename", "copy", "write_bytes_atomic"):
            patch.setattr(storage, name, crashing(getattr(storage, name)))
        with contextlib.suppress(KeyboardInterrupt):
            commit_dataset(plan, reports)
    if has_former or (tmp_path / MANIFEST_NAME).exists():
        # The old or the new dataset, complete.
        found = list(Manifest.load(tmp_path).read_performances("train"))
        assert (found == old) == (Manifest.load(tmp_path).splits["train"].shards[0].sha256 != reports[0].sha256)
        prepare_output(str(tmp_path), overwrite=True)
        assert list(Manifest.load(tmp_path).read_performances("train")) == found
        plan, reports = reported(tmp_path, salt=100)
    elif os.listdir(tmp_path) and calls_before_the_crash:
        with pytest.raises(UserError, match="unfinished"):
            Manifest.load(tmp_path)
        # Another run needs no --overwrite to take the place of what is unfinished.
        assert UNFINISHED_NAME in os.listdir(tmp_path)
    commit_dataset(plan, reports)
    assert sorted(os.listdir(tmp_path)) == sorted([*NAMES, "dataset.json", "rejected.jsonl"])
    assert Manifest.load(tmp_path).splits["train"].shards[0].sha256 == reports[0].sha256


def test_a_directory_with_a_dataset_is_rejected_without_overwrite(tmp_path):
    commit_dataset(*reported(tmp_path))
    with pytest.raises(UserError, match=r"already holds a dataset.*--overwrite"):
        prepare_output(str(tmp_path), overwrite=False)
    prepare_output(str(tmp_path), overwrite=True)
    assert MANIFEST_NAME in os.listdir(tmp_path)


def test_shards_of_another_program_are_not_replaced_without_overwrite(tmp_path):
    (tmp_path / NAMES[0]).write_bytes(b"years of work")
    with pytest.raises(UserError, match="did not write"):
        prepare_output(str(tmp_path), overwrite=False)
    assert (tmp_path / NAMES[0]).read_bytes() == b"years of work"


def test_only_the_files_of_a_killed_run_are_removed(tmp_path):
    ours = [f"{NAMES[0]}.tmp-0123456789ab", "dataset.json.tmp-0123456789ab", "rejected.jsonl.tmp-0123456789ab"]
    ours.append("plan.jsonl.tmp-0123456789ab")
    others = ["notes.txt", "notes.txt.tmp-0123456789ab", f"{NAMES[0]}.tmp-backup"]
    for name in ours + others:
        (tmp_path / name).touch()
    prepare_output(str(tmp_path), overwrite=True)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_an_output_that_is_a_file_is_rejected(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"), hold_output(str(tmp_path / "file")):
        pass


@pytest.mark.parametrize("content", [b"{}", b"[]", b"", b"\xff", b'{"schema_version": 99}', b'{"a": 1}'])
def test_a_dataset_json_of_another_kind_is_replaced_only_with_overwrite(tmp_path, content):
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(UserError, match=r"already holds a dataset.*--overwrite"):
        prepare_output(str(tmp_path), overwrite=False)
    plan, reports = reported(tmp_path)
    # It may have come after the run was started.
    with pytest.raises(UserError, match=r"already holds a dataset.*--overwrite"):
        commit_dataset(dataclasses.replace(plan, overwrite=False), reports)
    assert (tmp_path / MANIFEST_NAME).read_bytes() == content
    commit_dataset(plan, reports)
    assert Manifest.load(tmp_path).performances("train") == 4


def test_a_dataset_whose_shards_are_gone_can_be_replaced(tmp_path):
    commit_dataset(*reported(tmp_path))
    (tmp_path / NAMES[0]).unlink()
    commit_dataset(*reported(tmp_path, salt=100))
    assert len(list(Manifest.load(tmp_path).read_performances("train"))) == 4


def test_a_shard_that_another_program_changes_while_it_is_renamed_stops_the_run(tmp_path, monkeypatch):
    commit_dataset(*reported(tmp_path))
    old = list(Manifest.load(tmp_path).read_performances("train"))
    plan, reports = reported(tmp_path, salt=100)
    rename = storage.rename

    def rename_and_change(source, target):
        rename(source, target)
        if os.path.basename(target) == NAMES[1]:
            (tmp_path / NAMES[1]).write_bytes(b"of the same name")

    monkeypatch.setattr(storage, "rename", rename_and_change)
    with pytest.raises(UserError, match=r"train-00001-of-00002.*was written and is gone or changed"):
        commit_dataset(plan, reports)
    assert list(Manifest.load(tmp_path).read_performances("train")) == old
