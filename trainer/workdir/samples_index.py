"""Index of generated samples, samples.json: the fields of a class are the keys of its file."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from sostenuto.data.json_record import FileName, JsonRecord
from trainer.workdir.formats import Field


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleEntry(JsonRecord):
    """A sample of samples.json; what the index records for all samples, or what it does not have, is None."""

    midi: FileName
    primer: str | None = None
    primer_notes: int | None = None
    generated_before: Sequence[int] | None = None  # positions of generated notes before the primer's last one
    notes: int | None = None
    seconds: float
    has_ended: bool | None = None  # before num_notes
    synthesizer: str | None = None

    def _null_keys(self) -> Collection[str]:
        return () if self.primer_notes is None else ("primer",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplesIndex(JsonRecord):
    """Content of samples.json: workdir and primer are recorded by trainer.generate alone."""

    REMEDY = "Delete the directory of the samples and generate them again"

    workdir: str | None = None
    train_step: int
    primer: str | None = None
    primer_notes: int | None = None
    composer: str | None = None
    num_notes: int
    max_seconds: float | None = None
    num_samples: int
    temperature: float | Mapping[Field, float]
    top_p: float | Mapping[Field, float]
    returns: float
    end_odds: float
    seed: int
    key: str | None = None
    range: str | None = None
    density: float = 0.0
    tempo: float = 1.0
    avoid_repeats: int = 0
    sustain: str
    pedal: bool
    notes_per_second: float
    files: Sequence[FileName]
    samples: Sequence[SampleEntry]

    def primer_of(self, entry: SampleEntry) -> tuple[str | None, int]:
        """Returns the primer of a sample and the number of its notes."""
        source = self if entry.primer_notes is None else entry
        return source.primer, source.primer_notes or 0

    def _null_keys(self) -> Collection[str]:
        return () if self.primer_notes is None else ("primer",)
