"""Every command at random moments: killed, without room or directory, with another clock, before a bucket that fails.

The short form strikes the fastest command once in each way; `make faults` strikes all, as often as KILLS says. The same
SEED strikes at the same file operations again.
"""

import pathlib
import random
import shutil
import signal
import subprocess

import pytest

from tests.faults.commands import COMMANDS, OUTPUT, Stage, Struck, assert_refused, assert_whole
from tests.trainer.workdir.test_remote import get_directory, put_directory

HOUR = 3600
SIZES = (16, 48, *range(100, 3001, 100))  # kB

IN_A_SMALL_DISK = """
mount -t tmpfs -o size="$1k" none "$2" || exit 99
[ -d "$3" ] && cp -a "$3/." "$2"
"${@:5}"; status=$?
cp -a "$2/." "$4"; exit $status
"""
NAMESPACE = ["unshare", "--map-root-user", "--mount"]


@pytest.fixture(scope="session")
def stage(tmp_path_factory, dataset) -> Stage:
    return Stage(tmp_path_factory.mktemp("stage"), dataset)


@pytest.fixture(scope="session")
def of(stage, tmp_path_factory, seed):
    """Each command with what it leaves when nothing happens; each with moments of its own."""
    commands: dict[str, Struck] = {}

    def get(name: str) -> Struck:
        if name not in commands:
            choose = random.Random(f"{seed} {name}")
            commands[name] = Struck(name, stage, choose, tmp_path_factory.mktemp(name))
        return commands[name]

    return get


@pytest.fixture(scope="session")
def namespace() -> list[str]:
    """A program that runs another one that may mount."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted")
    return NAMESPACE


def kill(struck: Struck, times: int) -> None:
    """Kills it again and again in one output, in turn at a file operation and after a time; then lets it end."""
    out = struck.fresh("killed")
    for number in range(times):
        if number % 2:
            detail: object = "after a time"
            status = struck.kill_at_a_time(out)
        else:
            fault = struck.fault("killed", out)
            detail, status = fault.count, struck.run(out, fault).returncode
        assert status in (-signal.SIGKILL, 0), status
        struck.record("killed", detail, status)
        assert_whole(out)
        if status == 0:  # Nothing was left to do.
            assert struck.command.result(out) == struck.expected
            out = struck.fresh("killed")
    struck.complete(out)


def fill(struck: Struck, size: int, namespace: list[str], *, complete: bool) -> None:
    """Runs it on a disk on which it has a number of kB."""
    start, small, kept = (struck.fresh(name) for name in ("start", "small", "kept"))
    for directory in (small, kept):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    used = sum(path.stat().st_size for path in start.rglob("*")) // 1024 + 4 * len(list(start.rglob("*")))
    before = [*namespace, "bash", "-c", IN_A_SMALL_DISK, "bash", str(used + size), str(small), str(start), str(kept)]
    process = struck.run(small, before=before)
    struck.record("full disk", f"{size} kB", process.returncode)
    assert_refused(process)
    assert_whole(kept)
    if process.returncode == 0:
        assert struck.command.result(kept) == struck.expected
    elif complete:
        struck.complete(kept)


def lose(struck: Struck, kind: str, namespace: list[str], *, complete: bool = True) -> None:
    """Takes its output, or the right to write there, away from it, and gives it back."""
    out = struck.fresh("lost")
    fault = struck.fault(f"{kind}:{out}", out)
    process = struck.run(out, fault, before=namespace)
    struck.record(f"{kind} directory", fault.count, process.returncode)
    # A worker that lost the lock with its directory cannot know whether another process has it.
    assert_refused(process, statuses=(0, 2, 75) if kind == "vanished" else (0, 2))
    assert_whole(out)
    if complete:
        struck.complete(struck.fresh("lost") if kind == "vanished" else out)


def jump(struck: Struck, seconds: int) -> None:
    """Sets its clock forwards or backwards."""
    out = struck.fresh("jump")
    fault = struck.fault(f"clock:{seconds}", out)
    process = struck.run(out, fault)
    struck.record("clock", f"{seconds / HOUR:+.0f} h at {fault.count}", process.returncode)
    assert process.returncode == 0, process.stderr
    assert struck.command.result(out) == struck.expected


def disturb(struck: Struck, bucket) -> None:
    """Has it write into a bucket that fails at a tenth of all requests."""
    put_directory(bucket, struck.fresh("start"), f"gs://bucket/{OUTPUT}")
    bucket.error_rate = 0.1
    process = struck.run(f"gs://bucket/{OUTPUT}")
    bucket.error_rate = 0.0
    struck.record("bucket", f"{bucket.faults} of {len(bucket.requests)} requests", process.returncode)
    assert process.returncode == 0, process.stderr
    left = get_directory(bucket.contents(f"gs://bucket/{OUTPUT}/"), struck.directory / "fetched")
    assert struck.command.result(pathlib.Path(left)) == struck.expected


# The short form.


def test_preprocessing_survives_a_kill_and_a_clock_that_jumps(of):
    kill(of("preprocess"), 1)
    jump(of("preprocess"), -5 * HOUR)


def test_preprocessing_without_room_or_directory_says_so_in_one_line(of, namespace):
    fill(of("preprocess"), 16, namespace, complete=False)
    lose(of("preprocess"), "vanished", namespace, complete=False)
    lose(of("preprocess"), "read_only", namespace, complete=False)


# The long form: make faults.


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(name, kills, of):
    kill(of(name), kills)


@pytest.mark.parametrize("name", COMMANDS)
def test_on_disks_of_every_size(name, kills, of, namespace):
    struck = of(name)
    sizes = struck.choose.sample(SIZES, min(kills, len(SIZES)))
    for number, size in enumerate(sorted(sizes)):
        fill(struck, size, namespace, complete=number % 3 == 0)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("kind", ["read_only", "vanished"])
def test_whose_output_is_taken_away_in_mid_run(kind, name, kills, of, namespace):
    for _ in range(-(-kills // 6)):
        lose(of(name), kind, namespace)


@pytest.mark.parametrize("name", COMMANDS)
def test_whose_clock_jumps_by_hours(name, kills, of):
    for number in range(-(-kills // 6)):
        hours = of(name).choose.randint(1, 30)
        jump(of(name), hours * HOUR * (-1) ** number)


@pytest.mark.parametrize("name", COMMANDS)
def test_before_a_bucket_that_fails_at_every_tenth_request(name, kills, of, gcs):
    disturb(of(name), gcs)
