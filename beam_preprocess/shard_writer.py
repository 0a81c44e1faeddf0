"""Writing of one shard: reads, parses and writes its files. Needs no Beam, so that child processes start fast."""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from beam_preprocess.corpus.archive import Reader
from beam_preprocess.corpus.listing import CorpusFile
from beam_preprocess.parser import Parser
from beam_preprocess.plan import ShardRange, read_plan
from sostenuto import storage
from sostenuto.data.manifest import Statistics
from sostenuto.data.performance import Performance, encode_performance, summarize_record
from sostenuto.data.tfrecord import parse_records, write_records
from sostenuto.errors import MidiDecodeError, UserError
from sostenuto.music import midi
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import FIELDS
from sostenuto.storage.local import crc32c
from sostenuto.text import counted

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975, 0.99)
# One byte above the limit, so that the decoder recognizes a file that is too large.
_READ_BYTES = midi.MAX_BYTES + 1


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A rejected file: its path in the corpus, the reason in one word, and a detail that completes a sentence."""

    path: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class SplitStats:
    """Sums over performances."""

    notes: int = 0
    microseconds: int = 0
    zero_length: int = 0  # dropped notes
    unended: int = 0  # dropped notes
    drums: int = 0  # dropped notes
    histograms: Histograms = dataclasses.field(default_factory=Histograms.zeros)

    def __add__(self, other: "SplitStats") -> "SplitStats":
        return SplitStats(*(getattr(self, field) + getattr(other, field) for field in self.__dataclass_fields__))

    def summarize(self) -> Statistics:
        """Returns a split's statistics for dataset.json."""
        quantiles: dict[str, dict[str, float | None]] = {}
        for field in FIELDS if self.notes else ():
            # There are no steps if each performance has a single note.
            has_values = getattr(self.histograms, field).any()
            quantiles[field] = {f"{q:g}": self.histograms.quantile(field, q) if has_values else None for q in QUANTILES}
        return Statistics(
            zero_length_dropped=self.zero_length,
            unended_dropped=self.unended,
            drums_dropped=self.drums,
            quantiles=quantiles,
            histograms=self.histograms,
        )


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """The result of writing a shard: its final name, the file written, its size and checksums, and its contents."""

    name: str
    temporary_path: str
    records: int
    bytes: int
    sha256: str
    crc32c: str  # as a bucket writes it
    stats: SplitStats
    rejections: list[Rejection]


@dataclasses.dataclass
class ShardWriter:
    """Parses the files of shards and writes them under temporary names; can be pickled before the first call."""

    plan_file: str
    archive: str | None
    directory: str
    parser: Parser
    _reader: Reader | None = None

    def __call__(self, shard: ShardRange, on_file_done: Callable[[], None]) -> ShardReport:
        """Writes a shard, verifies it and returns its report."""
        reader = self._reader = self._reader or Reader(self.archive)
        stats, rejections = SplitStats(), []

        def performances() -> Iterator[Performance]:
            nonlocal stats
            files = read_plan(self.plan_file, shard)
            contents = reader.read_many([file.location for file in files], limit=_READ_BYTES)
            for file, data in zip(files, contents, strict=True):
                try:
                    decoded = self._parse(file, data)
                except MidiDecodeError as error:
                    rejections.append(Rejection(file.path, error.reason, error.detail))
                else:
                    notes, length_us = decoded.notes, int(decoded.notes.offset_us.max())
                    histograms = Histograms.from_notes(notes)
                    stats += SplitStats(
                        len(notes), length_us, decoded.zero_length, decoded.unended, decoded.drums, histograms
                    )
                    yield Performance(
                        file.path, file.piece, file.split, file.composer, file.title, file.year, notes=notes
                    )
                on_file_done()

        temporary_path = storage.temporary_name(storage.join(self.directory, shard.name))
        records, length, digest, crc = write_shard(temporary_path, performances())
        return ShardReport(shard.name, temporary_path, records, length, digest, crc, stats, rejections)

    def close(self) -> None:
        """Closes the corpus and ends the parser's child process."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self.parser.close()

    def _parse(self, file: CorpusFile, data: bytes | MidiDecodeError) -> midi.DecodedMidi:
        """Returns a file's notes, or raises a MidiDecodeError to reject it."""
        if isinstance(data, MidiDecodeError):
            raise data
        decoded = self.parser.parse(data, file.path)
        if not len(decoded.notes):
            left_out = ", ".join(counted(count, what) for count, what in decoded.left_out if count)
            detail = f"holds no note to keep{left_out and f'; left out {left_out}'}"
            raise MidiDecodeError(file.path, "no_notes", detail)
        return decoded


def write_shard(path: str, performances: Iterable[Performance]) -> tuple[int, int, str, str]:
    """Writes performances to a file, verifies it, and returns its numbers of records and bytes, SHA-256 and CRC-32C."""
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
        data = storage.read_bytes(path)
        read = [summarize_record(record) for record in parse_records(data, path)]
        read_digest = hashlib.sha256(data).hexdigest()
        if (read, read_digest) != (written, digest):
            raise UserError(
                f"{path}: got {counted(len(read), 'performance')} with sha256 {read_digest[:12]}… on reading, "
                f"expected {len(written)} with {digest[:12]}…. Check the disk and run again"
            )
    except UserError:
        storage.remove(path)
        raise
    return records, len(data), digest, crc32c(io.BytesIO(data))


class _HashingFile:
    """A file opened for writing that hashes the bytes written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)
