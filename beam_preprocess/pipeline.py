"""The Beam pipeline: writes shards, one per element so that nothing large is shuffled, and commits the dataset."""

import os
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import ClassVar

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from beam_preprocess.commit import commit_dataset
from beam_preprocess.plan import DatasetPlan, ShardRange
from beam_preprocess.sandbox import map_in_processes
from beam_preprocess.shard_writer import ShardReport, ShardWriter
from sostenuto import storage
from sostenuto.errors import UserError
from sostenuto.storage.lease import Lease, Lock

# Replaces a child process after this time without a heartbeat; no file and no disk takes that long.
STALLED_SECONDS = 180.0

_MAX_PROCESSES = 1_024


class WriteCorpus(beam.PTransform):
    """Writes the shards of a dataset under temporary names; applied to a pipeline, it yields their reports.

    Args:
        shards: the shards' positions in the plan file.
        writer: writes one shard.
        processes: child processes that share all shards; 1 lets the runner distribute them.
        on_file_done: called for each file, by workers in this process only.
    """

    def __init__(
        self,
        shards: list[ShardRange],
        writer: ShardWriter,
        processes: int = 1,
        on_file_done: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._elements = [shards] if processes > 1 else [[shard] for shard in shards]
        self._write_shards = WriteShards(writer, processes, LocalCallback(on_file_done))

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        """Adds the steps to a pipeline."""
        return pbegin | "Shards" >> beam.Create(self._elements) | "WriteShards" >> beam.ParDo(self._write_shards)


class PreprocessCorpus(beam.PTransform):
    """Writes a dataset; applied to a pipeline.

    Args:
        plan: the dataset's plan.
        write_corpus: writes its shards.
        lease: of the output, if this process holds it.
    """

    def __init__(self, plan: DatasetPlan, write_corpus: WriteCorpus, *, lease: Lock | Lease | None = None) -> None:
        super().__init__()
        self._plan, self._write_corpus, self._lease = plan, write_corpus, lease

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        """Adds the steps to a pipeline."""
        # So that the function is pickled without the elements.
        plan, lease, user_project = self._plan, self._lease, storage.user_project()

        def publish(reports: list[ShardReport]) -> None:
            storage.set_user_project(user_project)
            commit_dataset(plan, reports, lease)

        return (
            pbegin
            | "WriteCorpus" >> self._write_corpus
            | "AllReports" >> beam.combiners.ToList()
            | "Publish" >> beam.Map(publish)
        )


class WriteShards(beam.DoFn):
    """Writes the shards of an element: a single one, or all of them if child processes share them."""

    def __init__(self, writer: ShardWriter, processes: int, on_file_done: "LocalCallback") -> None:
        self._writer, self._processes, self._on_file_done = writer, processes, on_file_done
        self._user_project = storage.user_project()
        self._performances = beam.metrics.Metrics.counter("preprocess", "performances")
        self._notes = beam.metrics.Metrics.counter("preprocess", "notes")
        self._rejected = beam.metrics.Metrics.counter("preprocess", "rejected")

    def setup(self) -> None:
        """Names the project that pays for a remote worker's requests."""
        storage.set_user_project(self._user_project)

    def process(self, shards: list[ShardRange]) -> Iterator[ShardReport]:
        """Yields the reports of the shards."""
        writer, on_file_done, processes = self._writer, self._on_file_done, self._processes
        reports: Iterator[ShardReport] = (writer(shard, on_file_done) for shard in shards)
        if processes > 1:
            reports = map_in_processes(
                writer, shards, processes=processes, seconds=STALLED_SECONDS, on_heartbeat=on_file_done
            )
        for report in reports:
            self._performances.inc(report.records)
            self._notes.inc(report.stats.notes)
            self._rejected.inc(len(report.rejections))
            yield report

    def teardown(self) -> None:
        """Closes the files and processes of the writer."""
        self._writer.close()


class LocalCallback:
    """A callback that pickles by name, since Beam pickles all functions; in another process it does nothing."""

    _instances: ClassVar[weakref.WeakValueDictionary[str, "LocalCallback"]] = weakref.WeakValueDictionary()

    def __init__(self, function: Callable[[], None]) -> None:
        self._function, self._name = function, uuid.uuid4().hex
        self._instances[self._name] = self

    def __call__(self) -> None:
        """Calls the function."""
        self._function()

    def __reduce__(self) -> tuple[Callable[[str], "LocalCallback"], tuple[str]]:
        return LocalCallback._find, (self._name,)

    @classmethod
    def _find(cls, name: str) -> "LocalCallback":
        return cls._instances.get(name) or cls(lambda: None)


def resolve_num_processes(options: PipelineOptions) -> int:
    """Returns the number of child processes that write shards; 1 with another runner, or with Beam's threads."""
    direct = options.view_as(DirectOptions)
    if options.view_as(StandardOptions).runner != "FnApiRunner" or direct.direct_running_mode == "multi_threading":
        return 1
    processes = direct.direct_num_workers
    if not 0 <= processes <= _MAX_PROCESSES:
        raise UserError(f"--direct_num_workers={processes}: expected 1 to {_MAX_PROCESSES:,}, or 0 for one per core")
    # Beam's own workers take ten seconds to start, and block the run if one is killed.
    direct.direct_num_workers, direct.direct_running_mode = 1, "in_memory"
    # In a container, a process may use fewer cores than the machine has.
    return processes or len(os.sched_getaffinity(0))
