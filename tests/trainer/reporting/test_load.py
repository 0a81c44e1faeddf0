"""Reading of a workdir for its page."""

import pytest

from sostenuto.errors import UserError
from tests.factories import write_run
from trainer.reporting.load import load_report
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
