import os
import unicodedata

import pytest

from beam_preprocess.corpus import find_corpus
from sostenuto.errors import UserError
from tests.beam_preprocess.corpus.reading import contents
from tests.factories import MAESTRO_CSV, MAESTRO_FILES, melody, write_files, write_zip


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


def test_karaoke_and_riff_files_are_left_out_and_counted(tmp_path):
    write_files(tmp_path, {f"{number}.mid": melody([60]) for number in range(3)})
    assert find_corpus(str(tmp_path)).other_formats == {}
    write_files(tmp_path, {"a.kar": b"", "b/c.KAR": b"", "d.rmi": b"", "e.txt": b""})
    corpus = find_corpus(str(tmp_path))
    assert (len(corpus.files), corpus.other_formats) == (3, {".kar": 2, ".rmi": 1})
    (tmp_path / "only").mkdir()
    write_files(tmp_path / "only", {"a.kar": b""})
    with pytest.raises(UserError, match=r"holds no MIDI file, but 1 that end in \.kar"):
        find_corpus(str(tmp_path / "only"))


def test_a_glob_below_a_directory_with_brackets_in_its_name_finds_its_files(tmp_path, monkeypatch, gcs):
    names = ["a [1].mid", "b.mid", "c.mid"]
    directory = write_files(tmp_path / "Piano [2019] live" / "x", {name: melody([60]) for name in names})
    for name in names:
        gcs.put(f"gs://bucket/Piano [2019] live/x/{name}", melody([60]))
    monkeypatch.chdir(tmp_path)
    for uri in (f"{directory}/*.mid", "Piano [2019] live/**/*.mid", "gs://bucket/Piano [2019] live/**/*.mid"):
        assert [file.path for file in find_corpus(uri).files] == names
    # Other names are patterns still.
    assert [file.path for file in find_corpus("Pian[op] ?2019? live/x/*.mid").files] == names
    with pytest.raises(UserError, match=r"/\*\.midi: matches no file\. Correct the pattern"):
        find_corpus("Piano [2019] live/*.midi")


def test_a_glob_finds_a_csv_in_capitals(maestro):
    (maestro / "maestro-v9.0.0.csv").rename(maestro / "MAESTRO.CSV")
    assert find_corpus(f"{maestro}/*/*.midi").metadata == "MAESTRO.CSV"


def test_a_zip_with_the_separators_of_windows_holds_the_files_of_its_csv(tmp_path, maestro):
    files = {name.replace("/", "\\"): data for name, data in MAESTRO_FILES.items()}
    path = write_zip(tmp_path / "x.zip", {**files, "maestro-v9.0.0.csv": MAESTRO_CSV.encode()}, top="top\\")
    assert contents(find_corpus(str(path))) == contents(find_corpus(str(maestro)))


def test_two_files_that_become_one_are_refused(tmp_path, gcs):
    """Of two names in other bytes than UTF-8, one could take the place of the other."""
    pairs = {
        "escape": (b"\xff.mid", rb"\xff.mid"),
        "composed": tuple(unicodedata.normalize(form, "é.mid").encode() for form in ("NFC", "NFD")),
    }
    for name, pair in pairs.items():
        os.mkdir(tmp_path / name)
        for file in (*pair, b"a.mid", b"b.mid"):
            with open(os.path.join(os.fsencode(tmp_path / name), file), "wb") as stream:
                stream.write(melody([60]))
        for uri in (tmp_path / name, f"{tmp_path / name}/*.mid"):
            with pytest.raises(UserError, match=r"holds .*\.mid more than once, or in two spellings"):
                find_corpus(str(uri))
    gcs.put("gs://bucket/in/a/b.mid", melody([60]))
    gcs.put("gs://bucket/in/a//b.mid", melody([61]))
    with pytest.raises(UserError, match=r"gs://bucket/in: holds a/b\.mid more than once, or in two spellings"):
        find_corpus("gs://bucket/in")
