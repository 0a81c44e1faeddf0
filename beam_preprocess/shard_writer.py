"""Writing of one shard: reads, parses and writes its files. Needs no Beam, so that child processes start fast."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from beam_preprocess.corpus.archive import Reader
from beam_preprocess.corpus.listing import CorpusFile
from beam_preprocess.parser import Parser
from beam_preprocess.plan import ShardRange, read_plan
from beam_preprocess.stats import Rejection, ShardReport, SplitStats
from sostenuto import storage
from sostenuto.data.performance import Performance, encode_performance, summarize_record
from sostenuto.data.tfrecord import parse_records, write_records
from sostenuto.errors import MidiDecodeError, UnavailableError, UserError
from sostenuto.music import midi
from sostenuto.text import counted

# One byte above the limit, so that the decoder recognizes a file that is too large.
_READ_BYTES = midi.MAX_BYTES + 1


class ShardWriter:
    """Parses the files of shards in the order of their paths and writes them under temporary names.

    Holds one performance in memory, reads each file once and writes each record once. Keeps the corpus and the parser
    open for the next shard until `close`; can be pickled before the first call.

    Args:
        plan_file: the path of the plan file.
        archive: the path of the zip file that contains the corpus, or None.
        output: the dataset's directory.
        sustain: the sustain pedal's effect on durations.
        parse_seconds: time limit per file in a child process, which rejects a file that crashes or blocks the parser;
            None parses in this process.
    """

    def __init__(
        self, *, plan_file: str, archive: str | None, output: str, sustain: midi.Sustain, parse_seconds: float | None
    ) -> None:
        self._plan_file, self._archive, self._output = plan_file, archive, output
        self._parser = Parser(sustain, seconds=parse_seconds)
        self._reader: Reader | None = None

    def __call__(self, shard: ShardRange, on_file_done: Callable[[], None]) -> ShardReport:
        """Writes a shard, verifies it and returns its report.

        Raises:
            UserError: the shard cannot be written, or its content is not what was written.
        """
        reader = self._reader = self._reader or Reader(self._archive)
        stats, rejections = SplitStats.zero(), []

        def performances() -> Iterator[Performance]:
            nonlocal stats
            files = sorted(read_plan(self._plan_file, shard), key=lambda file: file.path)
            contents = reader.read_many([file.location for file in files], limit=_READ_BYTES)
            for file, data in zip(files, contents, strict=True):
                result = _parse_performance(self._parser, file, data)
                if isinstance(result, Rejection):
                    rejections.append(result)
                else:
                    performance, performance_stats = result
                    stats += performance_stats
                    yield performance
                on_file_done()

        temporary_path = storage.temporary_name(storage.join(self._output, shard.name))
        records, length, digest = write_shard(temporary_path, performances())
        return ShardReport(shard.name, temporary_path, records, length, digest, stats, rejections)

    def close(self) -> None:
        """Closes the corpus and ends the parser's child process."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._parser.close()


def write_shard(path: str, performances: Iterable[Performance]) -> tuple[int, int, str]:
    """Writes performances to a file, one record each, and verifies the file.

    Returns:
        The number of records, the file's length in bytes, and its SHA-256 in hex.

    Raises:
        UserError: the file cannot be written, or its content is not what was written. Nothing remains of it.
    """
    written: list[tuple[str, int]] = []

    def encoded() -> Iterator[bytes]:
        for performance in performances:
            yield encode_performance(performance)
            written.append((performance.path, len(performance.notes)))

    with storage.new_file(path) as file:
        hashing_file = _HashingFile(file)
        records = write_records(hashing_file, encoded())  # type: ignore[arg-type]
    digest = hashing_file.digest.hexdigest()
    try:
        _verify(path, digest, written)
    except UserError:
        storage.remove(path)
        raise
    return records, hashing_file.length, digest


class _HashingFile:
    """A file opened for writing that counts and hashes the bytes written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.length = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.length += len(data)
        self.digest.update(data)
        return self._file.write(data)


def _verify(path: str, digest: str, written: list[tuple[str, int]]) -> None:
    """Reads a shard back and compares it with the digest, and the paths and numbers of notes, that were written."""
    data = storage.read_bytes(path)
    records = [summarize_record(record) for record in parse_records(data, path)]
    actual_digest = hashlib.sha256(data).hexdigest()
    if (records, actual_digest) != (written, digest):
        raise UserError(
            f"{path}: got {counted(len(records), 'performance')} with sha256 {actual_digest[:12]}… on reading, "
            f"expected {len(written)} with {digest[:12]}…. Check the disk and run again"
        )


def _parse_performance(
    parser: Parser, file: CorpusFile, data: bytes | UserError
) -> tuple[Performance, SplitStats] | Rejection:
    """Returns a file's performance and statistics, or its rejection; raises the error of a bucket without answer."""
    if isinstance(data, UnavailableError):
        raise data
    if isinstance(data, UserError):
        return Rejection(file.path, "unreadable", str(data))
    try:
        decoded = parser.parse(data, file.path)
    except MidiDecodeError as error:
        return Rejection(file.path, error.reason, error.detail)
    if not len(decoded.notes):
        return Rejection(file.path, "no_notes", "holds no note, drums and notes of zero length apart")
    fields = dataclasses.asdict(file)
    del fields["location"]
    return Performance(**fields, notes=decoded.notes), SplitStats.from_midi(decoded)
