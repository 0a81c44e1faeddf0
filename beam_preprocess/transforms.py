"""The steps of the pipeline: files grouped by shard are decoded and written, one shard a call."""

from collections.abc import Callable, Iterator

import apache_beam as beam

from beam_preprocess.sandbox import map_in_processes
from beam_preprocess.shard_writer import Plan, ShardRange, ShardReport, publish
from beam_preprocess.shards import ShardWriter

# A worker process that gives no sign of life for so long is replaced: no file, and no wait for a disk, takes it.
STALLED_SECONDS = 180.0

# Called for each file done, where the runner works in the process that set it; elsewhere nobody sets it.
on_file_done: Callable[[], None] = lambda: None  # noqa: E731


class WriteShards(beam.DoFn):
    """Decodes the files of shards and writes them under temporary names.

    An element is the shards that one call writes: a single one, where the runner spreads elements over workers; all of
    them, where `processes` of our own share them on one machine.
    """

    def __init__(self, writer: ShardWriter, *, processes: int) -> None:
        self._writer, self._processes = writer, processes
        self._performances = beam.metrics.Metrics.counter("preprocess", "performances")
        self._notes = beam.metrics.Metrics.counter("preprocess", "notes")
        self._rejected = beam.metrics.Metrics.counter("preprocess", "rejected")

    def process(self, shards: list[ShardRange]) -> Iterator[ShardReport]:
        """Yields the reports of the shards."""
        for report in self._reports(shards):
            self._performances.inc(report.records)
            self._notes.inc(report.tally.notes)
            self._rejected.inc(len(report.rejections))
            yield report

    def teardown(self) -> None:
        """Closes what was opened for the shards."""
        self._writer.close()

    def _reports(self, shards: list[ShardRange]) -> Iterator[ShardReport]:
        if self._processes > 1:
            return map_in_processes(
                self._writer, shards, processes=self._processes, seconds=STALLED_SECONDS, alive=on_file_done
            )
        return (self._writer(shard, on_file_done) for shard in shards)


class Publish(beam.DoFn):
    """Turns shards under temporary names into a finished dataset, once all of them have been reported."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def process(self, reports: list[ShardReport]) -> None:
        """Publishes the dataset."""
        publish(self._plan, reports)
