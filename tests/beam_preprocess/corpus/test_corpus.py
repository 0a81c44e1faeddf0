import pytest

from beam_preprocess.corpus import find_corpus
from sostenuto.data.manifest import SPLITS
from sostenuto.errors import UserError
from tests.beam_preprocess.corpus.reading import contents
from tests.factories import MAESTRO_CSV, MAESTRO_FILES, melody, write_files, write_zip


@pytest.mark.parametrize("csv", [MAESTRO_CSV.encode(), None], ids=["csv", "no csv"])
def test_directory_its_parent_glob_and_zip_hold_the_same(tmp_path, csv):
    files = {**MAESTRO_FILES, **({"maestro.csv": csv} if csv else {})}
    directory = write_files(tmp_path / "in" / "top", files)
    zipped = write_zip(tmp_path / "top.zip", files, top="top/")
    flat = write_zip(tmp_path / "flat.zip", files)
    expected = contents(find_corpus(str(directory)))
    assert len(expected) == 4
    for uri in (directory.parent, zipped, flat, f"{directory}/*/*.midi", f"{directory.parent}/**/*.midi"):
        assert contents(find_corpus(str(uri))) == expected


def test_one_midi_file_is_a_corpus_if_empty_splits_are_asked_for(tmp_path):
    path = write_files(tmp_path, {"a.mid": melody([60])}) / "a.mid"
    (file,) = find_corpus(str(path), split_fractions=(1, 0, 0)).files
    assert (file.path, file.split) == ("a.mid", "train")


def test_directories_as_pieces_stay_within_a_split(tmp_path):
    write_files(tmp_path, {f"piece{number}/{take}.mid": melody([60]) for number in range(12) for take in range(3)})
    files = find_corpus(str(tmp_path), piece_from="directory").files
    splits = {}
    for file in files:
        splits.setdefault(file.piece, set()).add(file.split)
    assert len(splits) == 12
    assert all(len(piece_splits) == 1 for piece_splits in splits.values())
    assert set.union(*splits.values()) == set(SPLITS)


def test_too_few_pieces_for_the_splits_are_rejected(tmp_path):
    write_files(tmp_path, {"a.mid": melody([60]), "b.mid": melody([60])})
    with pytest.raises(UserError, match="would be empty: 2 files are too few"):
        find_corpus(str(tmp_path))
    assert len(find_corpus(str(tmp_path), split_fractions=(0.5, 0.5, 0)).files) == 2


def test_one_directory_is_one_piece(tmp_path):
    write_files(tmp_path, {f"piece/{take}.mid": melody([60]) for take in range(10)})
    with pytest.raises(
        UserError, match=r"1 piece \(with --piece_from=directory, each directory is a piece\) is too few"
    ):
        find_corpus(str(tmp_path), piece_from="directory")


def test_composers_may_come_from_another_column_or_the_directory(tmp_path):
    write_files(tmp_path, {f"{style}/{take}.mid": melody([60]) for style in ("rag", "waltz") for take in range(3)})
    rows = [
        f"{style}/{take}.mid,{split},Joplin,Piece {take},{style} time"
        for style in ("rag", "waltz")
        for take, split in enumerate(SPLITS)
    ]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["midi_filename,split,canonical_composer,canonical_title,genre", *rows]) + "\n")

    def composers(**options):
        files = find_corpus(str(tmp_path), **options).files
        assert {file.piece for file in files} == {f"Joplin: Piece {take}" for take in range(3)}
        return {file.composer for file in files}

    assert composers() == {"Joplin"}
    assert composers(composer_from="genre") == {"rag time", "waltz time"}
    assert composers(composer_from="directory") == {"rag", "waltz"}
    with pytest.raises(
        UserError, match=r"--composer_from=gender: table\.csv has no such column, expected one of .*genre"
    ):
        find_corpus(str(tmp_path), composer_from="gender")
    plain = find_corpus(str(tmp_path), metadata="none", composer_from="directory").files
    assert {(file.composer, file.path) for file in plain} >= {("rag", "rag/0.mid"), ("waltz", "waltz/2.mid")}
    with pytest.raises(UserError, match=r"--composer_from=genre: .* has no metadata CSV .*--metadata"):
        find_corpus(str(tmp_path), metadata="none", composer_from="genre")
