"""Samples take the place of those of an earlier call, and of nothing else."""

import itertools
import json
import pathlib
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
