"""metrics.jsonl of a run that is resumed."""

import json
from types import SimpleNamespace

import pytest

from sostenuto.errors import UserError
from trainer.callbacks.metrics import MetricsWriter
from trainer.engine.schedule import Event
from trainer.workdir.formats import MetricsRecord


def started(directory, reported_step: int) -> MetricsWriter:
    writer = MetricsWriter()
    writer.on_start(SimpleNamespace(workdir=SimpleNamespace(directory=str(directory)), reported_step=reported_step))
    return writer


def report(train_step: int) -> MetricsRecord:
    return MetricsRecord(train_step=train_step, epoch=0.1, loss=1.0, learning_rate=0.1, notes_per_second=1.0)


def train_steps(directory) -> list[int]:
    return [json.loads(line)["train_step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_writes_each_report_once(tmp_path):
    for reported_step, reports in ((0, [2, 4, 6]), (4, [6, 8]), (8, [10])):
        writer = started(tmp_path, reported_step)
        for number in reports:
            writer.on_step(number, Event.REPORT, report(number))
        writer.on_step(reports[-1], Event.CHECKPOINT, None)
        writer.flush()
        # A kill leaves half a line.
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"train_step": 1')
    started(tmp_path, 10)
    assert train_steps(tmp_path) == [2, 4, 6, 8, 10]


def test_a_line_that_lost_only_its_end_is_kept(tmp_path):
    lines = "".join(report(number).to_line() for number in (1, 2))
    (tmp_path / "metrics.jsonl").write_text(lines.removesuffix("\n"))
    started(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"train_step": "x"}', b"\xff", b"", b"\0\0"])
def test_a_damaged_line_before_the_last_one_is_named_and_nothing_is_changed(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line + b"\n" + report(2).to_line().encode())
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: .*\. Delete the line$"):
        started(tmp_path, 2)
    assert path.read_bytes() == before
