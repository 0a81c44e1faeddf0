"""Dask as an engine: a connection to a scheduler, the project on all its machines, and a Beam runner that reports.

Beam's own DaskRunner puts 128 elements into one task, takes lost results for done ones, and shows no progress.
"""

import contextlib
import dataclasses
import logging
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import apache_beam
import distributed
from apache_beam.runners.dask.dask_runner import DaskOptions, DaskRunner
from apache_beam.runners.dask.overrides import dask_overrides
from apache_beam.runners.runner import PipelineResult, PipelineState

from beam_preprocess import worker_package
from beam_preprocess.plan import ShardRange
from beam_preprocess.shard_writer import ShardReport, ShardWriter
from sostenuto import storage
from sostenuto.errors import TemporaryError, UserError
from sostenuto.text import counted

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
# Without a result for so long, the workers are counted, and a warning says if there are none.
QUIET_SECONDS = 15.0
LINE_SECONDS = 60.0

_REMEDY = "Start the cluster and run the same command again"

# What must be the same on all machines: they exchange pickles.
_PACKAGES = ("apache_beam", "cloudpickle", "dask", "distributed")


class Cluster:
    """A Dask cluster: its scheduler, and the workers that the scheduler has at a time."""

    def __init__(self, address: str, client: distributed.Client) -> None:
        self.address, self.client = address, client

    def wait_for_worker(self) -> None:
        """Waits until the scheduler has a worker, and says so every minute."""
        while not self.count_workers():
            self.warn_of_no_worker()
            with contextlib.suppress(TimeoutError):
                self.client.wait_for_workers(1, timeout=LINE_SECONDS)

    def warn_of_no_worker(self) -> None:
        """Tells the user that the command waits for workers."""
        logger.warning(f"the Dask scheduler at {self.address} has no worker: waiting for one")

    def share_project(self) -> None:
        """Gives the scheduler and all workers this process's code, also those that join later.

        Raises:
            UserError: a machine has other packages, or imported another version of the project before.
        """
        self._check_packages()
        own = worker_package.code_version()
        versions = self._ask(_import_all)
        if any(_lacks_project(version) for version in versions.values()):
            with tempfile.TemporaryDirectory(prefix="sostenuto-") as directory:
                self.client.upload_file(worker_package.zip_package(directory))
            versions = self._ask(_import_all)
        for machine, version in versions.items():
            if isinstance(version, BaseException):
                raise UserError(f"the Dask {machine} cannot import the project: {version}. Install its requirements")
            if version != own:
                raise UserError(
                    f"the Dask {machine} has sostenuto {version}, this command has {own}. Restart it with this "
                    "version, or without any: this command brings its own"
                )

    def check_path(self, path: str) -> None:
        """Raises a UserError if a worker cannot see a path."""
        for machine, found in self._ask(storage.exists, path, on_scheduler=False).items():
            if isinstance(found, BaseException):
                raise UserError(f"the Dask {machine} cannot look for {path}: {found}") from found
            if not found:
                raise UserError(
                    f"{os.path.dirname(path)}: the Dask {machine} cannot see it. Pass a directory of a file system "
                    "that all workers share, or gs://BUCKET/PATH"
                )

    def run_on_workers(self, function: Any, *arguments: Any) -> None:
        """Calls a function on the workers that can be reached."""
        with contextlib.suppress(Exception):
            self._ask(function, *arguments, on_scheduler=False)

    def count_workers(self) -> int:
        """Returns the number of workers that the scheduler has."""
        return len(self.client.scheduler_info()["workers"])

    def _check_packages(self) -> None:
        """Raises a UserError if a machine has other versions of Python or of packages than this process."""
        found: Any = self.client.get_versions(packages=[*_PACKAGES])
        own = _versions(found["client"])
        for machine, report in [("scheduler", found["scheduler"]), *_named(found["workers"]).items()]:
            for name, version in _versions(report).items():
                if version != own[name]:
                    raise UserError(
                        f"the Dask {machine} has {name} {version or '(none)'}, this command has {own[name]}. Install "
                        "the same version on both"
                    )

    def _ask(self, function: Any, *arguments: Any, on_scheduler: bool = True) -> dict[str, Any]:
        """Returns the results of a function on all machines by their names; an exception is a result."""
        answers = _named(self.client.run(function, *arguments, on_error="return"))
        if on_scheduler:
            try:
                answers["scheduler"] = self.client.run_on_scheduler(function, *arguments)
            except Exception as error:
                answers["scheduler"] = error
        return answers


def _import_all() -> str:
    """Imports what a task needs, and returns the version of the code."""
    import beam_preprocess.pipeline  # noqa: F401

    return worker_package.code_version()


def _lacks_project(answer: Any) -> bool:
    return isinstance(answer, ModuleNotFoundError) and answer.name in ("beam_preprocess", worker_package.PROJECT)


def _named(by_address: dict[str, Any]) -> dict[str, Any]:
    return {f"worker at {address}": value for address, value in by_address.items()}


def _versions(report: dict[str, Any]) -> dict[str, str | None]:
    """Returns the versions of Python, without the patch level, and of packages, from Dask's report of a machine."""
    python = str(report["host"]["python"]).split(".")[:2]
    return {"Python": ".".join(python), **{name: report["packages"].get(name) for name in _PACKAGES}}


