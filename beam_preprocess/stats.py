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
    """A rejected file: its path in the corpus, the reason in one word, and a detail that completes a sentence."""

    path: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class SplitStats:
    """Sums over performances: notes, total length, dropped notes of zero length, dropped drum notes, distributions."""

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
        notes, length_us = decoded.notes, int(decoded.notes.offset_us.max())
        return cls(len(notes), length_us, decoded.zero_length, decoded.drums, Histograms.from_notes(notes))

    def __add__(self, other: "SplitStats") -> "SplitStats":
        """Returns the sums of both."""
        return SplitStats(*(getattr(self, field) + getattr(other, field) for field in self.__dataclass_fields__))

    def summarize(self) -> Statistics:
        """Returns a split's statistics for dataset.json."""
        quantiles = {field: self._quantiles(field) for field in FIELDS} if self.notes else {}
        return Statistics(self.zero_length, self.drums, quantiles, self.histograms)

    def _quantiles(self, field: str) -> dict[str, float | None]:
        """Returns the quantiles of a field; None for steps if each performance has a single note."""
        has_values = getattr(self.histograms, field).any()
        return {f"{q:g}": self.histograms.quantile(field, q) if has_values else None for q in QUANTILES}


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """The result of writing a shard: its final name, the file written, its size and SHA-256, and its contents."""

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
