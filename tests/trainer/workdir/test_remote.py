"""Workdirs in a bucket: what lies there at any moment is enough to go on as if nothing had happened."""

import json
import pathlib
import random
import shutil

import pytest
import tensorflow as tf

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UnavailableError, UserError
from tests.gcs_server import GcsServer
from tests.trainer.runs import metrics, weights
from trainer.callbacks.base import Callback
from trainer.callbacks.standard import report_writers
from trainer.checkpoints import manager
from trainer.checkpoints.manager import CheckpointManager
from trainer.engine import loop
from trainer.engine.schedule import Event
from trainer.export import export_model
from trainer.presets import preset
from trainer.workdir import remote
from trainer.workdir.layout import WorkdirLockedError
from trainer.workdir.load_model import load_model

W = "gs://bucket/w"
CONFIG = preset("base").replace(
    units=8, head_units=8, layers=1, seq_length=16, batch_size=8, warmup_steps=2, learning_rate=0.01,
    pitch_embedding=8, time_embedding=8, velocity_embedding=8, steps=30, log_every=2, evaluate_every=6,
    checkpoint_every=8, max_to_keep=2,
)  # fmt: skip


def put_directory(gcs, directory, uri: str) -> None:
    for path in pathlib.Path(directory).rglob("*"):
        if path.is_file():
            gcs.put(f"{uri}/{path.relative_to(directory).as_posix()}", path.read_bytes())


def get_directory(contents: dict[str, bytes], directory) -> pathlib.Path:
    """Writes what lay in a bucket to the disk, for what looks at a workdir there."""
    shutil.rmtree(directory, ignore_errors=True)
    for name, data in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def train(data, where: str, **options):
    callbacks = [*report_writers(), *options.pop("callbacks", ())]
    return loop.train(options.pop("config", CONFIG), Manifest.load(data), where, callbacks=callbacks, **options)


def assert_same_run(one, other) -> None:
    """To the bit, but for speed."""
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all((left[name] == right[name]).all() for name in left)
    left, right = weights(one, "best"), weights(other, "best")
    assert all((left[name] == right[name]).all() for name in left)
    assert metrics(one) == metrics(other)
    assert (one / "result.json").read_bytes() == (other / "result.json").read_bytes()
    assert names_of_checkpoints(one) == names_of_checkpoints(other)


def names_of_checkpoints(directory) -> set[str]:
    return {path.name for group in ("best", "checkpoints") for path in (directory / group).iterdir()}


@pytest.fixture(scope="module")
def untouched(dataset, tmp_path_factory):
    """The same run on the disk, which nothing happened to."""
    directory = tmp_path_factory.mktemp("untouched") / "w"
    train(dataset, str(directory))
    return directory


@pytest.fixture(scope="module")
def moments(dataset):
    """What lay in the bucket before each request that changed it while the run was trained there, and at the end."""
    found = []

    def note(method, path):
        if method in ("POST", "PUT", "DELETE"):
            found.append(server.contents("gs://bucket/w/"))

    with GcsServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        put_directory(server, dataset, "gs://bucket/data")
        server.before = note
        train("gs://bucket/data", W)
        storage.close()
        return [*found, server.contents("gs://bucket/w/")]


def test_a_run_in_a_bucket_is_that_of_a_disk(untouched, moments, tmp_path):
    assert_same_run(get_directory(moments[-1], tmp_path / "w"), untouched)
    kept = {"config.json", "run.json", "metrics.jsonl", "result.json"}
    assert {name for name in moments[-1] if "/" not in name} == kept
    assert any(name.startswith("summaries/") for name in moments[-1])


def test_at_any_moment_a_kill_leaves_all_that_going_on_takes(moments, untouched, tmp_path, monkeypatch, capfd):
    """Each state of the bucket, as another machine with an empty disk would find it."""
    reports = metrics(untouched)
    seen = set()
    for contents in moments:
        here = get_directory(contents, tmp_path / "there")
        saved = (
            CheckpointManager(str(here / "checkpoints"), max_to_keep=1).latest()
            if (here / "checkpoints").exists()
            else None
        )
        if (here / "result.json").exists():
            assert saved.train_step == CONFIG.steps
        if saved is None:
            assert not seen
            continue
        seen.add(saved.train_step)
        assert max(seen) == saved.train_step
        assert json.loads((here / "config.json").read_bytes()) == json.loads((untouched / "config.json").read_bytes())
        assert json.loads((here / "run.json").read_bytes())["steps"] == CONFIG.steps
        lines = [line for line in metrics(here) if line["train_step"] <= saved.train_step]
        assert lines == [line for line in reports if line["train_step"] <= saved.train_step]
        best = saved.extra["monitor"]["best_train_step"]
        assert not best or manager.read_checkpoint(str(here / "best" / f"{best:08d}"))
    assert max(seen) == CONFIG.steps
    assert len(seen) >= 2
    # A machine that fetches a checkpoint without its manifest skips it without a message.
    capfd.readouterr()


