"""Statistics of performances, and the report of one shard."""

import dataclasses
from collections import Counter
from collections.abc import Iterable

from sostenuto.data.manifest import Statistics
from sostenuto.music import midi
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import FIELDS

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975, 0.99)


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A rejected file.

    Attributes:
        path: its path in the corpus.
        reason: one word, such as "truncated".
        detail: the end of a sentence that begins with the path.
    """

    path: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class SplitStats:
    """Sums over performances.

    Attributes:
        notes: number of notes.
        microseconds: total length.
        zero_length: dropped notes of zero length.
        drums: dropped drum notes.
        histograms: distributions of the notes' fields.
    """

    notes: int
    microseconds: int
    zero_length: int
    drums: int
    histograms: Histograms

    @classmethod
    def zero(cls) -> "SplitStats":
        """Returns the statistics of no performances."""
        return cls(0, 0, 0, 0, Histograms.zeros())

    @classmethod
    def from_midi(cls, decoded: midi.DecodedMidi) -> "SplitStats":
        """Returns the statistics of one decoded MIDI file with notes."""
        return cls(
            notes=len(decoded.notes),
            microseconds=int(decoded.notes.offset_us.max()),
            zero_length=decoded.zero_length,
            drums=decoded.drums,
            histograms=Histograms.from_notes(decoded.notes),
        )

    def __add__(self, other: "SplitStats") -> "SplitStats":
        """Returns the sums of both."""
        return SplitStats(
            *(getattr(self, field.name) + getattr(other, field.name) for field in dataclasses.fields(self))
        )

    def summarize(self) -> Statistics:
        """Returns a split's entry in the statistics of dataset.json."""
        quantiles = {field: self._quantiles(field) for field in FIELDS} if self.notes else {}
        return Statistics(self.zero_length, self.drums, quantiles, self.histograms)

    def _quantiles(self, field: str) -> dict[str, float | None]:
        """Returns the quantiles of a field; None for steps if each performance has a single note."""
        has_values = getattr(self.histograms, field).any()
        return {f"{q:g}": self.histograms.quantile(field, q) if has_values else None for q in QUANTILES}


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """The result of writing one shard.

    Attributes:
        name: the shard's name in the finished dataset.
        temporary_path: the file that was written.
        records: number of performances written.
        bytes: length of the file.
        sha256: hex digest of the bytes written.
        stats: statistics of the performances written.
        rejections: the rejected files.
    """

    name: str
    temporary_path: str
    records: int
    bytes: int
    sha256: str
    stats: SplitStats
    rejections: list[Rejection]


def count_reasons(rejections: Iterable[Rejection]) -> dict[str, int]:
    """Returns the number of rejections by reason, sorted by reason."""
    return dict(sorted(Counter(rejection.reason for rejection in rejections).items()))
