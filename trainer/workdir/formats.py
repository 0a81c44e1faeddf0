"""JSON files of a workdir: the fields of a class are the keys of its file, as docs/workdir.md explains them."""

import contextlib
import dataclasses
import enum
import json
import os
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Self, TypeAlias

from sostenuto import storage
from sostenuto.data.json_record import JsonRecord
from sostenuto.errors import UserError
from sostenuto.json_text import parse_json
from trainer.config import Config
from trainer.presets import PRESETS

Field: TypeAlias = Literal["pitch", "step", "duration", "velocity"]
ScoredField: TypeAlias = Literal["total", "pitch", "step", "duration"]
Baseline: TypeAlias = Literal["ngram", "histogram"]
Continuation: TypeAlias = Literal["generated", "real"]
MusicKind: TypeAlias = Literal["held_out", "generated", "real"]

SCORED_FIELDS: Final[tuple[ScoredField, ...]] = ("total", "pitch", "step", "duration")
CONTINUATIONS: Final[tuple[Continuation, ...]] = ("generated", "real")


@dataclasses.dataclass(frozen=True)
class WeightSource(JsonRecord):
    """The weights with which a run started: their workdir or export, train_step, and the SHA-256 of their values."""

    path: str
    train_step: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class RunInfo(JsonRecord):
    """Content of run.json, which grows while a run starts: a field is None until it is recorded."""

    REMEDY = "Restore the file, or train in another --workdir"

    dataset: str | None = None
    data: str | None = None
    sustain: Literal["ignore", "extend"] | None = None
    versions: Mapping[str, str] | None = None
    device: str | None = None
    hosts: int | None = None
    parameters: int | None = None
    targets_per_epoch: int | None = None
    pitch_range: tuple[int, int] | None = None
    composers: Sequence[str] | None = None
    init_from: WeightSource | None = None
    steps: int | None = None
    horizon: int | None = None
    horizon_from: int | None = None
    evaluate_every: int | None = None
    revisions: tuple[tuple[int, int], ...] | None = None
    max_minutes: float | None = None

    def _null_keys(self) -> Collection[str]:
        # The length is recorded as a whole, `max_minutes` last.
        return () if self.max_minutes is None else [*vars(self)][[*vars(self)].index("steps") :]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsRecord(JsonRecord):
    """A line of metrics.jsonl, as `Measurements.measure` fills it; a value that was not measured is None.

    A new field needs the default None, so that older files can be read, its value in `Measurements.measure`, and a row
    in docs/workdir.md.
    """

    REMEDY = "Delete the line"

    train_step: int
    epoch: float
    loss: float
    pitch_nll: float | None = None
    step_nll: float | None = None
    step_mse: float | None = None
    duration_nll: float | None = None
    duration_mse: float | None = None
    velocity_nll: float | None = None
    end_nll: float | None = None
    learning_rate: float
    val_nats: float | None = None
    val_pitch_nll: float | None = None
    val_step_nll: float | None = None
    val_duration_nll: float | None = None
    val_pitch_top1: float | None = None
    notes_per_second: float
    seconds: float | None = None

    @classmethod
    def from_json(cls, value: Any, name: str) -> Self:
        """Converts a parsed JSON value; the scores of validation come together."""
        record = super().from_json(value, name)
        scores = {key: score for key, score in vars(record).items() if key.startswith("val_")}
        if None in scores.values() and any(score is not None for score in scores.values()):
            raise UserError(f"{name}: {', '.join(scores)}: got some, expected all or none. {cls.REMEDY}")
        return record

    @property
    def nats(self) -> float | None:
        """Nats/note of training, of pitch, step and duration as in `val_nats`; None for a model without densities."""
        losses = [loss for loss in (self.pitch_nll, self.step_nll, self.duration_nll) if loss is not None]
        return sum(losses) if len(losses) == 3 else None

    @classmethod
    def load_all(cls, path: str) -> list[Self]:
        """Reads metrics.jsonl in the order of train_steps; of two lines of one train_step the later one counts."""
        by_train_step = {record.train_step: record for _, record in cls.parse_lines(storage.read_bytes(path), path)}
        return [by_train_step[train_step] for train_step in sorted(by_train_step)]

    @classmethod
    def parse_lines(cls, text: bytes, path: str) -> Iterator[tuple[bytes, Self]]:
        """Yields the lines of metrics.jsonl, each with its record; skips a last line that a kill has cut short."""
        *lines, rest = text.split(b"\n")
        with contextlib.suppress(UserError):
            lines += [rest] if isinstance(parse_json(rest, path), dict) else []
        for number, line in enumerate(lines, 1):
            yield line, cls.parse(line, f"{path}, line {number}")

    def to_line(self) -> str:
        """Returns the line, with its end."""
        return json.dumps(self.to_json()) + "\n"


class StopReason(enum.StrEnum):
    """Reasons for which a run, or this process's part of it, ends."""

    STEPS = "steps"
    PATIENCE = "patience"
    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    WORKER = "worker"  # another worker received a signal
    CALLER = "caller"  # the caller of `train` stopped it

    @property
    def is_final(self) -> bool:
        """Whether the run is complete."""
        return self in (StopReason.STEPS, StopReason.PATIENCE)

    @property
    def is_signal(self) -> bool:
        """Whether this process received a signal."""
        return self in (StopReason.SIGTERM, StopReason.SIGINT)

    @property
    def exit_status(self) -> int:
        """Exit status of the command: 128 and the number of the signal, or 75 if another worker received one."""
        if self.is_signal:
            return 128 + signal.Signals[self]
        return os.EX_TEMPFAIL if self is StopReason.WORKER else 0


@dataclasses.dataclass(frozen=True)
class RunResult(JsonRecord):
    """Content of result.json: how a run ended.

    Attributes:
        train_step: train_steps done.
        best: the best monitored score, or None without a score.
        best_train_step: train_steps done at the best score.
        monitor: the monitored score.
        reason: why the run ended.
    """

    REMEDY = "Delete the file and repeat the training command"

    train_step: int
    best: float | None
    best_train_step: int
    monitor: str
    reason: StopReason

    def _null_keys(self) -> Collection[str]:
        return ("best",)


@dataclasses.dataclass(frozen=True)
class ExportInfo(JsonRecord):
    """Content of export.json: the exported model."""

    REMEDY = "Delete result.json of the workdir and repeat the training command, which exports again"

    train_step: int
    pitch_range: tuple[int, int]
    config: Config
    sustain: Literal["ignore", "extend"] | None = None
    composers: Sequence[str] = ()

    @classmethod
    def from_json(cls, value: Any, name: str) -> Self:
        """Converts a parsed JSON value; fields that the config lacks are those of its preset, as in config.json."""
        config = value.get("config") if isinstance(value, dict) else None
        if isinstance(config, dict):
            defaults = PRESETS.get(str(config.get("preset")), Config())
            value = {**value, "config": dataclasses.asdict(defaults) | config}
        return super().from_json(value, name)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object."""
        return {**super().to_json(), "config": dataclasses.asdict(self.config)}
