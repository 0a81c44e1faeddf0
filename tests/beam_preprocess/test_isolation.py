"""Runs whose parser crashes, blocks or exhausts memory, and whose workers are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beam_preprocess import pipeline
from beam_preprocess import preprocess as preprocess_module
from beam_preprocess.config import Config
from beam_preprocess.preprocess import preprocess
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.factories import melody, read_files, write_files
from tests.processes import REPOSITORY

# Every child process imports it: a parser with faults that no file is known to bring about. A file whose name holds
# "once" makes a child wait for ever, and leaves its process id, but the second time it is read.
FAULTS = """
import ctypes, os, pathlib, time
import sostenuto.music.midi

read_midi = sostenuto.music.midi.read_midi

def faulty(data, name, **options):
    if "segfault" in name:
        ctypes.string_at(0)
    if "endless" in name:
        time.sleep(600)
    if "hungry" in name:
        hoard = [bytes(2**24) for _ in range(10_000)]
    marker = pathlib.Path(__file__).with_name("pid")
    if "once" in name and not marker.exists():
        marker.with_name("new").write_text(str(os.getpid()))
        os.rename(marker.with_name("new"), marker)
        time.sleep(600)
    return read_midi(data, name, **options)

sostenuto.music.midi.read_midi = faulty
"""
WORKERS = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture
def faults(tmp_path, monkeypatch) -> Path:
    write_files(tmp_path / "faults", {"sitecustomize.py": FAULTS.encode()})
    # As first of the paths that children inherit.
    monkeypatch.syspath_prepend(str(tmp_path / "faults"))
    return tmp_path / "faults"


@pytest.fixture
def corpus_directory(tmp_path):
    return write_files(tmp_path / "corpus", {f"{index % 3}/{index}.mid": melody(range(40, 70)) for index in range(30)})


def run(input_, output, *, beam_args=(), **config) -> Manifest:
    return preprocess(Config(str(input_), str(output), **config), beam_args=beam_args, quiet=True)


@pytest.mark.parametrize("beam_args", [(), WORKERS], ids=["one worker", "two workers"])
def test_a_file_that_ends_the_parser_is_rejected_and_the_others_are_not(
    corpus_directory, tmp_path, faults, monkeypatch, beam_args
):
    run(corpus_directory, tmp_path / "sound", num_shards=2)
    for name in ("segfault", "endless", "hungry"):
        os.link(corpus_directory / "0" / "0.mid", corpus_directory / f"{name}.mid")
    monkeypatch.setattr(preprocess_module, "PARSE_SECONDS", 3.0)
    manifest = run(
        corpus_directory, tmp_path / "out", isolate_parsing=True, beam_args=beam_args, split_fractions=(1, 0, 0)
    )
    assert manifest.performances("train") == 30
    assert manifest.rejected == {"crashed": 1, "out_of_memory": 1, "timed_out": 1}
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(row["path"], row["detail"].partition("it: ")[2]) for row in rejected] == [
        ("endless.mid", "it took longer than 3 s"),
        ("hungry.mid", "it needed more than 1,024 MiB of memory"),
        ("segfault.mid", "it crashed (SIGSEGV)"),
    ]


def test_isolation_and_workers_change_no_byte(corpus_directory, tmp_path):
    write_files(corpus_directory, {"bad.mid": b"no MIDI", "short.mid": melody([60, 62])[:-8]})
    run(corpus_directory, tmp_path / "one", num_shards=3)
    expected = read_files(tmp_path / "one")
    for number, (beam_args, isolate) in enumerate([((), True), (WORKERS, False), (WORKERS, True)]):
        output = tmp_path / f"other{number}"
        run(corpus_directory, output, num_shards=3, beam_args=beam_args, isolate_parsing=isolate)
        assert read_files(output) == expected


def start_with_a_worker_that_waits(corpus_directory, output, faults) -> tuple[subprocess.Popen, int]:
    """Starts the command with two workers; returns it, and the process id of a worker that is stuck in a file."""
    os.rename(corpus_directory / "0" / "0.mid", corpus_directory / "0" / "once.mid")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "beam_preprocess", f"--input={corpus_directory}", f"--output={output}"),
            *("--num_shards=2", "--quiet", "--", *WORKERS),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{faults}{os.pathsep}{REPOSITORY}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (faults / "pid").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, int((faults / "pid").read_text())


def test_a_killed_worker_costs_nothing(corpus_directory, tmp_path, faults):
    process, worker = start_with_a_worker_that_waits(corpus_directory, tmp_path / "out", faults)
    assert worker != process.pid
    os.kill(worker, signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    run(corpus_directory, tmp_path / "sound", num_shards=2)
    assert read_files(tmp_path / "out") == read_files(tmp_path / "sound")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_workers_end_with_a_run_that_is_interrupted(corpus_directory, tmp_path, faults, number, status):
    process, worker = start_with_a_worker_that_waits(corpus_directory, tmp_path / "out", faults)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (status, "beam_preprocess: interrupted\n" if status == 130 else "")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_worker_that_hangs_is_replaced(corpus_directory, tmp_path, faults, monkeypatch):
    monkeypatch.setattr(pipeline, "STALLED_SECONDS", 1.0)
    os.rename(corpus_directory / "0" / "0.mid", corpus_directory / "0" / "once.mid")
    run(corpus_directory, tmp_path / "out", num_shards=2, beam_args=WORKERS)
    run(corpus_directory, tmp_path / "sound", num_shards=2)
    assert read_files(tmp_path / "out") == read_files(tmp_path / "sound")


def test_workers_that_all_die_of_one_file_stop_the_run_with_advice(corpus_directory, tmp_path, faults):
    write_files(corpus_directory, {"segfault.mid": melody([60])})
    with pytest.raises(UserError, match=r"a worker process crashed \(SIGSEGV\).*--isolate_parsing"):
        run(corpus_directory, tmp_path / "out", beam_args=WORKERS)
    assert not (tmp_path / "out").exists()


def test_a_mistake_found_by_a_worker_is_one_line(corpus_directory, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir(mode=0o755)
    write_files(corpus_directory, {f"bad/{index}.mid": b"no MIDI" for index in range(20)})
    with pytest.raises(UserError, match=r"^20 of 50 files were rejected \(20 not_midi\)"):
        run(corpus_directory, tmp_path / "out", beam_args=WORKERS)
    assert not os.listdir(tmp_path / "out")


def test_fewer_than_no_workers_are_rejected(corpus_directory, tmp_path):
    with pytest.raises(UserError, match="--direct_num_workers=-1: expected 1 to 1,024, or 0"):
        run(corpus_directory, tmp_path / "out", beam_args=["--direct_num_workers=-1"])
