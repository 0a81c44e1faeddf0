"""Two commands on one output at once, on a disk and in a bucket: it is whole, and one's or the other's."""

import filecmp
import itertools
import json
import pathlib
import re
import shutil

import pytest

from sostenuto import storage
from tests.factories import TINY, evaluation, write_run, write_samples
from tests.faults import concurrency
from tests.faults.concurrency import Overlap
from tests.processes import run_python
from tests.trainer.runs import metrics, train, weights
from tests.trainer.workdir.test_remote import get_directory, put_directory

TRAIN = [*TINY["base"], "--layers=1", "--steps=20", "--checkpoint_every=8", "--log_every=5", "--evaluate_every=10"]
SAYS_SO = re.compile(r"another process|process \d+ on ", re.IGNORECASE)
MUSIC = ["--num_notes=20", "--num_samples=2", "--quiet"]


def assert_losers_say_so(overlap: Overlap) -> None:
    for loser in overlap.losers:
        assert loser.status in (2, 75), loser.stderr
        assert SAYS_SO.search(loser.last_line), loser.stderr
        assert "Traceback" not in loser.stderr
    assert len(overlap.losers) < 2


def assert_clean(directory: pathlib.Path) -> None:
    """Neither a temporary file nor a lock is left, except the lock of training."""
    left = [str(path.relative_to(directory)) for path in directory.rglob("*")]
    assert [name for name in left if storage.TEMPORARY.search(name) or name.endswith("lock")] in ([], [".lock"])


