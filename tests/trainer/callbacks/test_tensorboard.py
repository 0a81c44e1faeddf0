"""Event files of TensorBoard."""

import resource
from types import SimpleNamespace

import pytest
import tensorflow as tf

from sostenuto.errors import FileError
from trainer.callbacks.tensorboard import TensorBoardWriter
from trainer.engine.schedule import Event
from trainer.presets import preset
from trainer.workdir.formats import MetricsRecord


def start(workdir, reported_step: int) -> TensorBoardWriter:
    writer = TensorBoardWriter()
    run = SimpleNamespace(
        setup=SimpleNamespace(config=preset("base")), workdir=SimpleNamespace(directory=str(workdir)),
        reported_step=reported_step,
    )  # fmt: skip
    writer.on_start(run)
    return writer


def report(train_step: int) -> MetricsRecord:
    return MetricsRecord(
        train_step=train_step, epoch=0.1, loss=1.0, pitch_nll=1.0, learning_rate=0.1, val_nats=3.0, val_pitch_nll=2.0,
        val_step_nll=0.5, val_duration_nll=0.5, notes_per_second=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("directory", ["train", "validation"])
def test_tensorboard_gets_each_report_once_however_often_a_run_is_resumed(tmp_path, directory):
    summaries = tmp_path / "summaries" / directory
    for train_step, reports in ((0, [2, 4, 6]), (4, [6, 8]), (8, [10])):
        writer = start(tmp_path, train_step)
        for number in reports:
            writer.on_step(number, Event.REPORT, report(number))
        writer.close()
        # A kill leaves half an event, too.
        newest = max(summaries.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        newest.write_bytes(newest.read_bytes() + b"half")
    shown = []
    for path in summaries.iterdir():
        for record in tf.data.TFRecordDataset(str(path)).ignore_errors(log_warning=False).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            shown += [event.step for value in event.summary.value if value.tag == "pitch_nll"]
    assert sorted(shown) == [2, 4, 6, 8, 10]


def test_a_full_disk_is_an_error_of_one_line_that_names_the_summaries(tmp_path):
    """A limit on the size of files: a write beyond it fails as on a full disk."""
    writer = start(tmp_path, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(FileError, match=r"/summaries: cannot be written \(.+\)\. Make room, then") as error:
            for _ in range(20):
                writer.on_step(2, Event.REPORT, report(2))
            writer.flush()
        with pytest.raises(FileError), writer.training_summaries():
            tf.summary.image("roll", tf.zeros([1, 200, 200, 3]), step=2)
            writer.flush()
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(str(error.value).splitlines()) == 1
    # The next process continues the run.
    again = start(tmp_path, 0)
    again.on_step(2, Event.REPORT, report(2))
    again.flush()
    again.close()
