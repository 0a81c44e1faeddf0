"""Reading of a workdir for its page."""

import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.factories import write_dataset, write_run
from trainer.reporting.load import find_continuable_split, load_report
from trainer.reporting.page import write


def test_a_line_that_a_kill_cut_short_is_left_out(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"train_step": 21')
    assert load_report(str(directory)).records[-1].train_step == 200


@pytest.mark.parametrize("metrics", [None, ""])
def test_a_workdir_without_reports_is_refused(dataset, tmp_path, metrics):
    directory = write_run(tmp_path / "w", dataset)
    (directory / "metrics.jsonl").unlink()
    if metrics is not None:
        (directory / "metrics.jsonl").write_text(metrics)
    with pytest.raises(UserError, match=r"nothing was trained in it yet.*sostenuto train"):
        write(str(directory))
    assert not (directory / "report.html").exists()


def test_what_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no workdir"):
        write(str(tmp_path))


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_corrupt_shard_is_named_and_not_taken_for_short_pieces(tmp_path, capsys, damage):
    data = write_dataset(tmp_path / "data", {"train": [300], "validation": [30, 30], "test": [3000, 3000]})
    shard = data / "test-00000-of-00001.tfrecord"
    if damage == "flip":
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    else:
        shard.unlink()
    assert find_continuable_split(Manifest.load(data)) == "test"
    assert "test-00000-of-00001.tfrecord: " in capsys.readouterr().err
