import os
import random
import struct
import time
import tracemalloc
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_preprocess import corpus as corpus_module
from beam_preprocess.corpus import Reader, assign_splits, find_corpus
from sostenuto.data.manifest import SPLITS
from sostenuto.errors import UserError
from sostenuto.music import midi
from tests.midi_files import melody, write_corpus

HEADER = "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration\n"
# Quoted commas, non-ASCII letters and performances that share a piece, as in MAESTRO's own.
CSV = HEADER + (
    'Alban Berg,"Sonata, Op. 1",train,2018,2018/berg.midi,2018/berg.wav,698.66\n'
    "Frédéric Chopin,Étude,validation,2004,2004/one.midi,,12.5\n"
    "Frédéric Chopin,Étude,validation,2006,2006/two.midi,,12.5\n"
    "Franz Liszt,Mazeppa,test,2006,2006/three.midi,,1\n"
)
FILES = {
    "2018/berg.midi": melody([60]),
    "2004/one.midi": melody([61]),
    "2006/two.midi": melody([62]),
    "2006/three.midi": melody([63]),
    "README": b"no music",
}


def write_zip(path, files, top=""):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{top}{name}", data)
    return path


def contents(corpus):
    """Returns everything that decides what a dataset will hold."""
    with Reader(corpus.archive) as reader:
        return [
            (
                file.path,
                file.piece,
                file.split,
                file.composer,
                file.title,
                file.year,
                reader.read(file.location, limit=99),
            )
            for file in corpus.files
        ]


@pytest.fixture
def maestro(tmp_path):
    return write_corpus(tmp_path / "in" / "maestro-v9.0.0", {**FILES, "maestro-v9.0.0.csv": CSV.encode()})


def test_maestros_csv_gives_splits_and_names(maestro):
    corpus = find_corpus(str(maestro))
    assert (corpus.metadata, corpus.unlisted) == ("maestro-v9.0.0.csv", 0)
    assert [(file.path, file.split, file.piece, file.year) for file in corpus.files] == [
        ("2004/one.midi", "validation", "Frédéric Chopin: Étude", 2004),
        ("2006/three.midi", "test", "Franz Liszt: Mazeppa", 2006),
        ("2006/two.midi", "validation", "Frédéric Chopin: Étude", 2006),
        ("2018/berg.midi", "train", "Alban Berg: Sonata, Op. 1", 2018),
    ]
    assert (corpus.files[3].composer, corpus.files[3].title) == ("Alban Berg", "Sonata, Op. 1")


@pytest.mark.parametrize("csv", [CSV.encode(), None], ids=["csv", "no csv"])
def test_directory_its_parent_glob_and_zip_hold_the_same(tmp_path, csv):
    files = {**FILES, **({"maestro.csv": csv} if csv else {})}
    directory = write_corpus(tmp_path / "in" / "top", files)
    zipped = write_zip(tmp_path / "top.zip", files, top="top/")
    flat = write_zip(tmp_path / "flat.zip", files)
    expected = contents(find_corpus(str(directory)))
    assert len(expected) == 4
    for uri in (directory.parent, zipped, flat, f"{directory}/*/*.midi", f"{directory.parent}/**/*.midi"):
        assert contents(find_corpus(str(uri))) == expected


def test_midi_files_are_found_at_any_depth_and_in_any_case(tmp_path):
    names = ["a.mid", "b/c.MIDI", "b/d/e/f.Mid"]
    write_corpus(tmp_path, {name: melody([60]) for name in [*names, "x.txt", "b/._c.mid", "midi"]})
    assert [file.path for file in find_corpus(str(tmp_path)).files] == names


def test_one_midi_file_is_a_corpus_if_empty_splits_are_asked_for(tmp_path):
    path = write_corpus(tmp_path, {"a.mid": melody([60])}) / "a.mid"
    (file,) = find_corpus(str(path), split_fractions=(1, 0, 0)).files
    assert (file.path, file.split) == ("a.mid", "train")


def test_a_glob_takes_only_the_listed_files_that_it_matches(maestro):
    corpus = find_corpus(f"{maestro}/*6/*.midi", split_fractions=(0, 0.5, 0.5))
    assert [(file.path, file.split) for file in corpus.files] == [
        ("2006/three.midi", "test"),
        ("2006/two.midi", "validation"),
    ]


def test_a_glob_below_the_current_directory_finds_the_csv_there(maestro, monkeypatch):
    monkeypatch.chdir(maestro)
    assert find_corpus("*/*.midi").metadata == "maestro-v9.0.0.csv"


