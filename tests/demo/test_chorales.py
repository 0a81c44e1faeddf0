"""The export of the chorales, from music21's own scores."""

from pathlib import Path

import pretty_midi
import pytest

from demo import chorales
from demo.chorales import TEMPO, Key, export, merge_overlapping_notes, read
from sostenuto.errors import UserError
from sostenuto.music.midi import read_midi
from tests.processes import run_python

NAMES = ["bach/bwv269", "bach/bwv1.6", "bach/bwv253"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("corpora") / "bach-chorales"
    written = export(directory, NAMES, quiet=True)
    assert sorted(written.written) == ["bwv1.6.mid", "bwv253.mid", "bwv269.mid"]
    return directory


def test_music21_has_some_350_chorales_each_named_once() -> None:
    found = chorales.list_chorales()
    assert len(found) == len(set(found)) > 340


def test_the_directory_holds_one_midi_file_a_chorale_and_nothing_else(exported: Path) -> None:
    assert sorted(file.name for file in exported.iterdir()) == ["bwv1.6.mid", "bwv253.mid", "bwv269.mid"]
    assert sorted(file.name for file in exported.parent.iterdir()) == ["bach-chorales"]


def test_a_chorale_sounds_as_it_is_written(exported: Path) -> None:
    notes = read_midi((exported / "bwv269.mid").read_bytes(), "bwv269.mid").notes
    # G major in four voices, one chord a beat: g3, b3, d4 and g4 come first, at once.
    first_chord = notes.pitch[notes.onset_us == 0]
    assert sorted(first_chord) == sorted(key.pitch for key in read("bach/bwv269") if key.start == 0)
    assert len(first_chord) >= 3
    beats = notes.onset_us / (60e6 / TEMPO)
    assert abs(beats * 4 - (beats * 4).round()).max() < 0.01
    assert set(notes.velocity) == {chorales.OUTER_VELOCITY, chorales.INNER_VELOCITY}


def test_the_file_carries_its_tempo(exported: Path) -> None:
    _, tempi = pretty_midi.PrettyMIDI(str(exported / "bwv269.mid")).get_tempo_changes()
    assert tempi == pytest.approx([TEMPO], rel=1e-5)


def test_tied_notes_are_one_key() -> None:
    # The alto ties the quarter note g on beat 24 to the eighth after it.
    assert [key.end for key in read("bach/bwv269") if (key.start, key.pitch) == (24, 67)] == [25.5]


def test_no_key_is_struck_while_it_is_held() -> None:
    keys = read("bach/bwv269")
    assert not [key for key in keys for other in keys if other.pitch == key.pitch and key.start < other.start < key.end]


def test_voices_that_meet_on_one_key() -> None:
    together = [Key(0, 60, 1, 64), Key(0, 60, 2, 80)]
    assert merge_overlapping_notes(together) == [Key(0, 60, 2, 80)]
    struck_anew = [Key(0, 60, 4, 64), Key(1, 60, 2, 80)]
    assert merge_overlapping_notes(struck_anew) == [Key(0, 60, 1, 64), Key(1, 60, 2, 80)]


def test_the_same_music_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chorales, "read", lambda name: [Key(0, 60, 1, 64)])
    exported = export(tmp_path / "out", ["bach/a", "bach/b"], quiet=True)
    assert (exported.written, exported.repeated) == (["a.mid"], ["bach/b"])


def test_a_score_that_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    exported = export(tmp_path / "out", ["bach/no-such-work", NAMES[0]], quiet=True)
    assert list(exported.failed) == ["bach/no-such-work"]
    assert exported.written == ["bwv269.mid"]


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of 1 chorale"):
        export(tmp_path / "out", ["bach/no-such-work"], quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_help_waits_for_no_library() -> None:
    program = """
import runpy, sys
sys.argv = ["chorales", "--help"]
try: runpy.run_module("demo.chorales", run_name="__main__")
except SystemExit as ended: print(ended.code, {"music21", "pretty_midi"} & set(sys.modules))
"""
    process = run_python("-c", program)
    assert process.stdout.splitlines()[-1] == "0 set()"
    assert "--output" in process.stdout


def test_an_existing_directory_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        export(tmp_path, NAMES, quiet=True)