@contextlib.contextmanager
def connect(options: "PipelineOptions") -> Iterator[Cluster]:
    """Yields the cluster that Beam's options name, and disconnects.

    Raises:
        UserError: the scheduler's file is not there.
        TemporaryError: no scheduler answers.
    """
    dask_options = options.view_as(DaskOptions).get_all_options(drop_default=True, current_only=True)
    dask_options.pop("npartitions", None)
    dask_options.pop("partition_size", None)
    timeout = dask_options.setdefault("timeout", CONNECT_SECONDS)
    with _quiet_dask():
        if file := dask_options.get("scheduler_file"):
            _await_file(file, timeout)
        try:
            client = distributed.Client(set_as_default=False, **dask_options)
        except (OSError, ValueError, TimeoutError) as error:
            place = file or dask_options["address"]
            raise TemporaryError(
                f"no Dask scheduler answered at {place} within {timeout:g} s. Start one, or check the address "
                "(--dask_client_address, --dask_scheduler_file)"
            ) from error
        try:
            address = client.scheduler_info(1)["address"]
            try:
                yield Cluster(address, client)
            except OSError as error:
                raise TemporaryError(f"the Dask scheduler at {address} was lost. {_REMEDY}") from error
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=5)


def _await_file(path: str, seconds: float) -> None:
    """Waits for a scheduler's file, for which Dask's client would wait without end."""
    deadline = time.monotonic() + seconds
    while not os.path.isfile(path):
        if time.monotonic() > deadline:
            raise UserError(
                f"--dask_scheduler_file={path}: no such file. Pass the one that the scheduler was started with"
            )
        time.sleep(0.1)


@contextlib.contextmanager
def _quiet_dask() -> Iterator[None]:
    """Hides Dask's own messages: what matters of them is raised."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado.application")]
    former = [logger.level for logger in loggers]
    for dask_logger in loggers:
        dask_logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for dask_logger, level in zip(loggers, former, strict=True):
            dask_logger.setLevel(level)


@dataclasses.dataclass
class TaskResults(PipelineResult):
    """The results of a pipeline's last step, task by task as they are done."""

    cluster: Cluster
    futures: list[distributed.Future]

    def __post_init__(self) -> None:
        """Starts in the state RUNNING."""
        super().__init__(PipelineState.RUNNING)

    def __iter__(self) -> Iterator[list[Any]]:
        """Yields each task's elements; raises a task's own exception, or a TemporaryError if the scheduler is lost."""
        done: queue.SimpleQueue[distributed.Future] = queue.SimpleQueue()
        for future in self.futures:
            future.add_done_callback(done.put)
        next_line = 0.0
        for number in range(len(self.futures)):
            while True:
                try:
                    future = done.get(timeout=QUIET_SECONDS)
                    break
                except queue.Empty:
                    if time.monotonic() >= next_line and not self._has_workers():
                        self.cluster.warn_of_no_worker()
                        next_line = time.monotonic() + LINE_SECONDS
            try:
                elements = future.result()
            except distributed.client.FutureCancelledError as error:
                raise TemporaryError(
                    f"the Dask scheduler at {self.cluster.address} was lost, or the job was cancelled there, after "
                    f"{number} of {counted(len(self.futures), 'task')}. {_REMEDY}"
                ) from error
            except distributed.KilledWorker as error:
                raise UserError(
                    f"{counted(1 + error.allowed_failures, 'worker')} ended while writing the same shard, at last the "
                    f"one at {error.last_worker.address}. Give workers more memory, or pass --isolate_parsing"
                ) from error
            future.release()
            yield elements
        self._state = PipelineState.DONE

    def cancel(self) -> str:
        """Cancels what is not done."""
        with contextlib.suppress(Exception):
            self.cluster.client.cancel(self.futures, force=True)
        self._state = PipelineState.CANCELLED
        return self._state

    def _has_workers(self) -> bool:
        try:
            return self.cluster.count_workers() > 0
        except Exception:
            return True  # The scheduler is lost, and the futures will say so.


class TaskRunner(DaskRunner):
    """Runs a pipeline whose steps are a chain, each element of its source as a task, and returns `TaskResults`."""

    def __init__(self, cluster: Cluster, tasks: int) -> None:
        super().__init__()
        self._cluster, self._tasks = cluster, tasks

    def run_pipeline(self, pipeline: apache_beam.Pipeline, options: "PipelineOptions") -> TaskResults:
        """Starts a pipeline."""
        pipeline.replace_all(dask_overrides())
        visitor: Any = self.to_dask_bag_visitor({"npartitions": self._tasks})
        pipeline.visit(visitor)
        bag = self._cluster.client.persist([*visitor.bags.values()][-1])
        return TaskResults(self._cluster, distributed.futures_of(bag))


class KeptWriter(ShardWriter):
    """A writer that a worker's thread keeps from task to task: Beam ends a step after each of Dask's tasks.

    What it keeps are the open corpus and the child process that parses, whose start takes longer than a shard.
    """

    # By thread, since each has a child process of its own.
    _kept: ClassVar[dict[int, ShardWriter]] = {}

    @classmethod
    def of(cls, writer: ShardWriter) -> "KeptWriter":
        """Returns a writer that does the same, and stays."""
        return cls(writer.plan_file, writer.archive, writer.directory, writer.parser)

    def __call__(self, shard: ShardRange, on_file_done: Callable[[], None]) -> ShardReport:
        """Writes a shard as `ShardWriter` does, with the thread's writer if it is of the same dataset."""
        thread = threading.get_ident()
        kept = self._kept.get(thread)
        if kept is None or kept.plan_file != self.plan_file:
            if kept is not None:
                kept.close()
            kept = self._kept[thread] = ShardWriter(self.plan_file, self.archive, self.directory, self.parser)
        return kept(shard, on_file_done)

    def close(self) -> None:
        """Leaves the thread's writer to the next task."""

    @classmethod
    def close_all(cls, plan_file: str) -> None:
        """Closes the writers of a dataset that this process has kept."""
        for thread, writer in list(cls._kept.items()):
            if writer.plan_file == plan_file:
                del cls._kept[thread]
                writer.close()
