"""The part of this process in a search: alone, as chief or as worker."""

import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sostenuto import progress, storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import FileError, UserError
from sostenuto.text import counted
from trainer.workdir.layout import METRICS_NAME
from tuning import artifacts, console
from tuning.roles import Role
from tuning.space import Space
from tuning.study import Study, fingerprint
from tuning.summary import StudySummary, last_failure
from tuning.trial import StudyConfig, Trial, TrialStatus
from tuning.worker import Worker

if TYPE_CHECKING:
    from tuning.rpc import StudyClient, WorkerRegistry

logger = logging.getLogger(__name__)

EXIT_NO_WORKER = os.EX_TEMPFAIL

_POLL_SECONDS = 1.0
_GOODBYE_SECONDS = 15.0  # for which the chief of an ended study still answers workers


@dataclasses.dataclass
class Search:
    """A search in a workdir."""

    space: Space
    config: StudyConfig
    manifest: Manifest
    workdir: str
    quiet: bool = False  # shows only errors
    retrain: bool = False  # whether `retrain_best` follows

    def alone(self, role: Role, *, overwrite: bool) -> int:
        """Runs the study and its trials in one process; returns the exit status."""
        with self._open(overwrite) as study:
            with self._updates(study):
                status = self._worker(study, role, quiet=True).run()
            if status:
                logger.info("interrupted: run the same command to resume the study")
            else:
                self._finish(study)
            return status

    def chief(self, role: Role, *, overwrite: bool, max_idle: float) -> int:
        """Runs the study for workers until `max_idle` seconds without a call; returns the exit status."""
        from tuning import rpc

        with self._open(overwrite) as study, rpc.serve(study, role.address) as workers:
            trials = self.config.max_trials
            figures = {"address": role.address, "max_trials": trials}
            logger.info(f"chief: listening on {role.address}, {counted(trials, 'trial')}", extra={"figures": figures})
            with self._updates(study):
                while not study.is_done:
                    time.sleep(_POLL_SECONDS)
                    with contextlib.suppress(FileError):  # While the bucket does not answer, nothing is lost.
                        study.lock.check_held()
                    if workers.idle_seconds > max_idle:
                        logger.error(
                            f"chief: no worker called for {max_idle:.0f} s. Start workers, then run the same command "
                            "to resume the study",
                            extra={"figures": {"exit_status": EXIT_NO_WORKER}},
                        )
                        return EXIT_NO_WORKER
            self._finish(study, workers)
        return 0

    def worker(self, role: Role, *, patience: float) -> int:
        """Trains the trials of a chief, absent for at most `patience` seconds; returns the exit status."""
        from tuning import rpc

        with rpc.StudyClient(role.address, fingerprint(self.space, self.config), patience=patience) as client:
            return self._worker(client, role, quiet=False).run()

    def retrain_best(self) -> int:
        """Trains the best config at full length with the trainer's command; returns its exit status."""
        command = [sys.executable, "-m", "trainer", *self._summarize([]).train_flags]
        command += ["--quiet"] * self.quiet + ["--log_json"] * progress.has_json_lines()
        # A process of its own, since TensorFlow in this one may hold the devices' memory.
        process = subprocess.Popen(command)
        handler = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                with contextlib.suppress(KeyboardInterrupt):  # The terminal interrupts the process as well; it saves.
                    return process.wait()
        finally:
            signal.signal(signal.SIGTERM, handler)

    def _worker(self, source: "Study | StudyClient", role: Role, *, quiet: bool) -> Worker:
        return Worker(source, role.worker, self.space, self.config, self.manifest, self.workdir, quiet)

    @contextlib.contextmanager
    def _open(self, overwrite: bool) -> Iterator[Study]:
        with Study(self.workdir, self.space, self.config, overwrite=overwrite) as study:
            if overwrite:
                artifacts.remove(self.workdir, study.lock)
            yield study

    @contextlib.contextmanager
    def _updates(self, study: Study) -> Iterator[None]:
        """Updates the result files and the terminal in a thread."""
        stop = threading.Event()

        def update() -> None:
            written = None
            with console.Progress() as shown:
                while True:
                    is_last = stop.wait(_POLL_SECONDS)
                    summary = self._summarize(study.trials())
                    ended = [trial for trial in summary.trials if not trial.is_open]
                    if ended != written:
                        # A failed write is repeated; at the end, `_finish` reports the failure.
                        with contextlib.suppress(UserError):
                            artifacts.write(summary, study.lock)
                            written = ended
                    shown.show(summary)
                    if is_last:
                        return

        thread = threading.Thread(target=update, name="results", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _summarize(self, trials: Sequence[Trial]) -> StudySummary:
        return StudySummary(trials, self.space, self.config, self.workdir, self.manifest.directory)

    def _finish(self, study: Study, workers: "WorkerRegistry | None" = None) -> None:
        """Writes and prints the final results; raises a UserError if no trial completed."""
        from trainer.reporting import page  # imports packages of the extra "tune", as `artifacts.write` does

        summary = self._summarize(study.trials())
        artifacts.write(summary, study.lock)
        if summary.best is not None:
            trial_workdir = os.path.join(self.workdir, summary.best.directory)
            if storage.exists(os.path.join(trial_workdir, METRICS_NAME)):
                study.lock.check_held(now=True)
                page.write(trial_workdir)
        if not self.quiet:
            print(console.final_report(summary, self.retrain), flush=True)
        # Workers ask again within seconds and exit when they learn that the study has ended.
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while workers and workers.active_workers and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if summary.best is None:
            any_completed = any(trial.status == TrialStatus.COMPLETED for trial in summary.trials)
            raise UserError(
                f"{self.workdir}: no trial {'of the greatest length ' * any_completed}completed, the last one ended "
                f"with: {last_failure(summary.trials)}. "
                "Correct the cause, then pass --overwrite or another --workdir"
            )
