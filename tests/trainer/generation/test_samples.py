"""Samples take the place of those of an earlier call, and of nothing else."""

import itertools
import json
import pathlib
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sostenuto.errors import UserError
from sostenuto.music import audio
from sostenuto.music.midi import read_midi
from sostenuto.music.notes import Notes
from tests.factories import StandInPlayer, write_run, write_samples
from tests.processes import run_python
from trainer.generation import samples


def test_a_file_that_no_call_wrote_is_not_replaced_by_a_sample(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset)
    (directory / "samples").mkdir()
    mine = directory / "samples" / "sample-003.mid"
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"sample-003\.mid: exists, and no samples\.json lists it.* Move it"):
        write_samples(directory, dataset)
    assert [path.name for path in mine.parent.iterdir()] == ["sample-003.mid"]
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("listing", [{"files": ["../mine.mid", "letter.txt", 3]}, ["sample-000.mid"], {"samples": []}])
def test_a_samples_json_of_another_origin_removes_nothing(listing, tmp_path):
    (tmp_path / "samples").mkdir()
    for path in (tmp_path / "mine.mid", tmp_path / "samples" / "letter.txt", tmp_path / "samples" / "sample-000.mid"):
        path.write_text("mine")
    (tmp_path / "samples" / "samples.json").write_text(json.dumps(listing))
    with (
        pytest.raises(UserError, match="exists, and no"),
        samples.replace_samples(str(tmp_path / "samples"), ["sample-000.mid"]),
    ):
        raise AssertionError
    assert len(list(tmp_path.rglob("*"))) == 5


@pytest.mark.parametrize("name", ["{}/mine.mid", "../../mine.mid", "..", ""])
def test_a_report_shows_no_file_from_outside_the_workdir_whatever_samples_json_names(name, dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset)
    write_samples(directory, dataset)
    index = directory / "samples" / "samples.json"
    shutil.copy(directory / "samples" / "sample-000.mid", tmp_path / "mine.mid")
    document = json.loads(index.read_text())
    document["samples"][1]["midi"] = name.format(tmp_path)
    index.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"samples\.json: samples\[1\]\.midi: got .*, expected a file name .*Delete"):
        samples.load_samples(str(directory))


def test_a_damaged_sample_is_named_with_its_directory(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset)
    write_samples(directory, dataset)
    (directory / "samples" / "sample-000.mid").write_text("root:x")
    with pytest.raises(UserError, match=rf"^{directory}/samples/sample-000\.mid: is not a standard MIDI file"):
        samples.load_samples(str(directory))


def test_samples_json_counts_the_notes_of_each_file(dataset, tmp_path):
    class TwicePlayer(StandInPlayer):
        """Plays each note twice."""

        def sample(self, primers, **options):
            played = super().sample(primers, **options)
            return played._replace(notes=[self._double(notes) for notes in played.notes])

        def _double(self, notes):
            twice = np.repeat(np.arange(len(notes)), 2)
            step_us = np.where(np.arange(len(twice)) % 2, 0, notes.step_us[twice])
            return Notes(notes.pitch[twice], step_us, notes.duration_us[twice], notes.velocity[twice])

    directory = write_run(tmp_path / "w", dataset)
    samples.write_samples(TwicePlayer(), [], str(directory), train_step=200, sustain="ignore", count=2)
    index = json.loads((directory / "samples" / "samples.json").read_text())
    for sample in index["samples"]:
        notes = read_midi((directory / "samples" / sample["midi"]).read_bytes(), "sample").notes
        assert (sample["notes"], sample["seconds"]) == (len(notes), notes.seconds)
        assert len(set(zip(notes.pitch.tolist(), notes.onset_us.tolist(), strict=True))) == len(notes)


def test_a_generated_note_below_the_primers_last_one_and_with_it_stays_generated(dataset, tmp_path):
    class ChordPlayer(StandInPlayer):
        """Strikes a low note together with the primer's last one."""

        def sample(self, primers, **options):
            low = Notes(*(np.array([value]) for value in (1, 0, 100_000, 64)))
            columns = [[*zip(*map(_columns, (one, low, one)), strict=True)] for one in primers]
            notes = [Notes(*(np.concatenate(parts) for parts in one)) for one in columns]
            return super().sample(primers, **options)._replace(notes=notes)

    def _columns(notes):
        return notes.pitch, notes.step_us, notes.duration_us, notes.velocity

    directory = write_run(tmp_path / "w", dataset)
    primer = Notes(*(np.array(column) for column in ([60, 64], [0, 500_000], [300_000] * 2, [64] * 2)))
    again = [samples.Primer(primer, "a piece")]
    samples.write_samples(ChordPlayer(), again, str(directory), train_step=200, sustain="ignore")
    (one,) = samples.load_samples(str(directory)).samples
    # The continuation begins with a note of pitch 1, and repeats the first one of the primer at once, then the second.
    assert one.notes.pitch.tolist() == [60, 1, 60, 64, 64]
    assert one.is_primer.tolist() == [True, False, False, True, False]
    assert (one.primer_notes, one.seam_seconds) == (2, 0.5)
    (entry,) = json.loads((directory / "samples" / "samples.json").read_text())["samples"]
    assert (entry["primer_notes"], entry["generated_before"]) == (2, [1, 2])


def test_after_a_failure_no_sample_is_left_and_after_a_kill_the_next_call_knows_them(tmp_path):
    def write(*names, error=None):
        with samples.replace_samples(str(tmp_path), ["sample-000.mid", "sample-001.mid"]) as here:
            for name in names:
                (pathlib.Path(here) / name).write_text("generated")
            if error:
                raise error

    (tmp_path / "mine.mid").write_text("mine")
    with pytest.raises(OSError, match="full"):
        write("sample-000.mid", error=OSError("full"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.mid"]

    program = (
        "import os, pathlib, signal, sys; from trainer.generation import samples\n"
        "with samples.replace_samples(sys.argv[1], ['sample-000.mid', 'sample-001.mid']) as here:\n"
        "    (pathlib.Path(here) / 'sample-000.mid').write_text('generated'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run_python("-c", program, str(tmp_path)).returncode == -signal.SIGKILL
    left = {"mine.mid", "sample-000.mid", "samples.json.unfinished", ".lock"}
    assert {path.name for path in tmp_path.iterdir()} == left
    write("sample-000.mid", "sample-001.mid")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.mid", "sample-000.mid", "sample-001.mid"}


def test_no_sound_appears_after_two_interruptions_have_removed_the_samples(dataset, tmp_path, monkeypatch):
    """The second Ctrl-C ends the wait for the threads that still render."""
    pools, removed, calls = [], threading.Event(), itertools.count()

    class ImpatientPool(ThreadPoolExecutor):
        def __init__(self, *_):
            super().__init__(1)  # The first sample is rendered first.

        def __exit__(self, *_):
            pools.append(self)

    def to_mp3(_):
        assert next(calls) == 0 or removed.wait(30)
        return b"sound"

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(samples, "ThreadPoolExecutor", ImpatientPool)
    monkeypatch.setattr(samples.ProgressCounter, "advance", interrupt)
    monkeypatch.setattr(audio, "to_mp3", to_mp3)
    directory = write_run(tmp_path / "w", dataset)
    with pytest.raises(KeyboardInterrupt):
        write_samples(directory, dataset)
    removed.set()
    pools[0].shutdown()
    assert list((directory / "samples").iterdir()) == []