def overlaps(run, kills, choose):
    """Yields what two commands leave that overlap at each write of the first, or at `kills` of them."""
    writes = list(itertools.islice(itertools.count(1), 400))
    found = run(writes.pop(0))
    yield found
    for write in writes if kills >= 100 else sorted(choose.sample(range(2, 60), min(kills // 4 or 1, 58))):
        found = run(write)
        if found.second is None:
            break
        yield found


# The short form.


def test_two_reports_of_one_run_leave_a_whole_page(dataset, tmp_path):
    """The first is stopped before it holds anything; later the second would wait for a minute."""
    workdir = tmp_path / "w"
    write_run(workdir, dataset, evaluation_test=evaluation())
    write_samples(workdir, dataset)
    flags = [f"--workdir={workdir}"]
    assert run_python("-m", "trainer.report", *flags).returncode == 0
    expected = (workdir / "report.html").read_bytes()
    (workdir / "report.html").unlink()
    overlap = concurrency.on_disk("trainer.report", flags, flags, workdir, 1)
    assert overlap.second is not None
    assert_losers_say_so(overlap)
    assert (workdir / "report.html").read_bytes() == expected
    assert_clean(workdir)


# The full form: make faults.


@pytest.fixture(scope="module")
def trained(kills, dataset, tmp_path_factory):
    """Two finished runs of different seeds."""
    directory = tmp_path_factory.mktemp("trained")
    for seed in (0, 1):
        ended = train(dataset, directory / str(seed), *TRAIN, f"--seed={seed}", "--samples=0")
        assert ended.returncode == 0, ended.stderr
    return directory


def assert_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    for directory in ("checkpoints", "best"):
        left, right = weights(one, directory), weights(other, directory)
        assert left.keys() == right.keys()
        assert all((left[name] == right[name]).all() for name in left)
    assert metrics(one) == metrics(other)
    assert filecmp.cmp(one / "result.json", other / "result.json", shallow=False)
    assert filecmp.cmp(one / "config.json", other / "config.json", shallow=False)


def test_two_trainings_of_one_workdir(kills, choose, dataset, trained, tmp_path):
    numbers = itertools.count()

    def run(write: int) -> Overlap:
        nonlocal workdir
        workdir = tmp_path / str(next(numbers))
        commands = [[f"--data={dataset}", f"--workdir={workdir}", *TRAIN, f"--seed={seed}", "--samples=0"] for seed in (0, 1)]  # fmt: skip  # noqa: E501
        return concurrency.on_disk("trainer", *commands, workdir, write)

    workdir = tmp_path
    for overlap in overlaps(run, kills, choose):
        assert_losers_say_so(overlap) if not re.search("another config", str(overlap)) else None
        assert len(overlap.losers) == 1, overlap
        assert_same_run(workdir, trained / ("0" if overlap.first.status == 0 else "1"))
        shutil.rmtree(workdir)


def test_two_trainings_of_one_workdir_in_a_bucket(kills, choose, dataset, trained, tmp_path, gcs):
    numbers = itertools.count()

    def run(write: int) -> Overlap:
        nonlocal workdir
        workdir = f"gs://bucket/{next(numbers)}"
        commands = [[f"--data={dataset}", f"--workdir={workdir}", *TRAIN, f"--seed={seed}", "--samples=0"] for seed in (0, 1)]  # fmt: skip  # noqa: E501
        return concurrency.in_bucket(gcs, "trainer", *commands, workdir, write)

    workdir = ""
    for overlap in overlaps(run, kills, choose):
        assert_losers_say_so(overlap) if not re.search("another config", str(overlap)) else None
        assert len(overlap.losers) == 1, overlap
        fetched = get_directory(gcs.contents(f"{workdir}/"), tmp_path / "fetched")
        assert_same_run(fetched, trained / ("0" if overlap.first.status == 0 else "1"))
        assert ".lock" not in gcs.names(f"{workdir}/")


@pytest.mark.parametrize("place", ["disk", "bucket"])
@pytest.mark.parametrize("command", ["trainer.evaluate", "trainer.report", "tests.faults.export"])
def test_two_commands_on_one_workdir(kills, choose, command, place, trained, tmp_path, gcs):
    """What they write is equal, so it must be what one alone writes."""
    alone = shutil.copytree(trained / "0", tmp_path / "alone")

    def flags(where: str) -> list[str]:
        return [where] if "export" in command else [f"--workdir={where}"]

    assert run_python("-m", command, *flags(str(alone))).returncode == 0

    def run(write: int) -> Overlap:
        shutil.rmtree(tmp_path / "w", ignore_errors=True)
        for name in gcs.names("gs://bucket/"):
            gcs.delete(f"gs://bucket/{name}")
        if place == "disk":
            shutil.copytree(trained / "0", tmp_path / "w")
            arguments = flags(str(tmp_path / "w"))
            return concurrency.on_disk(command, arguments, arguments, tmp_path / "w", write)
        put_directory(gcs, trained / "0", "gs://bucket/w")
        arguments = flags("gs://bucket/w")
        return concurrency.in_bucket(gcs, command, arguments, arguments, "gs://bucket/w", write)

    for overlap in overlaps(run, kills, choose):
        assert_losers_say_so(overlap)
        if place == "bucket":
            get_directory(gcs.contents("gs://bucket/w/"), tmp_path / "w")
        assert_clean(tmp_path / "w")
        written = {path.relative_to(alone) for path in alone.rglob("*") if path.is_file()}
        assert {path.relative_to(tmp_path / "w") for path in (tmp_path / "w").rglob("*") if path.is_file()} == written
        for name in ("evaluation-test.json", "export/export.json", "samples/samples.json"):
            if pathlib.Path(name) in written and "samples" not in name:
                assert filecmp.cmp(tmp_path / "w" / name, alone / name, shallow=False), name


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_two_calls_of_generate_into_one_directory(kills, choose, place, trained, tmp_path, gcs):
    flags = [f"--workdir={trained / '0'}", *MUSIC]
    for seed in (5, 6):
        process = run_python("-m", "trainer.generate", *flags, f"--seed={seed}", f"--output={tmp_path / str(seed)}")
        assert process.returncode == 0, process.stderr

    def run(write: int) -> Overlap:
        shutil.rmtree(tmp_path / "music", ignore_errors=True)
        for name in gcs.names("gs://bucket/"):
            gcs.delete(f"gs://bucket/{name}")
        output = str(tmp_path / "music") if place == "disk" else "gs://bucket/music"
        commands = [[*flags, f"--seed={seed}", f"--output={output}"] for seed in (5, 6)]
        if place == "disk":
            return concurrency.on_disk("trainer.generate", *commands, output, write)
        return concurrency.in_bucket(gcs, "trainer.generate", *commands, output, write)

    for overlap in overlaps(run, kills, choose):
        assert_losers_say_so(overlap)
        if place == "bucket":
            get_directory(gcs.contents("gs://bucket/music/"), tmp_path / "music")
        seed = json.loads((tmp_path / "music" / "samples.json").read_text())["seed"]
        names = {path.name for path in (tmp_path / str(seed)).iterdir()}
        assert {path.name for path in (tmp_path / "music").iterdir()} == names
        for name in names - {"samples.json"}:
            assert filecmp.cmp(tmp_path / "music" / name, tmp_path / str(seed) / name, shallow=False), name
