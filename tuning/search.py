"""A search as this process takes part in it: alone, as the chief that leads, or as a worker that trains."""

import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from sostenuto.progress import has_json_lines
from trainer.config import Config
from trainer.reporting import page
from trainer.workdir.layout import METRICS_NAME
from tuning import summary
from tuning.roles import Role
from tuning.space import Space
from tuning.study import Study, StudyConfig, fingerprint
from tuning.worker import work

logger = logging.getLogger(__name__)

BEST_NAME = "best"

EXIT_NO_WORKER = 75  # EX_TEMPFAIL of sysexits.h: the user is invited to try again

_LOOK_SECONDS = 1.0  # between two looks at what has changed
_FAREWELL_SECONDS = 15.0  # for which a chief whose study is done still tells workers so


class Search:
    """A search in a workdir.

    Args:
        space: what is searched.
        start: the config that all trials vary.
        settings: how it is searched.
        manifest: the dataset.
        workdir: the study's.
        quiet: shows nothing but errors.
    """

    def __init__(
        self, space: Space, start: Config, settings: StudyConfig, manifest: Manifest, workdir: str, *, quiet: bool
    ) -> None:
        self._space, self._start, self._settings = space, start, settings
        self._manifest, self._workdir, self._quiet = manifest, workdir, quiet
        self._work = functools.partial(
            work,
            space=space,
            start=start,
            settings=settings,
            manifest=manifest,
            workdir=workdir,
        )

    def alone(self, role: Role, *, overwrite: bool) -> int:
        """Leads and trains in one process; returns the exit status."""
        with self._opened(overwrite) as study:
            with self._shown(study):
                status = self._work(study, role.worker, quiet=True)
            if status:
                self._say("told to end: the same command goes on with the study")
            else:
                self._conclude(study)
                self._require_best(study)
            return status

    def chief(self, role: Role, *, overwrite: bool, max_idle: float) -> int:
        """Leads, and trains nothing; returns the exit status.

        Args:
            role: where to listen.
            overwrite: begins anew.
            max_idle: seconds without a word from any worker after which it gives up.
        """
        from tuning import rpc

        with self._opened(overwrite) as study, rpc.serve(study, role.address) as calls:
            trials = self._settings.max_trials
            self._say(f"chief: listening on {role.address}, {trials} trials", address=role.address, max_trials=trials)
            with self._shown(study):
                while not study.is_done:
                    time.sleep(_LOOK_SECONDS)
                    if calls.silent_seconds > max_idle:
                        logger.error(
                            f"chief: heard of no worker for {max_idle:.0f} s: start workers and then the same command, "
                            "which goes on with the study",
                            extra={"figures": {"exit_status": EXIT_NO_WORKER}},
                        )
                        return EXIT_NO_WORKER
            self._conclude(study)
            # Workers ask again within seconds, and leave when they are told that it is over.
            given_up = time.monotonic() + _FAREWELL_SECONDS
            while calls.untold_workers and time.monotonic() < given_up:
                time.sleep(_LOOK_SECONDS)
            self._require_best(study)
        return 0

    def worker(self, role: Role, *, patience: float) -> int:
        """Trains what a chief gives out; returns the exit status.

        Args:
            role: where the chief is, and who this is.
            patience: seconds for which it waits for a chief that is away.
        """
        from tuning import rpc

        identity = fingerprint(self._space, self._start, self._settings)
        with rpc.StudyClient(role.address, identity, patience=patience) as client:
            return self._work(client, role.worker, quiet=self._quiet)

    def retrain_best(self, data: str) -> int:
        """Trains the best config at full length, by the trainer's own command; returns its exit status."""
        config = os.path.join(self._workdir, summary.BEST_CONFIG_NAME)
        workdir = os.path.join(self._workdir, BEST_NAME)
        command = [sys.executable, "-m", "trainer", f"--data={data}", f"--workdir={workdir}", f"--config={config}"]
        # A process of its own: this one's TensorFlow, if it has any, may hold the devices' memory.
        manner = ["--quiet"] * self._quiet + ["--log_json"] * has_json_lines()
        process = subprocess.Popen([*command, *manner])
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                with contextlib.suppress(KeyboardInterrupt):  # It was told by the terminal as well, and saves.
                    return process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextlib.contextmanager
    def _opened(self, overwrite: bool) -> Iterator[Study]:
        with Study.open(self._workdir, self._space, self._start, self._settings, overwrite=overwrite) as study:
            if overwrite:
                summary.remove(self._workdir)
            yield study

    @contextlib.contextmanager
    def _shown(self, study: Study) -> Iterator[None]:
        """Keeps the files and the terminal up to date in a thread, while another one works."""
        over = threading.Event()

        def look() -> None:
            known = None
            with summary.Progress(quiet=self._quiet) as progress:
                while True:
                    ends = over.wait(_LOOK_SECONDS)
                    standing = self._standing(study)
                    ended = [record for record in standing.trials if not record.is_open]
                    if ended != known:
                        # What cannot be written now may be later; at the end, it is told.
                        with contextlib.suppress(UserError):
                            summary.write(standing, self._workdir)
                            known = ended
                    progress.show(standing)
                    if ends:
                        return

        thread = threading.Thread(target=look, name="results", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _standing(self, study: Study) -> summary.StudySummary:
        return summary.StudySummary(study.trials(), self._space, self._start, self._settings)

    def _conclude(self, study: Study) -> None:
        """Writes the results for the last time, and tells them."""
        standing = self._standing(study)
        summary.write(standing, self._workdir)
        if standing.best is not None:
            trial = os.path.join(self._workdir, standing.best.directory)
            if storage.exists(os.path.join(trial, METRICS_NAME)):
                page.write(trial)
        if not self._quiet:
            print(summary.final_table(standing))
            print(os.path.join(self._workdir, summary.REPORT_NAME))

    def _require_best(self, study: Study) -> None:
        """Checks that a study that is done has found something.

        Raises:
            UserError: no trial completed.
        """
        if study.best() is None:
            raise UserError(
                f"{self._workdir}: no trial completed, and the last one ended with: {study.trials()[-1].reason}: put "
                "that right, then give --overwrite or another workdir"
            )

    def _say(self, line: str, **figures: Any) -> None:
        if not self._quiet:
            logger.info(line, extra={"figures": figures})
