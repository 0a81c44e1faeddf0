import json
import re
import time
import unicodedata

import pytest

from beam_preprocess.corpus import find_corpus
from beam_preprocess.corpus.listing import list_input
from beam_preprocess.corpus.metadata import find_metadata
from sostenuto.errors import UserError
from tests.beam_preprocess.corpus.reading import contents
from tests.factories import MAESTRO_CSV, MAESTRO_FILES, melody, write_files, write_zip


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


def test_files_that_the_csv_does_not_list_are_left_out_and_counted(maestro):
    write_files(maestro, {"2018/extra.midi": melody([70]), "other.mid": melody([71])})
    corpus = find_corpus(str(maestro))
    assert (len(corpus.files), corpus.unlisted) == (4, 2)


def test_a_csv_from_elsewhere_and_none(maestro, tmp_path):
    own = maestro / "maestro-v9.0.0.csv"
    elsewhere = write_files(tmp_path, {"mine.csv": own.read_bytes().replace(b"validation", b"train")}) / "mine.csv"
    corpus = find_corpus(str(maestro), metadata=str(elsewhere), split_fractions=(0.9, 0, 0.1))
    assert {file.split for file in corpus.files} == {"train", "test"}
    # Also with the parent as input: the CSV defines the root.
    assert contents(
        find_corpus(str(maestro.parent), metadata=str(elsewhere), split_fractions=(0.9, 0, 0.1))
    ) == contents(corpus)
    without = find_corpus(str(maestro), metadata="none")
    assert without.metadata is None
    assert {file.composer for file in without.files} == {""}


def test_the_columns_may_come_in_any_order_with_others_and_a_byte_order_mark(tmp_path):
    rows = "split,duration,midi_filename,extra\ntrain,1,a.mid,x\nvalidation,1,b.mid,\ntest,1,c.mid,y\n"
    files = {f"{name}.mid": melody([60]) for name in "abc"}
    corpus = find_corpus(str(write_files(tmp_path, {**files, "m.csv": b"\xef\xbb\xbf" + rows.encode()})))
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
        ("2006/two.midi", "./2004/one.midi", "names 2004/one.midi more than once"),
        (",test,", ",tset,", "line 5 has split 'tset'"),
        (",2004,", ",MMIV,", "line 3 has year 'MMIV'"),
        ("Liszt,Mazeppa,test", "Liszt,Mazeppa,train", "test split would be empty"),
    ],
)
def test_an_invalid_csv_is_rejected(maestro, old, new, message):
    path = maestro / "maestro-v9.0.0.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        find_corpus(str(maestro))


def test_two_csvs_need_metadata(maestro):
    write_files(maestro, {"second.csv": MAESTRO_CSV.encode(), "unrelated.csv": b"a,b\n1,2\n"})
    with pytest.raises(UserError, match=r"2 metadata CSVs \(maestro-v9\.0\.0\.csv, second\.csv\)"):
        find_corpus(str(maestro))
    assert find_corpus(str(maestro), metadata=str(maestro / "second.csv")).metadata == "second.csv"


def test_a_named_csv_without_the_columns_is_rejected(maestro):
    write_files(maestro, {"bad.csv": b"a,b\n1,2\n"})
    with pytest.raises(UserError, match="lacks a column of midi_filename, split"):
        find_corpus(str(maestro), metadata=str(maestro / "bad.csv"))


UNREADABLE_CSVS = {"lone returns": b"a,b\r1,2\r", "huge field": b"a," + b"x" * 200_000 + b"\n"}


# A metadata CSV as other programs save it, and the reason why it cannot be used.
UNUSABLE = {
    "semicolons": (lambda text: text.replace(",", ";").encode(), "separates its columns by ';', expected ','"),
    "tabs": (lambda text: text.replace(",", "\t").encode(), r"separates its columns by '\\t', expected ','"),
    "UTF-16": (lambda text: text.encode("utf-16"), "it is in UTF-16"),
    "UTF-16 without mark": (lambda text: text.encode("utf-16-be"), "it is in UTF-16"),
    "Latin-1": (lambda text: text.encode("latin-1"), "not a CSV in UTF-8"),
    "sep": (lambda text: f"sep=,\n{text}".encode(), "begins with the line 'sep=,'"),
    "sep and semicolons": (lambda text: f"SEP=;\n{text}".replace(",", ";").encode(), "begins with the line 'SEP=;'"),
    "capitals": (
        lambda text: text.replace("midi_filename", "MIDI_Filename").encode(),
        "and split as spelled",
    ),
    "spaces": (lambda text: text.replace("split,", "split ,").encode(), "and split as spelled"),
    "words": (
        lambda text: text.replace("midi_filename", "midi filename").encode(),
        "and split as spelled",
    ),
    "lone returns": (lambda text: text.replace("\n", "\r").encode(), "its lines end with CR"),
    "no file names": (lambda text: text.replace("midi_filename", "file").encode(), "lacks a column of midi_filename"),
}


