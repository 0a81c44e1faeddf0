"""Products of a finished run: the export and the report's page."""

from trainer.callbacks.base import Callback
from trainer.export import export_model
from trainer.reporting import page
from trainer.workdir.formats import RunResult


class Exporter(Callback):
    """Exports the best weights at the end."""

    def on_finish(self, result: RunResult) -> None:
        """Writes export/.

        Raises:
            ShutdownRequested: a signal arrived.
        """
        with self.run.shutdown.cancellable(), self.run.phase("exporting the best weights"):
            export_model(self.run.directory)


class PageWriter(Callback):
    """Writes the report's page at the end."""

    def on_finish(self, result: RunResult) -> None:
        """Writes report.html.

        Raises:
            ShutdownRequested: a signal arrived.
        """
        with self.run.shutdown.cancellable(), self.run.phase("writing the report's page"):
            page.write(self.run.directory, named=self.run.workdir, result=result)