def test_files_that_the_csv_does_not_list_are_left_out_and_counted(maestro):
    write_corpus(maestro, {"2018/extra.midi": melody([70]), "other.mid": melody([71])})
    corpus = find_corpus(str(maestro))
    assert (len(corpus.files), corpus.unlisted) == (4, 2)


def test_a_csv_from_elsewhere_and_none(maestro, tmp_path):
    own = maestro / "maestro-v9.0.0.csv"
    elsewhere = write_corpus(tmp_path, {"mine.csv": own.read_bytes().replace(b"validation", b"train")}) / "mine.csv"
    corpus = find_corpus(str(maestro), metadata=str(elsewhere), split_fractions=(0.9, 0, 0.1))
    assert {file.split for file in corpus.files} == {"train", "test"}
    # From above, too: the directory is found in which the names hold.
    assert contents(
        find_corpus(str(maestro.parent), metadata=str(elsewhere), split_fractions=(0.9, 0, 0.1))
    ) == contents(corpus)
    without = find_corpus(str(maestro), metadata="none")
    assert without.metadata is None
    assert {file.composer for file in without.files} == {""}


def test_the_columns_may_come_in_any_order_with_others_and_a_byte_order_mark(tmp_path):
    rows = "split,duration,midi_filename,extra\ntrain,1,a.mid,x\nvalidation,1,b.mid,\ntest,1,c.mid,y\n"
    files = {f"{name}.mid": melody([60]) for name in "abc"}
    corpus = find_corpus(str(write_corpus(tmp_path, {**files, "m.csv": b"\xef\xbb\xbf" + rows.encode()})))
    assert [(file.split, file.piece, file.year) for file in corpus.files] == [
        ("train", "a.mid", 0),
        ("validation", "b.mid", 0),
        ("test", "c.mid", 0),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2004/one.midi", "2004/gone.midi", "names 1 of 4 files that .* does not hold, such as 2004/gone.midi"),
        ("2006/two.midi", "2004/one.midi", "names 2004/one.midi more than once"),
        (",test,", ",tset,", "line 5 has split 'tset'"),
        (",2004,", ",MMIV,", "line 3 has year 'MMIV'"),
        ("Liszt,Mazeppa,test", "Liszt,Mazeppa,train", "test split would be empty"),
    ],
)
def test_a_csv_that_cannot_be_followed_is_rejected(maestro, old, new, message):
    path = maestro / "maestro-v9.0.0.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        find_corpus(str(maestro))


def test_two_csvs_want_a_choice(maestro):
    write_corpus(maestro, {"second.csv": CSV.encode(), "unrelated.csv": b"a,b\n1,2\n"})
    with pytest.raises(UserError, match=r"2 metadata CSVs \(maestro-v9\.0\.0\.csv, second\.csv\)"):
        find_corpus(str(maestro))
    assert find_corpus(str(maestro), metadata=str(maestro / "second.csv")).metadata == "second.csv"


def test_a_named_csv_without_the_columns_is_rejected(maestro):
    write_corpus(maestro, {"bad.csv": b"a,b\n1,2\n"})
    with pytest.raises(UserError, match="lacks a column of midi_filename, split"):
        find_corpus(str(maestro), metadata=str(maestro / "bad.csv"))


UNREADABLE_CSVS = {"lone returns": b"a,b\r1,2\r", "huge field": b"a," + b"x" * 200_000 + b"\n"}


@pytest.mark.parametrize("stray", UNREADABLE_CSVS.values(), ids=UNREADABLE_CSVS)
def test_a_stray_csv_that_cannot_be_parsed_is_no_metadata(maestro, stray):
    write_corpus(maestro, {"stray.csv": stray})
    assert find_corpus(str(maestro)).metadata == "maestro-v9.0.0.csv"
    with pytest.raises(UserError, match=r"stray\.csv: is no CSV"):
        find_corpus(str(maestro), metadata=str(maestro / "stray.csv"))


def test_a_fifo_with_a_midi_files_name_is_not_waited_for(maestro):
    os.mkfifo(maestro / "pipe.mid")
    os.mkfifo(maestro / "pipe.csv")
    for uri in (maestro, f"{maestro}/**/*"):
        corpus = find_corpus(str(uri))
        assert (len(corpus.files), corpus.unlisted) == (4, 0)


