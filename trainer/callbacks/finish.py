"""Products of a finished run: the export and the report's page."""

from trainer.callbacks.base import Callback
from trainer.engine.phase import phase
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