def test_another_machine_resumes_from_there_to_the_same_bits(gcs, dataset, moments, untouched, tmp_path):
    """From some of the states, over a network that fails one time in ten."""
    whole = [contents for contents in moments if any("checkpoints" in name for name in contents)][:-1]
    for seed, contents in enumerate(random.Random(2).sample(whole, 1)):
        for name in gcs.names("gs://bucket/"):
            gcs.delete(f"gs://bucket/{name}")
        for name, data in contents.items():
            gcs.put(f"{W}/{name}", data)
        # It was killed; this is another machine, to which that one's lease says nothing, and it is long over.
        if ".lock" in contents:
            gcs.put(f"{W}/.lock", json.dumps({"host": "elsewhere", "renewed": 1.7e9}).encode())
        gcs.error_rate = 0.1
        gcs._random.seed(seed)
        result = train(dataset, W)
        gcs.error_rate = 0
        assert result.reason == "steps"
        assert gcs.faults > 3
        assert_same_run(get_directory(gcs.contents("gs://bucket/w/"), tmp_path / "w"), untouched)


@pytest.fixture
def filled(gcs):
    """Puts a state of the workdir into the bucket, in place of all that is there."""

    def fill(contents: dict[str, bytes]) -> None:
        for name in gcs.names(f"{W}/"):
            gcs.delete(f"{W}/{name}")
        for name, data in contents.items():
            if name != ".lock":
                gcs.put(f"{W}/{name}", data)

    return fill


def homes() -> list[str]:
    """The files of the mirrors that remain on this machine."""
    directory = pathlib.Path(storage.cache_directory()) / "workdirs"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def test_a_longer_run_takes_the_result_away_first_and_older_checkpoints_last(gcs, dataset, moments, filled):
    filled(moments[-1])
    states = []
    gcs.before = lambda method, path: states.append(gcs.names(f"{W}/"))
    assert train(dataset, W, config=CONFIG.replace(steps=36)).train_step == 36
    names = gcs.names(f"{W}/")
    assert {name.split("/")[1] for name in names if name.startswith("checkpoints/")} == {"00000032", "00000036"}
    assert homes() == []
    first = next(place for place, state in enumerate(states) if "result.json" not in state)
    assert not any("checkpoints/00000032/variables.index" in state for state in states[:first])
    for state in states[first:]:
        is_over = (
            "checkpoints/00000036/checkpoint.json" in state and "checkpoints/00000024/checkpoint.json" not in state
        )
        assert is_over or "result.json" not in state
    # All the while there is a whole one, and the one before it stays until then.
    for state in states:
        whole = {name for name in state if name.startswith("checkpoints/") and name.endswith("checkpoint.json")}
        assert len(whole) >= 2
    assert len([name for name in names if name.startswith("summaries/")]) == 4  # of two processes