def test_input_without_midi_is_rejected(tmp_path):
    write_corpus(tmp_path, {"empty/README": b"", "not.zip": b"PK, but no more"})
    for uri, message in (
        (tmp_path / "empty", "holds no MIDI file"),
        (tmp_path / "absent", "no such file or directory"),
        (tmp_path / "*.mid", "matches no file"),
        (write_zip(tmp_path / "none.zip", {"README": b""}), "holds no MIDI file"),
        (tmp_path / "not.zip", "no zip file, or a damaged one"),
        ("s3://bucket/midi", "s3:// is not supported"),
    ):
        with pytest.raises(UserError, match=message):
            find_corpus(str(uri))


def test_directories_as_pieces_stay_within_a_split(tmp_path):
    write_corpus(tmp_path, {f"piece{number}/{take}.mid": melody([60]) for number in range(12) for take in range(3)})
    files = find_corpus(str(tmp_path), piece_from="directory").files
    splits = {}
    for file in files:
        splits.setdefault(file.piece, set()).add(file.split)
    assert len(splits) == 12
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == set(SPLITS)


def test_too_few_pieces_for_the_splits_are_rejected(tmp_path):
    write_corpus(tmp_path, {"a.mid": melody([60]), "b.mid": melody([60])})
    with pytest.raises(UserError, match="would be empty: 2 files are too few"):
        find_corpus(str(tmp_path))
    assert len(find_corpus(str(tmp_path), split_fractions=(0.5, 0.5, 0)).files) == 2


@given(st.sets(st.text(max_size=8), min_size=3, max_size=60), st.sampled_from([(0.8, 0.1, 0.1), (0.98, 0.01, 0.01)]))
def test_every_split_gets_pieces_near_its_share(pieces, fractions):
    counts = dict.fromkeys(SPLITS, 0)
    for split in assign_splits(pieces, fractions).values():
        counts[split] += 1
    assert sum(counts.values()) == len(pieces)
    for split, fraction in zip(SPLITS, fractions, strict=True):
        assert counts[split] >= 1
        assert abs(counts[split] - fraction * len(pieces)) <= 2


@given(st.sets(st.text(max_size=8), min_size=1, max_size=30), st.randoms())
def test_splits_do_not_depend_on_the_order_of_files(pieces, random):
    shuffled = random.sample(sorted(pieces), len(pieces))
    assert assign_splits(shuffled, (0.8, 0.1, 0.1)) == assign_splits(sorted(pieces), (0.8, 0.1, 0.1))


def test_a_fraction_of_0_leaves_a_split_empty():
    assert set(assign_splits(map(str, range(50)), (0.9, 0, 0.1)).values()) == {"train", "test"}


def test_splits_are_what_they_were():
    """A change of these would silently mix the training and test pieces of everyone's datasets."""
    split_of = assign_splits([f"{number}.mid" for number in range(10)], (0.6, 0.2, 0.2))
    assert sorted(piece for piece, split in split_of.items() if split == "validation") == ["3.mid", "8.mid"]


def test_a_reader_says_what_it_cannot_read(tmp_path):
    with pytest.raises(UserError, match="absent"), Reader(None) as reader:
        reader.read(str(tmp_path / "absent"), limit=9)
    path = write_zip(tmp_path / "a.zip", {"a.mid": melody([60] * 100)})
    damaged = path.read_bytes().replace(b"MThd", b"MThx")
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="CRC"), Reader(str(path)) as reader:
        reader.read("a.mid", limit=10**6)


# Names that mean something to whoever extracts them; nobody does.
HOSTILE_NAMES = {
    "/etc/absolute.mid": "etc/absolute.mid",
    "../../above.mid": "above.mid",
    "a/../../etc/between.mid": "etc/between.mid",
    "//double.mid": "double.mid",
    "a/./b//plain.mid": "a/b/plain.mid",
    "..mid/odd.mid": "..mid/odd.mid",
}


