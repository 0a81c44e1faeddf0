"""JSON files of evaluations in a workdir: the fields of a class are the keys of its file."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal, Self, TypeAlias

from sostenuto import storage
from sostenuto.data.json_record import JsonRecord
from sostenuto.data.manifest import SPLITS
from trainer.workdir.form_formats import Distance, FormPicture, Span
from trainer.workdir.formats import Baseline, Continuation, Field, MusicKind, ScoredField


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRecord(JsonRecord):
    """Base class of the files that a workdir has for each split."""

    PREFIX: ClassVar[str]

    split: str
    train_step: int
    sustain: str | None = None
    dataset: str

    @classmethod
    def path(cls, workdir: str, split: str) -> str:
        """Returns the file's path."""
        return storage.join(workdir, f"{cls.PREFIX}-{split}.json")

    @classmethod
    def load_splits(cls, workdir: str) -> dict[str, Self]:
        """Reads the files of a workdir by split, the test split first."""
        records = ((split, cls.load_if_exists(cls.path(workdir, split))) for split in reversed(SPLITS))
        return {split: record for split, record in records if record is not None}

    def _null_keys(self) -> Collection[str]:
        return ("sustain",)


NatsPerNote: TypeAlias = Mapping[ScoredField, float]


@dataclasses.dataclass(frozen=True)
class PartScores(JsonRecord):
    """Scores of a part of a split's performances."""

    nats_per_note: NatsPerNote
    notes: int
    performances: int


@dataclasses.dataclass(frozen=True)
class EndingScores(JsonRecord):
    """Nats per performance of its end: of the model, and of ends that are equally likely after each note."""

    nats_per_performance: float
    constant: float


@dataclasses.dataclass(frozen=True)
class ComposerGain(JsonRecord):
    """Nats/note that a model gains by the composers' names: without them, less with them.

    Attributes:
        without: nats/note without the names.
        total: the gain of all performances whose composer the model knows.
        confidence_95: its interval, of pairs; None for one performance.
        by_composer: the gain for each composer that the model knows.
    """

    without: NatsPerNote
    total: float
    confidence_95: tuple[float, float] | None
    by_composer: Mapping[str, float]

    def _null_keys(self) -> Collection[str]:
        return ("confidence_95",)


@dataclasses.dataclass(frozen=True)
class ResidualDensity(JsonRecord):
    """A density around a predicted time; centre and scale in seconds."""

    kind: Literal["laplace", "gaussian"]
    centre: float
    scale: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitScores(JsonRecord):
    """Means over the scored notes of a split."""

    nats_per_note: NatsPerNote
    pitch_top1: float
    pitch_top5: float
    step_within_30ms: float
    notes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(SplitScores, SplitRecord):
    """Content of evaluation-SPLIT.json."""

    PREFIX = "evaluation"
    REMEDY = "Delete the file, then run sostenuto evaluate again"

    confidence_95: Mapping[ScoredField, tuple[float, float]] | None = None
    by_composer: Mapping[str, PartScores]
    unshared: PartScores | None = None
    ending: EndingScores | None = None
    composer_gain: ComposerGain | None = None
    performances: int
    baselines: Mapping[Baseline, NatsPerNote] | None = None
    residuals: Mapping[Literal["step", "duration"], ResidualDensity] | None = None

    def _null_keys(self) -> Collection[str]:
        return (*super()._null_keys(), "confidence_95", "baselines")

    def describe_interval(self, digits: int = 3) -> str:
        """Returns the 95% interval of the total as "7.400 to 7.600", or a text that says why there is none."""
        if self.confidence_95 is None:
            return "one performance: no interval"
        return " to ".join(f"{end:.{digits}f}" for end in self.confidence_95["total"])


@dataclasses.dataclass(frozen=True)
class DistributionDistance(JsonRecord):
    """Distance of two distributions: overlap, 0 to 1, and Kullback-Leibler divergence, in nats."""

    overlap: float
    kl: float


@dataclasses.dataclass(frozen=True)
class Summary(JsonRecord):
    """Mean and maximum over continuations."""

    mean: float
    max: float


@dataclasses.dataclass(frozen=True)
class HeldOut(JsonRecord):
    """Size of the music that continuations are compared with."""

    performances: int
    pieces: int
    notes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthComparison(JsonRecord):
    """Lengths, in notes, of pieces generated from silence and of the split's performances.

    Attributes:
        pieces: the number of generated pieces.
        ended: how many of them came to an end.
        end_odds: the factor on the odds of an end.
        overlap: of the distributions of both, 0 to 1.
        mean: notes of a piece.
        edges: of the bins of `counts`, in notes; the outer bins have the lengths beyond them too.
        counts: pieces of each bin.
    """

    pieces: int
    ended: int
    end_odds: float
    overlap: float
    mean: Mapping[Continuation, float]
    edges: Sequence[int]
    counts: Mapping[Continuation, Sequence[int]]


@dataclasses.dataclass(frozen=True)
class ComposerStatistics(JsonRecord):
    """Simple statistics of the continuations of one composer's pieces.

    Attributes:
        continuations: their number.
        means: of each of `trainer.evaluation.note_statistics.STATISTICS`.
    """

    continuations: int
    means: Mapping[str, Mapping[Continuation, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationMetrics(JsonRecord):
    """Metrics of generated and of real continuations."""

    distributions: Mapping[str, Mapping[Continuation, DistributionDistance]]
    mean_overlap: Mapping[Continuation, float]
    pitch_class_entropy: Mapping[Continuation, Summary]
    longest_loop: Mapping[Continuation, Summary]
    repeated_8grams: Mapping[Continuation, Summary]
    repeated_notes: Mapping[Distance, Mapping[Continuation, Summary]]
    structure: Mapping[Span, Mapping[Continuation, Summary]]
    copied_run: Mapping[Continuation, Summary]
    pictured: int
    pictures: Mapping[Continuation, FormPicture]
    counts: Mapping[MusicKind, Mapping[str, Sequence[int]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationEvaluation(GenerationMetrics, SplitRecord):
    """Content of generated-SPLIT.json."""

    PREFIX = "generated"
    REMEDY = "Delete the file, then run sostenuto evaluate --generated again"

    primers: Sequence[str]
    primer_notes: int
    num_notes: int
    held_out: HeldOut
    lengths: LengthComparison | None = None
    by_composer: Mapping[str, ComposerStatistics] | None = None
    temperature: Mapping[Field, float]
    top_p: Mapping[Field, float]
    returns: float
    seed: int
