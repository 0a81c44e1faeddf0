"""The work behind one shard: its files are read, decoded, written and counted. Child processes do it without Beam."""

from collections.abc import Callable, Iterator

from beam_preprocess.corpus import CorpusFile, Reader
from beam_preprocess.sandbox import Process, ProcessDied
from beam_preprocess.shard_writer import Rejection, ShardRange, ShardReport, SplitStats, read_plan, write_shard
from sostenuto import storage
from sostenuto.data.tfrecord import Performance
from sostenuto.errors import MidiDecodeError, UnavailableError, UserError
from sostenuto.music import midi
from sostenuto.music.histograms import Histograms

# Limits of the parser process. A file within the limits of sostenuto.music.midi took at most 11 seconds on a slow core;
# the interpreter and its libraries occupy half of the address space.
PARSE_SECONDS = 60.0
PARSE_MEMORY_BYTES = 2**30

# One byte more than is permitted, so that the decoder sees that there is more.
_READ_BYTES = midi.MAX_BYTES + 1

_REASONS = {"time": "timed_out", "memory": "out_of_memory", "outside": "crashed", "crash": "crashed"}


class ShardWriter:
    """Decodes the files of shards, in the order of their paths, and writes them under temporary names.

    Holds one performance in memory, reads each file once and writes each record once. What it opens it keeps for the
    next shard, until it is closed; it can be pickled before it has opened anything.

    Args:
        plan_file: the list of all files, see `writer.write_plan`.
        archive: path of the zip file that holds the files, or None.
        output: the dataset's directory.
        sustain: what the sustain pedal does to durations.
        isolate_parsing: parse in a child process, so that a file that crashes or blocks the parser is rejected.
    """

    def __init__(
        self, *, plan_file: str, archive: str | None, output: str, sustain: midi.Sustain, isolate_parsing: bool
    ) -> None:
        self._plan_file, self._archive, self._output = plan_file, archive, output
        self._parse = _Parse(sustain)
        self._parse_seconds = PARSE_SECONDS if isolate_parsing else None
        self._opened: tuple[Reader, Parser] | None = None

    def __call__(self, shard: ShardRange, on_file_done: Callable[[], None]) -> ShardReport:
        """Writes a shard, reads it back and reports it.

        Raises:
            UserError: it cannot be written, or is not what was written.
        """
        if self._opened is None:
            self._opened = Reader(self._archive).__enter__(), Parser(self._parse, seconds=self._parse_seconds)
        reader, parser = self._opened
        tally, rejections = SplitStats.zero(), []

        def performances() -> Iterator[Performance]:
            nonlocal tally
            files = sorted(read_plan(self._plan_file, shard), key=lambda file: file.path)
            reader.expect((file.location for file in files), limit=_READ_BYTES)
            for file in files:
                read = read_performance(reader, parser, file)
                if isinstance(read, Rejection):
                    rejections.append(read)
                else:
                    performance, added = read
                    tally += added
                    yield performance
                on_file_done()

        temporary = storage.temporary_name(storage.join(self._output, shard.name))
        records, length, digest = write_shard(temporary, performances())
        return ShardReport(shard.name, temporary, records, length, digest, tally, rejections)

    def close(self) -> None:
        """Closes what it has opened."""
        if self._opened is not None:
            reader, parser = self._opened
            reader.close()
            parser.close()
            self._opened = None


class Parser:
    """Parses MIDI files: in a child process, which has so many seconds for each, or in this one."""

    def __init__(self, parse: "_Parse", *, seconds: float | None) -> None:
        self._parse = parse
        self._process = None
        if seconds is not None:
            self._process = Process(parse, seconds=seconds, memory_bytes=PARSE_MEMORY_BYTES)

    def parse(self, data: bytes, name: str) -> midi.DecodedMidi:
        """Returns what a file holds.

        Raises:
            MidiDecodeError: as of `midi.read_midi`; or, in a child, it ended the process: timed_out, out_of_memory,
                crashed.
        """
        if self._process is None:
            return self._parse((data, name))
        for last_attempt in (False, True):
            try:
                return self._process.call((data, name))
            except ProcessDied as died:
                # Who was killed from outside may have done nothing to deserve it, the first time.
                if died.cause != "outside" or last_attempt:
                    raise MidiDecodeError(
                        name, _REASONS[died.cause], f"ended the process that parsed it: it {died.detail}"
                    ) from died
        raise AssertionError

    def close(self) -> None:
        """Ends the child."""
        if self._process is not None:
            self._process.close()


class _Parse:
    """What the child does: pickled once, with its option."""

    def __init__(self, sustain: midi.Sustain) -> None:
        self._sustain = sustain

    def __call__(self, file: tuple[bytes, str], alive: Callable[[], None] = lambda: None) -> midi.DecodedMidi:
        data, name = file
        return midi.read_midi(data, name, sustain=self._sustain)


def read_performance(reader: Reader, parser: Parser, file: CorpusFile) -> tuple[Performance, SplitStats] | Rejection:
    """Returns a file's performance and what it adds to the statistics, or why it is rejected."""
    try:
        data = reader.read(file.location, limit=_READ_BYTES)
    except UnavailableError:
        # Not the file's fault: the runner may try again.
        raise
    except UserError as error:
        return Rejection(file.path, "unreadable", str(error))
    try:
        decoded = parser.parse(data, file.path)
    except MidiDecodeError as error:
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
    tally = SplitStats(
        notes=len(decoded.notes),
        microseconds=int(decoded.notes.offset_us.max()),
        zero_length=decoded.zero_length,
        drums=decoded.drums,
        histograms=Histograms.from_notes(decoded.notes),
    )
    return performance, tally
