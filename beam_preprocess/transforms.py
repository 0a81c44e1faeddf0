"""The steps of the pipeline: files grouped by shard are decoded and written, one shard a call."""

from collections.abc import Callable, Iterable, Iterator

import apache_beam as beam

from beam_preprocess.corpus import CorpusFile, Reader
from beam_preprocess.writer import Plan, Rejection, ShardReport, Tally, publish, write_shard
from notes import midi, storage
from notes.errors import UserError
from notes.records import Performance
from notes.statistics import Histograms

# One byte more than is permitted, so that the decoder sees that there is more.
_READ_BYTES = midi.MAX_BYTES + 1

# Called for each file done, where the runner works in the process that set it; elsewhere nobody sets it.
on_file_done: Callable[[], None] = lambda: None  # noqa: E731


class WriteShard(beam.DoFn):
    """Decodes the files of one shard, in the order of their paths, and writes them under a temporary name.

    Each call holds one performance in memory, reads each of its files once and writes each record once.
    """

    def __init__(self, *, archive: str | None, output: str, sustain: midi.Sustain) -> None:
        self._archive, self._output, self._sustain = archive, output, sustain
        self._performances = beam.metrics.Metrics.counter("preprocess", "performances")
        self._notes = beam.metrics.Metrics.counter("preprocess", "notes")
        self._rejected = beam.metrics.Metrics.counter("preprocess", "rejected")

    def process(self, element: tuple[str, Iterable[CorpusFile]]) -> Iterator[ShardReport]:
        """Yields the report of the shard whose name and files are given."""
        name, files = element
        tallies: list[Tally] = []
        rejections: list[Rejection] = []
        temporary = storage.temporary_name(storage.join(self._output, name))
        files = sorted(files, key=lambda file: file.path)
        with Reader(self._archive) as reader:
            reader.expect((file.location for file in files), limit=_READ_BYTES)
            decoded = self._decode_all(reader, files, tallies, rejections)
            records, length, digest = write_shard(temporary, decoded)
        yield ShardReport(name, temporary, records, length, digest, sum(tallies, Tally.zero()), rejections)

    def _decode_all(
        self, reader: Reader, files: Iterable[CorpusFile], tallies: list[Tally], rejections: list[Rejection]
    ) -> Iterator[Performance]:
        for file in files:
            decoded = read_performance(reader, file, sustain=self._sustain)
            if isinstance(decoded, Rejection):
                rejections.append(decoded)
                self._rejected.inc()
            else:
                performance, tally = decoded
                tallies.append(tally)
                self._performances.inc()
                self._notes.inc(tally.notes)
                yield performance
            on_file_done()


class Publish(beam.DoFn):
    """Turns shards under temporary names into a finished dataset, once all of them have been reported."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def process(self, reports: list[ShardReport]) -> None:
        """Publishes the dataset."""
        publish(self._plan, reports)


def read_performance(
    reader: Reader, file: CorpusFile, *, sustain: midi.Sustain
) -> tuple[Performance, Tally] | Rejection:
    """Returns a file's performance and what it adds to the statistics, or why it is refused."""
    try:
        data = reader.read(file.location, limit=_READ_BYTES)
    except storage.UnavailableError:
        # Not the file's fault: the runner may try again.
        raise
    except UserError as error:
        return Rejection(file.path, "unreadable", str(error))
    try:
        decoded = midi.read_midi(data, file.path, sustain=sustain)
    except midi.MidiDecodeError as error:
        return Rejection(file.path, error.reason, error.detail)
    if not len(decoded.notes):
        return Rejection(file.path, "no_notes", "holds no note, drums and notes of zero length apart")
    performance = Performance(
        path=file.path,
        piece=file.piece,
        split=file.split,
        composer=file.composer,
        title=file.title,
        year=file.year,
        notes=decoded.notes,
    )
    tally = Tally(
        notes=len(decoded.notes),
        microseconds=int(decoded.notes.offset_us.max()),
        zero_length=decoded.zero_length,
        drums=decoded.drums,
        histograms=Histograms.from_notes(decoded.notes),
    )
    return performance, tally