def test_names_of_members_are_paths_below_the_archives_top(tmp_path):
    files = {name: melody([60 + number]) for number, name in enumerate(HOSTILE_NAMES)}
    corpus = find_corpus(str(write_zip(tmp_path / "x.zip", files)))
    assert {file.location: file.path for file in corpus.files} == HOSTILE_NAMES
    with Reader(corpus.archive) as reader:
        assert {file.location: reader.read(file.location, limit=999) for file in corpus.files} == files
    assert os.listdir(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("second", ["a.mid", "./a.mid", "/a.mid", "../a.mid", "b/../a.mid"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # That is what is meant here.
def test_two_members_of_one_name_are_rejected(tmp_path, second):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.mid", melody([60]))
        archive.writestr(second, melody([61]))
    with pytest.raises(UserError, match=r"x\.zip: holds a\.mid more than once"):
        find_corpus(str(tmp_path / "x.zip"))


def test_an_archive_within_an_archive_is_not_opened(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", {"deep.mid": melody([60])}).read_bytes()
    path = write_zip(tmp_path / "x.zip", {"inner.zip": inner, "inner.mid": inner, "a.mid": melody([60])})
    corpus = find_corpus(str(path), split_fractions=(1, 0, 0))
    assert [file.path for file in corpus.files] == ["a.mid", "inner.mid"]
    with Reader(corpus.archive) as reader:
        assert reader.read("inner.mid", limit=2) == b"PK"


def test_a_bomb_among_the_members_is_read_no_further_than_asked(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.mid", bytes(2**28))
        archive.writestr("noise", random.randbytes(2**22), compress_type=zipfile.ZIP_STORED)
    (file,) = find_corpus(str(path), split_fractions=(1, 0, 0)).files
    tracemalloc.start()
    with Reader(str(path)) as reader:
        assert reader.read(file.location, limit=midi.MAX_BYTES + 1) == bytes(midi.MAX_BYTES + 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * midi.MAX_BYTES


def test_an_archive_that_would_become_a_hundred_times_as_large_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_HARMLESS_BYTES", 2**24)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(20):
            archive.writestr(f"{number}.mid", bytes(2**20))
    with pytest.raises(UserError, match="more than 100 times as many"):
        find_corpus(str(tmp_path / "x.zip"))
    # What repeats itself like a loop is let pass while there is little of it.
    with zipfile.ZipFile(tmp_path / "y.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(20):
            archive.writestr(f"{number}.mid", melody([60, 64, 67, 72] * 500))
    assert len(find_corpus(str(tmp_path / "y.zip")).files) == 20


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_have_no_bound_are_rejected(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("a.mid", melody([60]))
    with (
        pytest.raises(UserError, match=f"method {method}, expected stored or deflated"),
        Reader(str(tmp_path / "x.zip")) as reader,
    ):
        reader.read("a.mid", limit=999)


def with_declared_size(path, size):
    """Rewrites a zip file of one member, so that its directory and its local header declare another size."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", data, data.index(signature) + offset, size)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("declared", [0, 10, 10**6])
def test_a_member_whose_size_is_a_lie_cannot_be_read(tmp_path, declared):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mid", melody(range(40, 80)))
    path = with_declared_size(tmp_path / "x.zip", declared)
    with Reader(str(path)) as reader:
        try:
            data = reader.read("a.mid", limit=10**7)
        except UserError as error:
            assert "a.mid: cannot be read" in str(error)
        else:
            # At most what was declared and what is there; the decoder says that the rest is missing.
            assert len(data) <= declared


def test_more_members_than_allowed_are_rejected(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "x.zip", {f"{number}.mid": b"" for number in range(40)})
    monkeypatch.setattr(corpus_module, "MAX_MEMBERS", 39)
    with pytest.raises(UserError, match="holds 40 members, more than the 39 allowed"):
        find_corpus(str(path))
    # Before the directory is read at all, if it is longer than that of any archive allowed.
    monkeypatch.setattr(corpus_module, "_MAX_ZIP_DIRECTORY_BYTES", 40 * 46)
    with pytest.raises(UserError, match="its directory claims"):
        find_corpus(str(path))


def test_a_metadata_csv_without_end_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_MAX_CSV_BYTES", len(CSV.encode()) - 1)
    write_zip(tmp_path / "x.zip", {**FILES, "maestro.csv": CSV.encode()})
    with pytest.raises(UserError, match=r"maestro\.csv: holds more than"):
        find_corpus(str(tmp_path / "x.zip"))


def test_a_thousand_csvs_are_looked_at_once_each(tmp_path):
    """Of the directories that hold every MIDI file there is one list, not one a CSV."""
    write_corpus(tmp_path, {f"d{number % 9}/{number}.mid": b"" for number in range(3_000)})
    started = time.process_time()
    find_corpus(str(tmp_path))
    without = time.process_time() - started
    write_corpus(tmp_path, {f"d1/{number}.csv": b"a,b\n" for number in range(1_000)})
    started = time.process_time()
    find_corpus(str(tmp_path))
    assert time.process_time() - started < 10 * without + 0.5
