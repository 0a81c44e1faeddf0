"""The command as a user runs it, and the job it runs."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_preprocess import shard_writer
from beam_preprocess.config import Config
from beam_preprocess.preprocess import preprocess
from beam_preprocess.summary import summarize
from sostenuto import storage
from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.data.preparation import FAILED_NAME
from sostenuto.errors import FileError, UserError
from sostenuto.music import midi
from tests.factories import melody, midi_bytes, off, on, pedal, read_files, write_files
from tests.processes import REPOSITORY, run_python

BROKEN = {
    "bad/text.mid": b"Dear diary",
    "bad/truncated.mid": melody([60, 62])[:-8],
    "bad/silent.mid": midi_bytes([on(0, 36, channel=9), off(5, 36, channel=9)]),
}


def sound_files(count: int = 30) -> dict[str, bytes]:
    return {f"{index % 3}/{index}.mid": melody(range(40, 50 + index)) for index in range(count)}


@pytest.fixture
def corpus_directory(tmp_path):
    return write_files(tmp_path / "corpus", sound_files())


def run(input_, output, *, beam_args=(), quiet=True, **config) -> Manifest:
    return preprocess(Config(str(input_), str(output), **config), beam_args=beam_args, quiet=quiet)


def test_the_command_writes_a_dataset_and_prints_what_it_contains(corpus_directory, tmp_path):
    write_files(corpus_directory, BROKEN)
    output = tmp_path / "new" / "dataset"
    process = run_python(
        "-m",
        "beam_preprocess",
        f"--input={corpus_directory}",
        f"--output={output}",
        "--num_shards=2",
        "--max_rejected_fraction=0.2",
    )
    assert process.returncode == 0, process.stderr
    said = process.stderr.splitlines()
    assert said[0] == "loading Apache Beam"
    assert all(re.fullmatch(r"preprocess: \d+ of 33 files", line) for line in said[1:])  # on a busy machine
    shards = [f"{split}-0000{number}-of-00002.tfrecord" for split in SPLITS for number in (0, 1)]
    assert sorted(os.listdir(output)) == sorted([*shards, "dataset.json", "rejected.jsonl"])

    manifest = Manifest.load(output)
    notes = {split: manifest.notes(split) for split in SPLITS}
    assert sum(notes.values()) == sum(10 + index for index in range(30))
    for split in SPLITS:
        assert [len(performance.notes) for performance in manifest.read_performances(split)]
        (row,) = (line.split() for line in process.stdout.splitlines() if line.startswith(split + " "))
        assert row[1:3] == [str(manifest.performances(split)), str(notes[split])]
    assert manifest.rejected == {"no_notes": 1, "not_midi": 1, "truncated": 1}
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rejected] == sorted(BROKEN)
    assert "rejected 3 files (1 no_notes, 1 not_midi, 1 truncated)" in process.stdout
    assert str(output) in process.stdout.splitlines()[-1]
    warning = f"warning: the training split has {notes['train']} notes, too few for a model that generalizes. Add MIDI"
    assert process.stdout.count(warning) == 1


def test_two_runs_of_any_kind_write_the_same_bytes(corpus_directory, tmp_path):
    write_files(corpus_directory, BROKEN)
    run(corpus_directory, tmp_path / "one", num_shards=3)
    expected = read_files(tmp_path / "one")
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as archive:
        for path in sorted(corpus_directory.rglob("*.mid"), reverse=True):
            archive.write(path, path.relative_to(tmp_path))
    run(tmp_path / "corpus.zip", tmp_path / "two", num_shards=3)
    assert read_files(tmp_path / "two") == expected
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    run(corpus_directory, tmp_path / "three", num_shards=3, beam_args=workers)
    assert read_files(tmp_path / "three") == expected


def test_help_knows_the_flags():
    process = run_python("-m", "beam_preprocess", "--help")
    assert process.returncode == 0
    names = "input metadata output split_fractions piece_from num_shards sustain max_rejected_fraction overwrite quiet"
    names += " isolate_parsing log_json gcs_user_project"
    assert all(f"  --{name}" in process.stdout.replace("[no]", "") for name in names.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output={out}"], "--input is missing"),
        (["--input={in}"], "--output is missing"),
        (["--input={in}/nowhere", "--output={out}"], "nowhere: no such directory"),
        (["--input={in}/*.mid", "--output={out}"], "matches no file"),
        (["--input={in}/empty", "--output={out}"], "holds no MIDI file"),
        (["--input={in}", "--output={out}", "--split_fractions=0.5,0.5"], "expected three numbers"),
        (["--input={in}", "--output={out}", "--split_fractions=0.5,0.5,0.5"], "add up to 1.5"),
        (["--input={in}", "--output={out}", "--split_fractions=a,b,c"], "expected numbers"),
        (["--input={in}", "--output={out}", "--split_fractions=1,-1,1"], "three numbers from 0 to 1"),
        (["--input={in}", "--output={out}", "--piece_from=title"], "expected one of path, directory, got 'title'"),
        (["--input={in}", "--output={out}", "--num_shards=-1"], "--num_shards=-1"),
        (["--input={in}", "--output={out}", "--sustain=maybe"], "expected one of ignore, extend, got 'maybe'"),
        (["--input={in}", "--output={out}", "--max_rejected_fraction=2"], "--max_rejected_fraction=2"),
        (["--input={in}", "--output={out}", "--metadata={in}/absent.csv"], "absent.csv: cannot be read"),
        (["--input={in}", "--output={in}/0/0.mid"], "is a file"),
        (["--input={in}", "--output=s3://bucket/x"], "s3:// is not supported"),
        (["--input={in}", "--output={out}", "--shards=3"], "shards"),
        (["--input={in}", "--output={out}", "{in}"], "unexpected argument"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_writes_nothing(corpus_directory, tmp_path, flags, message):
    (corpus_directory / "empty").mkdir()
    flags = [flag.replace("{in}", str(corpus_directory)).replace("{out}", str(tmp_path / "out")) for flag in flags]
    process = run_python("-m", "beam_preprocess", *flags)
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_mistake_found_while_running_is_one_line_and_leaves_nothing(corpus_directory, tmp_path):
    write_files(corpus_directory, {f"bad/{index}.mid": b"no MIDI" for index in range(20)})
    process = run_python(
        "-m", "beam_preprocess", f"--input={corpus_directory}", f"--output={tmp_path / 'out'}", "--quiet"
    )
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert "20 of 50 files were rejected (20 not_midi), more than --max_rejected_fraction=0.1 permits" in line
    assert line.endswith("bad/0.mid is not a standard MIDI file: it starts with b'no M', expected b'MThd'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("beam_args", "message"),
    [
        (["--runer=FnApiRunner"], "unknown beam pipeline option --runer"),
        (["--direct_num_workers=many"], "invalid int value: 'many'"),
    ],
)
def test_a_mistaken_beam_option_is_rejected(corpus_directory, tmp_path, beam_args, message):
    with pytest.raises(UserError, match=message):
        run(corpus_directory, tmp_path / "out", beam_args=beam_args)
    assert not (tmp_path / "out").exists()


def test_a_failure_is_announced_until_the_next_attempt(corpus_directory, tmp_path):
    """Jobs that wait for the dataset stop at it; the directory still counts as empty."""
    output = tmp_path / "dataset"
    command = ["-m", "beam_preprocess", f"--output={output}", "--announce"]
    failed = run_python(*command, f"--input={tmp_path}/none")
    assert failed.returncode == 2
    (line,) = failed.stderr.splitlines()
    (left,) = output.iterdir()
    assert left.name == FAILED_NAME
    assert json.loads(left.read_text())["reason"] in line
    assert run_python(*command, f"--input={corpus_directory}").returncode == 0
    run(corpus_directory, tmp_path / "without")
    assert read_files(output) == read_files(tmp_path / "without")


def test_an_existing_dataset_is_not_written_again(corpus_directory, tmp_path, capsys):
    """A restarted job finds its result."""
    output = tmp_path / "out"
    run(corpus_directory, output)
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    capsys.readouterr()
    run(corpus_directory, output, quiet=False)
    assert f"{output}: already contains this dataset. Pass --overwrite" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before
    (corpus_directory / "0" / "another.mid").write_bytes(melody([1, 2, 3]))
    with pytest.raises(UserError, match="already holds a dataset"):
        run(corpus_directory, output)


def test_another_dataset_is_replaced_only_with_overwrite(corpus_directory, tmp_path):
    output = tmp_path / "out"
    run(corpus_directory, output, num_shards=4)
    before = read_files(output)
    (corpus_directory / "0" / "0.mid").write_bytes(melody([1, 2, 3]))
    with pytest.raises(UserError, match="already holds a dataset"):
        run(corpus_directory, output, num_shards=2)
    assert read_files(output) == before
    run(corpus_directory, tmp_path / "fresh", num_shards=2)
    run(corpus_directory, output, num_shards=2, overwrite=True)
    assert read_files(output) == read_files(tmp_path / "fresh")


def test_a_failed_replacement_leaves_the_former_dataset(corpus_directory, tmp_path):
    output = tmp_path / "out"
    run(corpus_directory, output)
    before = read_files(output)
    write_files(corpus_directory, BROKEN)
    with pytest.raises(UserError, match="3 of 33 files were rejected"):
        run(corpus_directory, output, overwrite=True, max_rejected_fraction=0.0)
    assert read_files(output) == before


def test_an_output_that_cannot_be_written_is_a_users_mistake(corpus_directory, tmp_path, monkeypatch):
    def no_space(*_):
        raise UserError("out/train: cannot be written (No space left on device)")

    monkeypatch.setattr(shard_writer, "write_shard", no_space)
    with pytest.raises(UserError, match=r"^out/train: cannot be written \(No space left on device\)$"):
        run(corpus_directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_beam_the_extra_is_named(corpus_directory, tmp_path):
    program = """
