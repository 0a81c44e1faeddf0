"""Outputs that are not as a preprocessing run expects them: what a killed run left, and files of others."""

import pytest

from beam_preprocess.config import Config
from beam_preprocess.preprocess import preprocess
from sostenuto.errors import UserError
from tests.factories import melody, write_files


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    files = {f"{index % 3}/{index}.mid": melody(range(40, 50 + index)) for index in range(12)}
    return str(write_files(tmp_path_factory.mktemp("leftovers") / "corpus", files))


def test_a_run_killed_after_dataset_json_is_tidied_by_the_same_command(corpus, tmp_path):
    config = Config(input=corpus, output=str(tmp_path / "dataset"))
    preprocess(config, quiet=True)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "dataset").iterdir()}
    left = [
        "dataset.json.unfinished",
        "plan.jsonl.tmp-0123456789ab",
        "former-0123456789ab-train-00000-of-00009.tfrecord",
    ]
    for name in left:
        (tmp_path / "dataset" / name).write_bytes(b"")
    preprocess(config, quiet=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "dataset").iterdir()} == whole


def test_a_directory_with_other_files_gets_no_dataset_unless_asked_for(corpus, tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(UserError, match=r"contains thesis\.tex, which is no file of a dataset.*--overwrite"):
        preprocess(Config(input=corpus, output=str(tmp_path)), quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "thesis.tex"]
    preprocess(Config(input=corpus, output=str(tmp_path), overwrite=True), quiet=True)
    assert (tmp_path / "thesis.tex").read_text() == "text"
    assert (tmp_path / "dataset.json").exists()
