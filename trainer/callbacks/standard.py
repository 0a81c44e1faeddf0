"""Callbacks of the `sostenuto train` command and of other callers of `train`."""

from sostenuto.progress import phase
from trainer.callbacks.audio_samples import AudioSamples
from trainer.callbacks.base import Callback
from trainer.callbacks.console import Console
from trainer.callbacks.metrics import MetricsWriter
from trainer.callbacks.profiler import Profiler
from trainer.callbacks.tensorboard import TensorBoardWriter
from trainer.export import export_model
from trainer.reporting import page
from trainer.workdir.formats import RunResult


class Exporter(Callback):
    """Exports the best weights at the end."""

    def on_finish(self, result: RunResult) -> None:
        """Writes export/; raises ShutdownRequested if a signal arrived."""
        with self.run.shutdown.cancellable(), phase("exporting the best weights"):
            export_model(self.run.workdir.directory)


class PageWriter(Callback):
    """Writes the report's page at the end."""

    def on_finish(self, result: RunResult) -> None:
        """Writes report.html; raises ShutdownRequested if a signal arrived."""
        with self.run.shutdown.cancellable(), phase("writing the report's page"):
            page.write(self.run.workdir.directory, named=self.run.workdir.name, result=result)


def report_writers() -> list[Callback]:
    """Returns the callbacks that report the metrics: metrics.jsonl, TensorBoard and the console."""
    return [MetricsWriter(), TensorBoardWriter(), Console()]


def command_callbacks(*, num_samples: int, profile: bool) -> list[Callback]:
    """Returns the callbacks of the command; `num_samples` 0 renders none, `profile` writes a trace."""
    tensorboard = TensorBoardWriter()
    samples = [AudioSamples(tensorboard, num_samples)] if num_samples else []
    profilers = [Profiler(tensorboard)] if profile else []
    return [MetricsWriter(), tensorboard, Console(), Exporter(), *samples, *profilers, PageWriter()]
