"""Reports of a run for TensorBoard."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import tensorflow as tf

from sostenuto import storage
from sostenuto.data.tfrecord import parse_records, write_records
from sostenuto.errors import RecordError
from trainer.callbacks.base import Callback, RunContext
from trainer.checkpoints.tensorflow_errors import translate_errors
from trainer.engine.schedule import Event
from trainer.presets import preset
from trainer.workdir.formats import MetricsRecord
from trainer.workdir.layout import SUMMARIES_NAME

_MAIN_HYPERPARAMETERS = ("preset", "seq_length", "units", "layers", "dropout", "batch_size", "learning_rate")


class TensorBoardWriter(Callback):
    """Writes scalars and hyperparameters. A resumed run removes the summaries that it repeats."""

    def on_start(self, run: RunContext) -> None:
        """Removes the summaries that the run repeats, and opens the writers."""
        super().on_start(run)
        self.directory = os.path.join(run.workdir.directory, SUMMARIES_NAME)
        for name in storage.list_files(self.directory) if storage.is_directory(self.directory) else ():
            if "tfevents" in name:
                _truncate(os.path.join(self.directory, name), run.reported_step)
        # TensorBoard draws the scalars of one name in one chart, with a line for each directory.
        with translate_errors(self.directory):
            self._writer, self._validation_writer = (
                tf.summary.create_file_writer(os.path.join(self.directory, name)) for name in ("train", "validation")
            )
            self._write_hyperparameters()

    def on_step(self, train_step: int, events: Event, metrics: MetricsRecord | None) -> None:
        """Writes a report's scalars."""
        if metrics is None:
            return
        for writer, scalars in zip((self._writer, self._validation_writer), _split(metrics), strict=True):
            with translate_errors(self.directory), writer.as_default():
                for name, value in scalars.items():
                    tf.summary.scalar(name, value, step=train_step)

    def flush(self) -> None:
        """Writes the summaries to disk; raises FileError if that fails."""
        with translate_errors(self.directory):
            self._writer.flush()
            self._validation_writer.flush()

    @contextlib.contextmanager
    def training_summaries(self) -> Iterator[None]:
        """Writes the summaries of another callback to the file of training; raises FileError if that fails."""
        with translate_errors(self.directory), self._writer.as_default():
            yield

    def close(self) -> None:
        """Closes the writers; what a finished run needs was flushed before."""
        for writer in (self._writer, self._validation_writer):
            with contextlib.suppress(tf.errors.OpError):
                writer.close()

    def _write_hyperparameters(self) -> None:
        """Writes a row of TensorBoard's table: the main hyperparameters, and those that differ from the preset's."""
        from tensorboard.plugins.hparams import api

        config = dataclasses.asdict(self.run.setup.config)
        defaults = dataclasses.asdict(preset(self.run.setup.config.preset))
        changed = {name for name, value in config.items() if value != defaults[name]}
        shown = {name: value for name, value in config.items() if name in changed.union(_MAIN_HYPERPARAMETERS)}
        # The metrics of a row are the scalars of the same directory. The table's columns are not written, because
        # TensorBoard would take those of one run for all runs.
        with self._validation_writer.as_default():
            api.hparams(shown)


def _truncate(path: str, train_step: int) -> None:
    """Removes the summaries after a train_step from an event file, and a record that a kill cut short."""
    from tensorboard.compat.proto.event_pb2 import Event as SummaryEvent

    kept, is_cut = [], False
    try:
        for record in parse_records(storage.read_bytes(path), path):
            if SummaryEvent.FromString(record).step <= train_step:
                kept.append(record)
            else:
                is_cut = True
    except RecordError:
        is_cut = True
    if is_cut:
        with storage.atomic_write(path) as file:
            write_records(file, kept)


def _split(metrics: MetricsRecord) -> tuple[dict[str, float], dict[str, float]]:
    """Splits a report into scalars of training and of validation, under the same names if both have a value."""
    values = metrics.to_json()
    training = {name: value for name, value in values.items() if not name.startswith("val_") and name != "train_step"}
    validation = {name.removeprefix("val_"): value for name, value in values.items() if name.startswith("val_")}
    return training if metrics.nats is None else {**training, "nats": metrics.nats}, validation
