import os

import pytest

from beam_preprocess.corpus import find_corpus
from sostenuto.errors import UserError
from tests.factories import melody, write_files, write_zip


def test_midi_files_are_found_at_any_depth_and_in_any_case(tmp_path):
    names = ["a.mid", "b/c.MIDI", "b/d/e/f.Mid"]
    write_files(tmp_path, {name: melody([60]) for name in [*names, "x.txt", "b/._c.mid", "midi"]})
    assert [file.path for file in find_corpus(str(tmp_path)).files] == names


def test_a_glob_takes_only_the_listed_files_that_it_matches(maestro):
    corpus = find_corpus(f"{maestro}/*6/*.midi", split_fractions=(0, 0.5, 0.5))
    assert [(file.path, file.split) for file in corpus.files] == [
        ("2006/three.midi", "test"),
        ("2006/two.midi", "validation"),
    ]


def test_a_glob_below_the_current_directory_finds_the_csv_there(maestro, monkeypatch):
    monkeypatch.chdir(maestro)
    assert find_corpus("*/*.midi").metadata == "maestro-v9.0.0.csv"


def test_a_fifo_with_a_midi_files_name_is_not_waited_for(maestro):
    os.mkfifo(maestro / "pipe.mid")
    os.mkfifo(maestro / "pipe.csv")
    for uri in (maestro, f"{maestro}/**/*"):
        corpus = find_corpus(str(uri))
        assert (len(corpus.files), corpus.unlisted) == (4, 0)


def test_input_without_midi_is_rejected(tmp_path):
    write_files(tmp_path, {"empty/README": b"", "not.zip": b"PK, but no more"})
    for uri, message in (
        (tmp_path / "empty", "holds no MIDI file"),
        (tmp_path / "absent", "absent: no such directory. Expected a directory, a glob"),
        (tmp_path / "absent.zip", "absent.zip: no such file"),
        (tmp_path / "absent" / "*.mid", r"absent: no such directory. Correct the pattern .*absent/\*.mid"),
        (tmp_path / "*.mid", "matches no file"),
        (write_zip(tmp_path / "none.zip", {"README": b""}), "holds no MIDI file"),
        (tmp_path / "not.zip", "cannot be read as a zip file"),
        ("s3://bucket/midi", "s3:// is not supported"),
    ):
        with pytest.raises(UserError, match=message):
            find_corpus(str(uri))
