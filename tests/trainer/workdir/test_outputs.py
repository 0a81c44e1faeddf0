"""A bad --output is noticed before the work, and the check leaves nothing behind."""

import os

import pytest

from sostenuto import storage
from sostenuto.data.json_record import write_json
from sostenuto.errors import LostError, UserError
from trainer.generation import samples
from trainer.workdir import outputs


@pytest.mark.parametrize("marks", [["dataset.json"], ["config.json", "run.json"]])
@pytest.mark.parametrize("below", ["", "export", "best", "best/00000500", "summaries/train/music"])
def test_a_directory_that_holds_its_own_files_alone_is_refused_here_and_in_a_bucket(gcs, tmp_path, marks, below):
    (tmp_path / "store").mkdir()
    for mark in marks:
        (tmp_path / "store" / mark).write_text("{}")
        gcs.put(f"gs://bucket/store/{mark}", b"{}")
    (tmp_path / "link").symlink_to("store")
    for store in (str(tmp_path / "store"), str(tmp_path / "link"), "gs://bucket/store"):
        directory = f"{store}/{below}" if below else store
        if below and len(marks) == 1:
            outputs.check_output_directory(directory)  # A dataset has no directories of its own.
        else:
            with pytest.raises(
                UserError, match=r"^--output: .*(store|link).* is (a dataset|a workdir|part of a workdir), "
            ):
                outputs.check_output_directory(directory)
        outputs.check_output_directory(f"{store}/music")


def test_a_directory_is_checked_for_writing_without_a_trace(gcs, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    (tmp_path / "nowhere").symlink_to("missing")
    outputs.check_writable(str(tmp_path))
    outputs.check_writable(str(tmp_path / "new" / "deeper"))
    outputs.check_writable("gs://bucket/music")
    assert sorted(os.listdir(tmp_path)) == ["letter.txt", "nowhere"]
    assert gcs.contents("gs://bucket/") == {}
    for bad in ("letter.txt", "letter.txt/music", "nowhere"):
        with pytest.raises(UserError, match=rf"{bad}: cannot be written .*Choose another --output"):
            outputs.check_writable(str(tmp_path / bad))
    gcs.forbid("bucket", "storage.objects.create")
    with pytest.raises(UserError, match=r"gs://bucket/music"):
        outputs.check_writable("gs://bucket/music")
    with pytest.raises(UserError, match=r"gs://none"):
        outputs.check_writable("gs://none/music")


def test_samples_in_a_bucket_take_the_place_of_those_of_an_earlier_call_alone(gcs):
    planned = ["sample-000.mid", "sample-001.mid"]
    gcs.put("gs://bucket/music/letter.txt", b"mine")
    for count in (2, 1):
        with samples.replace_samples("gs://bucket/music", planned[:count]) as here:
            for name in planned[:count]:
                with open(os.path.join(here, name), "w", encoding="utf-8") as file:
                    file.write("generated")
            write_json(os.path.join(here, "samples.json"), {"files": planned[:count]})
        assert gcs.contents("gs://bucket/music/").keys() == {"letter.txt", "samples.json", *planned[:count]}
    gcs.put("gs://bucket/music/sample-001.mid", b"mine")
    with pytest.raises(UserError, match=r"gs://bucket/music/sample-001\.mid: exists"):
        samples.require_free("gs://bucket/music", planned)


@pytest.mark.parametrize("place", ["here", "bucket"])
def test_a_second_command_that_writes_samples_at_the_same_time_is_refused(gcs, tmp_path, place):
    directory = str(tmp_path / "music") if place == "here" else "gs://bucket/music"
    with samples.replace_samples(directory, ["sample-000.mid"]) as here:
        with (
            pytest.raises(UserError, match=r"music: process \d+ on \S+ is writing there\. Wait for it"),
            samples.replace_samples(directory, ["sample-000.mid"]),
        ):
            pass
        for name in ("sample-000.mid", "samples.json"):
            with open(os.path.join(here, name), "w", encoding="utf-8") as file:
                file.write("first")
    assert storage.list_names(directory) == ["sample-000.mid", "samples.json"]


def test_samples_of_a_process_that_lost_its_directory_replace_no_others(gcs, monkeypatch):
    """Another process takes over at each request of the upload; at most that one request still counts."""
    monkeypatch.setattr("sostenuto.storage.lease.RENEW_SECONDS", 0.02)
    music = "gs://bucket/music"

    for request in range(1, 20):
        for name in gcs.names(f"{music}/"):
            gcs.delete(f"{music}/{name}")
        taken = {}
        try:
            with samples.replace_samples(music, ["sample-000.mid"]) as here:
                for name in ("sample-000.mid", "samples.json"):
                    with open(os.path.join(here, name), "w", encoding="utf-8") as file:
                        file.write("{}")
                taken = gcs.take_over(music, b'{"host": "elsewhere", "pid": 7}', change=request)
        except LostError as error:
            assert "process 7 on elsewhere has taken it over" in str(error)
        after = gcs.contents(f"{music}/")
        changed = {name for name in taken.keys() | after.keys() if taken and taken.get(name) != after.get(name)}
        assert len(changed) <= 1
        if not taken:
            break
    assert request > 3