@pytest.mark.parametrize(("change", "reason"), UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("extension", ["csv", "CSV"])
def test_a_metadata_csv_in_another_form_is_refused_and_not_passed_over(maestro, change, reason, extension):
    """Without it, pieces of the training split would also be in the test split."""
    (maestro / "maestro-v9.0.0.csv").unlink()
    path = maestro / f"m.{extension}"
    path.write_bytes(change(MAESTRO_CSV))
    for uri, metadata in ((maestro, None), (f"{maestro}/*/*.midi", None), (maestro.parent, str(path))):
        with pytest.raises(UserError, match=rf"m\.{extension}: .*{reason}.* --metadata=none"):
            find_corpus(str(uri), metadata=metadata)
    corpus = find_corpus(str(maestro), metadata="none")
    assert (len(corpus.files), corpus.metadata) == (4, None)
    # A usable one is used, whatever is next to it.
    write_files(maestro, {"usable.csv": MAESTRO_CSV.encode()})
    assert find_corpus(str(maestro)).metadata == "usable.csv"


def test_maestros_json_alone_is_refused(maestro):
    columns = {
        "canonical_title": {"0": "x" * 200_000},
        "split": {"0": "train"},
        "midi_filename": {"0": "2004/one.midi"},
    }
    write_files(maestro, {"maestro.json": json.dumps(columns).encode(), "other.json": b'{"midi": 1}'})
    assert find_corpus(str(maestro)).metadata == "maestro-v9.0.0.csv"
    (maestro / "maestro-v9.0.0.csv").unlink()
    with pytest.raises(UserError, match=r"maestro\.json: is JSON, expected MAESTRO's CSV.*--metadata=none"):
        find_corpus(str(maestro))


@pytest.mark.parametrize(
    "second", ["./2004/one.midi", "2004//one.midi", "2004/../2004/one.midi", "2004\\one.midi", "2004/./one.midi"]
)
def test_a_performance_that_a_csv_names_in_two_spellings_is_refused(maestro, second):
    """It would be in two splits."""
    path = maestro / "maestro-v9.0.0.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("2006/three.midi", second), encoding="utf-8")
    with pytest.raises(UserError, match="more than once, by line 5 again"):
        find_corpus(str(maestro))


def test_a_csv_with_backslashes_names_the_same_files_pieces_and_directories(maestro):
    path = maestro / "maestro-v9.0.0.csv"
    expected = find_corpus(str(maestro), composer_from="directory")
    path.write_text(re.sub(r"(\d{4})/", r"\1\\", path.read_text(encoding="utf-8")), encoding="utf-8")
    assert "2006\\three.midi" in path.read_text(encoding="utf-8")
    found = find_corpus(str(maestro), composer_from="directory")
    assert found.files == expected.files
    assert {"2004", "2006"} < {file.composer for file in found.files}


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_composed_in_the_csv_and_decomposed_on_the_disk_are_the_same(tmp_path, in_table, on_disk):
    rows = "midi_filename,split\nétude/é.mid,train\nb.mid,validation\nc.mid,test\n"
    files = {unicodedata.normalize(on_disk, name): melody([60]) for name in ("étude/é.mid", "b.mid", "c.mid")}
    write_files(tmp_path, {**files, "m.csv": unicodedata.normalize(in_table, rows).encode()})
    for uri in (tmp_path, f"{tmp_path}/**/*.mid"):
        corpus = find_corpus(str(uri))
        assert [file.split for file in corpus.files] == ["validation", "test", "train"]
    # A file that the pattern does not match exists in its other spelling.
    assert len(find_corpus(f"{tmp_path}/[bc].mid", split_fractions=(0, 0.5, 0.5)).files) == 2


def test_a_year_of_twenty_digits_is_refused(maestro):
    path = maestro / "maestro-v9.0.0.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("2018,2018", f"{'9' * 20},2018"), encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2 has year '9{20}'"):
        find_corpus(str(maestro))


@pytest.mark.parametrize("stray", UNREADABLE_CSVS.values(), ids=UNREADABLE_CSVS)
def test_a_stray_csv_that_cannot_be_parsed_is_no_metadata(maestro, stray):
    write_files(maestro, {"stray.csv": stray})
    assert find_corpus(str(maestro)).metadata == "maestro-v9.0.0.csv"
    with pytest.raises(UserError, match=r"stray\.csv: not a CSV in UTF-8"):
        find_corpus(str(maestro), metadata=str(maestro / "stray.csv"))


def test_a_metadata_csv_that_is_too_large_is_rejected(tmp_path):
    listing = list_input(str(write_zip(tmp_path / "x.zip", {**MAESTRO_FILES, "maestro.csv": MAESTRO_CSV.encode()})))
    with pytest.raises(UserError, match=r"maestro\.csv: holds more than"):
        find_metadata(None, listing, max_bytes=len(MAESTRO_CSV.encode()) - 1)


def test_a_thousand_csvs_are_looked_at_once_each(tmp_path):
    """Of the directories that hold every MIDI file there is one list, not one a CSV."""
    write_files(tmp_path, {f"d{number % 9}/{number}.mid": b"" for number in range(3_000)})
    started = time.process_time()
    find_corpus(str(tmp_path))
    without = time.process_time() - started
    write_files(tmp_path, {f"d1/{number}.csv": b"a,b\n" for number in range(1_000)})
    started = time.process_time()
    find_corpus(str(tmp_path))
    assert time.process_time() - started < 10 * without + 0.5