import runpy, sys
sys.modules["apache_beam"] = None  # As if it were not installed.
runpy.run_module("beam_preprocess", run_name="__main__", alter_sys=True)
"""
    process = run_python("-c", program, f"--input={corpus_directory}", f"--output={tmp_path / 'out'}")
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "pip install '.[beam]'" in process.stderr
    assert not (tmp_path / "out").exists()


def test_a_fault_of_the_program_is_not_taken_for_a_users_mistake(corpus_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(midi, "read_midi", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="WriteShards"):
        run(corpus_directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The command, but that one of the files takes for ever.
ENDLESS = """
import runpy, time
from sostenuto.music import midi
read = midi.read_midi
midi.read_midi = lambda data, name, **options: time.sleep(600) if name == "0/0.mid" else read(data, name, **options)
runpy.run_module("beam_preprocess", run_name="__main__", alter_sys=True)
"""


@contextlib.contextmanager
def running_within_a_shard(corpus_directory: Path, output: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a run that does not end, waits until it writes, and kills it at the end."""
    command = [sys.executable, "-c", ENDLESS, f"--input={corpus_directory}", f"--output={output}", "--quiet"]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not any(".tfrecord.tmp-" in name or "plan" in name for name in names_in(output)):
                assert process.poll() is None
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def names_in(directory: str) -> list[str]:
    return storage.list_names(directory) if storage.exists(directory) else []


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_second_run_into_an_output_names_the_first_and_leaves_its_files_alone(corpus_directory, tmp_path, gcs, place):
    output = str(tmp_path / "out") if place == "disk" else "gs://bucket/out"
    arguments = ["-m", "beam_preprocess", f"--input={corpus_directory}", f"--output={output}", "--quiet"]
    with running_within_a_shard(corpus_directory, output) as first:
        before = names_in(output)
        second = run_python(*arguments, "--overwrite")
        assert (second.returncode, second.stdout, second.stderr.count("\n")) == (2, "", 1)
        assert f"{output}: process {first.pid} on {os.uname().nodename} writes a dataset to it" in second.stderr
        assert set(before) <= set(names_in(output))
    assert run_python(*arguments).returncode == 0
    assert [name for name in names_in(output) if "tmp-" in name or name == ".lock"] == []
    for split in SPLITS:
        assert list(Manifest.load(output).read_performances(split))


