"""Writer of metrics.jsonl: a line per report, with the fields of `trainer.workdir.formats.MetricsRecord`.

A new field is declared there and computed in `trainer.engine.measurements`.
"""

import os

from sostenuto import storage
from sostenuto.errors import UserError
from trainer.callbacks.base import Callback, RunContext
from trainer.engine.schedule import Event
from trainer.workdir.formats import MetricsRecord
from trainer.workdir.layout import METRICS_NAME


class MetricsWriter(Callback):
    """Appends each report to metrics.jsonl. A resumed run removes the reports that it repeats."""

    def on_start(self, run: RunContext) -> None:
        """Removes the reports that the run repeats."""
        super().on_start(run)
        self._path = os.path.join(run.workdir.directory, METRICS_NAME)
        if not storage.exists(self._path):
            return
        before = storage.read_bytes(self._path)
        lines = MetricsRecord.parse_lines(before, self._path)
        kept = b"".join(line + b"\n" for line, record in lines if record.train_step <= run.reported_step)
        if kept != before:
            storage.write_bytes_atomic(self._path, kept)

    def on_step(self, train_step: int, events: Event, metrics: MetricsRecord | None) -> None:
        """Appends a report; raises UserError if the file cannot be written."""
        if metrics is None:
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(metrics.to_line())
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written ({error.strerror}). Make room, then repeat the command"
            ) from error

    def flush(self) -> None:
        """Waits until the reports are on disk."""
        if storage.exists(self._path):
            storage.sync(self._path)
