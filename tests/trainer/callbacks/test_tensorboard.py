"""Event files of TensorBoard."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from trainer.callbacks.tensorboard import TensorBoardWriter
from trainer.engine.schedule import Event
from trainer.presets import preset
from trainer.workdir.formats import MetricsRecord


@pytest.mark.parametrize("directory", ["train", "validation"])
def test_tensorboard_gets_each_report_once_however_often_a_run_is_resumed(tmp_path, directory):
    summaries = tmp_path / "summaries" / directory
    for train_step, reports in ((0, [2, 4, 6]), (4, [6, 8]), (8, [10])):
        writer = TensorBoardWriter()
        setup, workdir = SimpleNamespace(config=preset("base")), SimpleNamespace(directory=str(tmp_path))
        writer.on_start(SimpleNamespace(setup=setup, workdir=workdir, reported_step=train_step))
        for number in reports:
            report = MetricsRecord(
                train_step=number,
                epoch=0.1,
                loss=1.0,
                pitch_nll=1.0,
                learning_rate=0.1,
                val_nats=3.0,
                val_pitch_nll=2.0,
                notes_per_second=1.0,
            )
            writer.on_step(number, Event.REPORT, report)
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