def interrupt_within_a_shard(corpus_directory: Path, output: Path, number: signal.Signals) -> tuple[int, str]:
    """Starts a run, sends it a signal while it is writing, and returns its status and what it said."""
    command = [sys.executable, "-c", ENDLESS, f"--input={corpus_directory}", f"--output={output}", "--quiet"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (output.is_dir() and os.listdir(output)) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
    finally:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_a_killed_run_leaves_no_dataset_and_the_next_one_cleans_up(corpus_directory, tmp_path):
    output = tmp_path / "out"
    status, _ = interrupt_within_a_shard(corpus_directory, output, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert os.listdir(output)
    with pytest.raises(UserError, match="unfinished"):
        Manifest.load(output)
    run(corpus_directory, output)
    run(corpus_directory, tmp_path / "fresh")
    assert read_files(output) == read_files(tmp_path / "fresh")


def test_an_interrupted_run_reports_it_and_leaves_nothing(corpus_directory, tmp_path):
    status, said = interrupt_within_a_shard(corpus_directory, tmp_path / "out", signal.SIGINT)
    assert (status, said) == (130, "beam_preprocess: interrupted\n")
    assert not (tmp_path / "out").exists()


def test_the_sustain_pedal_counts_when_asked(tmp_path):
    data = midi_bytes([pedal(0, 127), on(0, 60), off(100, 60), pedal(900, 0)])
    write_files(tmp_path / "in", {f"{index}.mid": data for index in range(3)})
    durations = {}
    for sustain in ("ignore", "extend"):
        manifest = run(tmp_path / "in", tmp_path / sustain, sustain=sustain)
        durations[sustain] = next(manifest.read_performances("train")).notes.duration_us.tolist()
        assert manifest.options["sustain"] == sustain
    assert durations == {"ignore": [100_000], "extend": [1_000_000]}


def test_the_licence_of_the_corpus_is_recorded(corpus_directory, tmp_path):
    manifest = run(corpus_directory, tmp_path / "out", licence="CC BY-NC-SA 4.0")
    assert manifest.options["licence"] == "CC BY-NC-SA 4.0"
    with pytest.raises(UserError, match=r"--licence=.*one line"):
        run(corpus_directory, tmp_path / "other", licence="two\nlines")


def test_metadata_reaches_the_records(tmp_path):
    csv = (
        "canonical_composer,canonical_title,split,year,midi_filename\n"
        "Clara Schumann,Scherzo,train,2011,a.mid\n,,validation,,b.mid\n,,test,,c.mid\n"
    )
    write_files(tmp_path / "in", {**{f"{name}.mid": melody([60]) for name in "abcd"}, "m.csv": csv.encode()})
    manifest = run(tmp_path / "in", tmp_path / "out")
    (performance,) = manifest.read_performances("train")
    assert (performance.path, performance.piece, performance.split) == ("a.mid", "Clara Schumann: Scherzo", "train")
    assert (performance.composer, performance.title, performance.year) == ("Clara Schumann", "Scherzo", 2011)
    assert manifest.source["unlisted"] == 1
    assert manifest.source["files"] == 3


def test_a_piece_that_the_csv_puts_into_two_splits_is_reported(tmp_path):
    """Two sonatas may share a title in a CSV, so it is no error, but readers of the scores must know."""
    csv = (
        "canonical_composer,canonical_title,split,year,midi_filename\n"
        "Scarlatti,Sonata,train,2011,a.mid\nScarlatti,Sonata,test,2011,b.mid\nHaydn,Sonata,validation,2011,c.mid\n"
    )
    write_files(tmp_path / "in", {**{f"{name}.mid": melody([60]) for name in "abc"}, "m.csv": csv.encode()})
    manifest = run(tmp_path / "in", tmp_path / "out")
    assert manifest.source["straddling_pieces"] == ["Scarlatti: Sonata"]
    told = (
        "m.csv puts 1 piece into more than one split, so sostenuto evaluate also scores without them: Scarlatti: Sonata"
    )
    assert told in summarize(manifest, seconds=1)


def test_a_file_that_cannot_be_opened_is_rejected_and_the_others_are_not(corpus_directory, tmp_path):
    (corpus_directory / "dangling.mid").symlink_to(tmp_path / "nowhere")
    (corpus_directory / "huge.mid").write_bytes(melody([60]) + bytes(midi.MAX_BYTES))
    manifest = run(corpus_directory, tmp_path / "out")
    assert manifest.rejected == {"too_large": 1, "unreadable": 1}
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert rejected[0]["detail"] == "cannot be opened (No such file or directory)"
    assert sum(manifest.performances(split) for split in SPLITS) == 30


def test_a_disk_that_fails_is_not_the_files_fault(corpus_directory, tmp_path):
    (corpus_directory / "x.mid").symlink_to("/proc/self/mem")  # Its first bytes cannot be read: EIO.
    with pytest.raises(FileError, match=r"x\.mid: cannot be read \(Input/output error\)$"):
        run(corpus_directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_quiet_prints_nothing(corpus_directory, tmp_path):
    process = run_python(
        "-m", "beam_preprocess", f"--input={corpus_directory}", f"--output={tmp_path / 'out'}", "--quiet"
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_the_corpus_gives_exactly_its_notes(corpus, tmp_path):
    if not (corpus / "maestro-asap.csv").exists():
        pytest.skip("SOSTENUTO_CORPUS is not the corpus whose numbers are known")
    manifest = run(corpus, tmp_path / "one")
    assert [manifest.performances(split) for split in SPLITS] == [399, 46, 74]
    assert [manifest.notes(split) for split in SPLITS] == [1_305_914, 120_112, 234_892]
    assert sum(manifest.statistics[split].zero_length_dropped for split in SPLITS) == 3
    copy = shutil.make_archive(str(tmp_path / "zip"), "zip", root_dir=corpus.parent, base_dir=corpus.name)
    run(copy, tmp_path / "two")
    assert read_files(tmp_path / "two") == read_files(tmp_path / "one")


def test_the_summary_names_the_metadata_or_says_that_there_was_none(corpus_directory, tmp_path):
    write_files(corpus_directory, {"a.kar": b"", "b.KAR": b""})
    text = summarize(run(corpus_directory, tmp_path / "none"), seconds=1)
    assert "metadata: none, so the splits follow --split_fractions" in text
    assert "left out 2 files that end in .kar: only .mid and .midi are read" in text
    csv = "midi_filename,split\n0/0.mid,train\n1/1.mid,validation\n2/2.mid,test\n"
    write_files(corpus_directory, {"m.csv": csv.encode()})
    assert "metadata: m.csv" in summarize(run(corpus_directory, tmp_path / "csv"), seconds=1)


def test_options_are_checked_before_the_output_is_asked(corpus_directory, gcs):
    process = run_python(
        *("-m", "beam_preprocess", f"--input={corpus_directory}", "--output=gs://bucket/out", "--no_wait")
    )
    assert (process.returncode, process.stderr.count("\n")) == (2, 1)
    assert "--no_wait: needs a job on Dataflow" in process.stderr
    assert gcs.requests == []


def test_a_shard_of_another_size_is_not_taken_for_the_dataset(corpus_directory, tmp_path):
    manifest = run(corpus_directory, tmp_path / "out")
    with open(manifest.shard_paths("test")[0], "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="already holds a dataset"):
        run(corpus_directory, tmp_path / "out")
    assert run(corpus_directory, tmp_path / "out", overwrite=True).sha256 == manifest.sha256
    assert list(manifest.read_performances("test"))
