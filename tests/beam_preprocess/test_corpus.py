import os
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_preprocess.corpus import Reader, assign_splits, find_corpus
from notes.errors import UserError
from notes.manifest import SPLITS
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
def test_a_csv_that_cannot_be_followed_is_refused(maestro, old, new, message):
    path = maestro / "maestro-v9.0.0.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        find_corpus(str(maestro))


def test_two_csvs_want_a_choice(maestro):
    write_corpus(maestro, {"second.csv": CSV.encode(), "unrelated.csv": b"a,b\n1,2\n"})
    with pytest.raises(UserError, match=r"2 metadata CSVs \(maestro-v9\.0\.0\.csv, second\.csv\)"):
        find_corpus(str(maestro))
    assert find_corpus(str(maestro), metadata=str(maestro / "second.csv")).metadata == "second.csv"


def test_a_named_csv_without_the_columns_is_refused(maestro):
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


def test_input_without_midi_is_refused(tmp_path):
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


def test_too_few_pieces_for_the_splits_are_refused(tmp_path):
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
