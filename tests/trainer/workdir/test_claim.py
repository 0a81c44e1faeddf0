"""A workdir is checked under its lock: another command may have used it since an earlier look."""

import json
import os
import time

import pytest

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import LostError, UserError
from trainer.presets import preset
from trainer.workdir import layout, remote
from trainer.workdir.formats import RunResult, StopReason

CONFIG = preset("base").replace(units=8, steps=10)
RESULT = RunResult(10, 1.5, 10, "val_nats", StopReason.STEPS)


@pytest.fixture(params=["here", "bucket"])
def workdir(request, tmp_path, gcs):
    return str(tmp_path / "w") if request.param == "here" else "gs://bucket/w"


def contents(workdir) -> dict[str, bytes]:
    names = [name for name in storage.list_files(workdir) if name != ".lock"]
    return {name: storage.read_bytes(storage.join(workdir, name)) for name in names}


def finish(workdir, dataset, config=CONFIG) -> dict[str, bytes]:
    """Finishes a run; returns what it leaves."""
    with remote.open_workdir(workdir, max_to_keep=1) as opened:
        opened.claim(config, Manifest.load(dataset), {})
        RESULT.save(os.path.join(opened.directory, layout.RESULT_NAME))
        opened.flush()
    return contents(workdir)


def test_a_second_command_with_another_config_leaves_a_finished_run_alone(dataset, workdir):
    other, manifest = CONFIG.replace(units=9), Manifest.load(dataset)
    layout.check_workdir(other, manifest, workdir)
    with remote.open_workdir(workdir, max_to_keep=1) as late:
        finished = finish(workdir, dataset)
        with pytest.raises(UserError, match=r"another config: units: got 9, expected 8\. "):
            late.claim(other, manifest, {})
        assert contents(workdir) == finished
    assert contents(workdir) == finished
    with pytest.raises(layout.FinishedError):
        layout.check_workdir(CONFIG, manifest, workdir)


def test_a_run_that_another_process_has_finished_since_is_not_begun_again(dataset, workdir):
    with remote.open_workdir(workdir, max_to_keep=1) as late:
        finished = finish(workdir, dataset)
        with pytest.raises(layout.FinishedError) as end:
            late.claim(CONFIG, Manifest.load(dataset), {})
        assert end.value.result == RESULT
    assert contents(workdir) == finished


def test_a_rejected_command_releases_the_workdir(dataset, workdir):
    finish(workdir, dataset)
    with remote.open_workdir(workdir, max_to_keep=1) as one, pytest.raises(UserError, match="another config"):
        one.claim(CONFIG.replace(units=9), Manifest.load(dataset), {})
    finish(workdir, dataset, CONFIG.replace(steps=20))


def test_files_of_anything_else_are_left_alone(dataset, workdir):
    with remote.open_workdir(workdir, max_to_keep=1) as late:
        storage.make_directories(workdir)
        storage.write_bytes_atomic(storage.join(workdir, "letter.txt"), b"mine")
        with pytest.raises(UserError, match="is not empty and no workdir"):
            late.claim(CONFIG, Manifest.load(dataset), {})
    assert contents(workdir) == {"letter.txt": b"mine"}


def test_a_process_that_lost_its_lease_writes_and_removes_nothing_more(dataset, gcs, monkeypatch):
    """Another process takes over at each request of the last upload; at most that one request still counts."""
    monkeypatch.setattr("sostenuto.storage.lease.RENEW_SECONDS", 0.02)
    w, theirs = "gs://bucket/w", json.dumps({"host": "elsewhere", "pid": 7, "renewed": time.time()}).encode()
    for request in range(1, 30):
        for name in gcs.names(f"{w}/"):
            gcs.delete(f"{w}/{name}")
        for step in ("00000005", "00000010"):
            gcs.put(f"{w}/checkpoints/{step}/checkpoint.json", b"{}")
        gcs.put(f"{w}/config.json", CONFIG.to_json().encode())
        with remote.open_workdir(w, max_to_keep=1) as opened:
            opened.claim(CONFIG, Manifest.load(dataset), {})
            checkpoint = [f"checkpoints/00000015/{name}" for name in ("variables.index", "checkpoint.json")]
            for name in (*checkpoint, "metrics.jsonl", "samples/sample-000.mid", "report.html"):
                path = os.path.join(opened.directory, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write("new")
            RESULT.save(os.path.join(opened.directory, layout.RESULT_NAME))
            taken = gcs.take_over(w, theirs, change=request)
            try:
                opened.flush()
            except LostError as error:
                assert str(error).startswith(f"{w}: process 7 on elsewhere has taken it over, because ")
            else:
                assert not taken
                break
        after = gcs.contents(f"{w}/")
        changed = {name for name in taken.keys() | after.keys() if taken.get(name) != after.get(name)}
        assert len(changed) <= 1
        assert "result.json" not in after
        assert after[".lock"] == theirs
    assert request > 7
    assert "result.json" in gcs.names(f"{w}/")