def test_a_second_process_is_refused_and_changes_nothing(gcs, dataset, moments, filled):
    filled(moments[len(moments) // 2])
    with remote.RemoteWorkdir(W, max_to_keep=1) as other:
        other.claim(CONFIG, Manifest.load(dataset), {})
        before = gcs.contents(f"{W}/")
        with pytest.raises(WorkdirLockedError, match=rf"{W}: process \d+ on \S+ is training in it\. Wait for it"):
            train(dataset, W)
        assert gcs.contents(f"{W}/") == before


def test_another_config_or_dataset_is_refused_and_changes_nothing(gcs, dataset, moments, filled):
    filled(moments[-1])
    before = gcs.contents(f"{W}/")
    with pytest.raises(UserError, match=rf"{W}: .*config: units: got 9, expected 8\. .*--workdir"):
        train(dataset, W, config=CONFIG.replace(units=9))
    assert train(dataset, W).reason == "steps"
    assert gcs.contents(f"{W}/") == before
    gcs.put("gs://bucket/other/letter.txt", b"")
    with pytest.raises(UserError, match="gs://bucket/other: is not empty and no workdir"):
        train(dataset, "gs://bucket/other")


def test_who_has_lost_the_workdir_to_another_one_leaves_it_alone(gcs, dataset, monkeypatch):
    monkeypatch.setattr("sostenuto.storage.lease.RENEW_SECONDS", 0.05)
    theirs = {}

    class TakeOver(Callback):
        def on_step(self, train_step, events, metrics):
            if Event.EVALUATE in events:
                gcs.put(f"{W}/.lock", b"{}")
                theirs.update(theirs or gcs.contents(f"{W}/"))

    with pytest.raises(UserError, match=f"{W}: another process has taken it over"):
        train(dataset, W, callbacks=[TakeOver()])
    assert gcs.contents(f"{W}/") == theirs
    assert homes() == []


class Outage:
    """A bucket that takes no files while it is away."""

    def __init__(self, monkeypatch, *, uploads: range) -> None:
        self.uploads = iter(range(10**6))
        self._upload = storage.upload

        def upload(source, target, **options):
            if next(self.uploads) in uploads:
                raise UnavailableError(f"{target}: the bucket does not answer (503): try again later")
            return self._upload(source, target, **options)

        monkeypatch.setattr(storage, "upload", upload)


def test_a_bucket_that_is_away_for_a_while_does_not_end_training(gcs, dataset, untouched, tmp_path, monkeypatch, capfd):
    Outage(monkeypatch, uploads=range(6, 7))
    assert train(dataset, W).reason == "steps"
    said = [line for line in capfd.readouterr().err.splitlines() if "answer" in line]
    assert len(said) == 1
    assert f"{W}/" in said[0]
    assert "training continues" in said[0]
    assert_same_run(get_directory(gcs.contents(f"{W}/"), tmp_path / "w"), untouched)


def test_an_unreachable_bucket_at_the_end_is_reported_with_the_place_of_the_missing_files(
    gcs, dataset, untouched, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        Outage(patch, uploads=range(6, 10**6))
        with pytest.raises(UserError, match="the bucket does not answer") as error:
            train(dataset, W)
    (line,) = str(error.value).splitlines()
    (home,) = homes()
    place = pathlib.Path(storage.cache_directory()) / "workdirs" / home / "workdir"
    assert str(place) in line
    assert_same_run(place, untouched)
    assert "result.json" not in gcs.names(f"{W}/")
    # What this machine has left over counts for nothing against the bucket.
    (place / "metrics.jsonl").write_text("{}\n")
    assert train(dataset, W).reason == "steps"
    assert_same_run(get_directory(gcs.contents(f"{W}/"), tmp_path / "w"), untouched)
    shutil.rmtree(place.parent)


def test_a_bucket_that_may_not_be_written_is_reported_before_training(gcs, dataset):
    gcs.forbid("bucket", "storage.objects.create")
    with pytest.raises(UserError, match=r"lacks the permission storage\.objects\.create") as error:
        train(dataset, W)
    assert len(str(error.value).splitlines()) == 1
    assert homes() == []


def test_a_worker_gets_the_checkpoint_that_the_chief_resumes_from(gcs, moments, filled):
    filled(moments[-1])
    before = gcs.contents(f"{W}/")
    with remote.open_workdir(W, max_to_keep=1) as worker:
        worker.fetch(24)
        (directory,) = pathlib.Path(worker.directory).glob("*/*")
        saved = CheckpointManager(str(directory.parent), max_to_keep=1).load(24)
        assert saved.extra["config"]["units"] == 8
    assert gcs.contents(f"{W}/") == before
    assert homes() == []


def test_a_damaged_checkpoint_is_passed_over(gcs, dataset, moments, filled, capfd):
    filled(moments[-1])
    gcs.delete(f"{W}/result.json")
    name = f"{W}/checkpoints/00000030/variables.index"
    gcs.put(name, gcs.get(name)[:-1])
    with remote.RemoteWorkdir(W, max_to_keep=2) as one:
        one.claim(CONFIG, Manifest.load(dataset), {})
        assert names_of_checkpoints(pathlib.Path(one.directory)) == {"00000024", "00000030"}
        assert CheckpointManager(f"{one.directory}/checkpoints", max_to_keep=2).latest().train_step == 24
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "corrupt" in line]
    assert line == f"checkpoint {W}/checkpoints/00000030 is corrupt; skipping it"


def test_the_best_weights_are_read_from_the_bucket_while_a_run_replaces_them(gcs, moments, filled, untouched):
    filled(moments[-1])
    expected = load_model(str(untouched))
    (newest,) = {name.split("/")[1] for name in moments[-1] if name.startswith("best/")}

    def replace(method, path):
        if "download" in path and "variables.data" in path:
            gcs.before = lambda method, path: None
            for name in ("checkpoint.json", "variables.index", "variables.data-00000-of-00001"):
                gcs.put(f"{W}/best/00000099/{name}", gcs.get(f"{W}/best/{newest}/{name}"))
                gcs.delete(f"{W}/best/{newest}/{name}")
            manifest = json.loads(gcs.get(f"{W}/best/00000099/checkpoint.json"))
            del manifest["sha256"]
            manifest["train_step"] = 99
            manifest["sha256"] = manager.checksum_json(manifest)
            gcs.put(f"{W}/best/00000099/checkpoint.json", json.dumps(manifest).encode())

    gcs.before = replace
    trained = load_model(W)
    assert trained.train_step == 99
    for one, other in zip(trained.model.get_weights(), expected.model.get_weights(), strict=True):
        assert (one == other).all()
    with pytest.raises(UserError, match="gs://bucket/none: no such directory"):
        load_model("gs://bucket/none")


def test_the_model_of_a_bucket_is_exported_there(gcs, moments, filled, tmp_path):
    filled(moments[-1])
    gcs.put(f"{W}/export/export.json", b"of an earlier one")
    gcs.put(f"{W}/export/best/00000099/checkpoint.json", b"of an earlier one")
    states = []
    gcs.before = lambda method, path: states.append(gcs.contents(f"{W}/export/"))
    assert export_model(W) == f"{W}/export"
    for state in states[1:]:
        assert state.get("export.json") in (None, b"of an earlier one") or "saved_model.pb" in state
        assert "saved_model.pb" not in state or "variables/variables.index" in state
    exported = get_directory(gcs.contents(f"{W}/export/"), tmp_path / "export")
    tf.saved_model.load(str(exported))
    assert [path.name for path in (exported / "best").iterdir()] == [f"{load_model(W).train_step:08d}"]
