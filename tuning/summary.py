"""What a user gets of a study: trials.json, best_config.json, report.html, TensorBoard's table, lines on the terminal.

All of it follows from the trials' records; nothing is read back.
"""

import dataclasses
import io
import itertools
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sostenuto import progress, storage
from sostenuto.text import duration
from trainer.config import Config
from trainer.workdir.json_record import write_json
from tuning.space import Parameter, Space, notes_per_train_step, steps_for_equal_notes
from tuning.study import SAME_SHARE, StudyConfig, Trial, best_of

if TYPE_CHECKING:
    import tqdm

logger = logging.getLogger(__name__)

TRIALS_NAME = "trials.json"
BEST_CONFIG_NAME = "best_config.json"
REPORT_NAME = "report.html"
SUMMARIES_NAME = "summaries"

_EVENTS_NAME = "events.out.tfevents.study"  # TensorBoard reads what has tfevents in its name
_STATUS_SECONDS = 30.0  # between two lines that tell a log how a study comes on
_LOG_WIDTH = 100  # columns, where there is no terminal to ask


@dataclasses.dataclass(frozen=True)
class StudySummary:
    """How a study stands.

    Attributes:
        trials: all of them, in the order in which they were begun; the first one is the start config.
        space: what is searched.
        start: the config that all trials vary.
        settings: how it searches.
    """

    trials: Sequence[Trial]
    space: Space
    start: Config
    settings: StudyConfig

    @property
    def best(self) -> Trial | None:
        """The completed trial of the lowest score, among those trained longest (hyperband); None before there is."""
        return best_of(self.trials)

    @property
    def chains(self) -> list["TrialChain"]:
        """The trials put together by config, in the order of the first ones."""
        chains: dict[str, list[Trial]] = {}
        first: dict[str | None, str] = {}
        for record in self.trials:
            first[record.id] = first.get(record.parent, record.id)
            chains.setdefault(first[record.id], []).append(record)
        return [TrialChain(tuple(records)) for records in chains.values()]

    @property
    def first(self) -> "TrialChain | None":
        """What became of the start config; None before it has begun."""
        return self.chains[0] if self.trials else None

    def value(self, record: Trial, parameter: Parameter) -> Any:
        """What a trial has for a hyperparameter."""
        return record.values.get(parameter.field, getattr(self.space.start(self.start), parameter.field))


@dataclasses.dataclass(frozen=True)
class TrialChain:
    """The trials of one config: one, or with hyperband one a rung, each going on where the one before ended.

    Attributes:
        trials: in order; never empty.
    """

    trials: tuple[Trial, ...]

    @property
    def last(self) -> Trial:
        """The newest of the trials."""
        return self.trials[-1]

    @property
    def judged(self) -> Trial | None:
        """The newest of the trials that ended with a score; None where none has."""
        return next((record for record in reversed(self.trials) if record.has_score), None)

    @property
    def curve(self) -> list[tuple[int, float, float]]:
        """The finite scores, as (train_step, share of the full length, nats/note)."""
        points = {
            each.train_step: (each.train_step, each.share, each.score)
            for record in self.trials
            for each in record.scores
            if each.score is not None
        }
        return [points[train_step] for train_step in sorted(points)]

    def score_at(self, share: float) -> float | None:
        """The best score up to a share of the full length, between two scores on the line from one to the other.

        None outside of what was scored.
        """
        shares = [at for _, at, _ in self.curve]
        best = list(itertools.accumulate((score for _, _, score in self.curve), min))
        if not shares or not shares[0] - SAME_SHARE <= share <= shares[-1] + SAME_SHARE:
            return None
        return float(np.interp(share, shares, best))


def trained(record: Trial) -> float:
    """The share of the full length that a trial was trained for, as far as it was heard of."""
    if record.state == "completed":
        return record.share
    return max((each.share for each in record.scores), default=0.0)


def best_config(record: Trial, space: Space, start: Config) -> Config:
    """A trial's config at full length.

    Args:
        record: the trial.
        space: of the study.
        start: the config that all trials vary; how long to train, when to score and what to keep are as it says. A
            length in train_steps becomes that in which as many notes are read, as it does for trials.
    """
    first = space.start(start)
    config = first.replace(**record.values)
    return config.replace(steps=steps_for_equal_notes(config, first, first.steps)) if first.steps else config


def trials_document(standing: StudySummary) -> dict[str, Any]:
    """The content of trials.json, as docs/tuning.md describes it."""
    settings, best = standing.settings, standing.best
    first = standing.space.start(standing.start)
    return {
        "objective": {"name": "val_nats", "unit": "nats/note", "direction": "min", "split": "validation"},
        "tuner": settings.tuner,
        "seed": settings.seed,
        "max_trials": settings.max_trials,
        "train_steps": settings.train_steps,
        "notes_per_trial": settings.train_steps * notes_per_train_step(first),
        "dataset": settings.data,
        "space": standing.space.to_json(),
        "start": dataclasses.asdict(standing.start),
        "best": best.id if best else None,
        "trials": [_trial_object(record, standing) for record in standing.trials],
    }


def write(standing: StudySummary, directory: str) -> None:
    """Writes the results of a study as it stands, each file whole or not at all; cheap enough for after each trial.

    Args:
        standing: the study.
        directory: its workdir.

    Raises:
        UserError: a file cannot be written.
    """
    # Forests and pages are for whoever writes results, not for whoever only looks at a trial.
    from tuning.report import page

    write_json(os.path.join(directory, TRIALS_NAME), trials_document(standing))
    if standing.best is not None:
        config = best_config(standing.best, standing.space, standing.start)
        storage.write_bytes_atomic(os.path.join(directory, BEST_CONFIG_NAME), config.to_json().encode())
    _write_summaries(standing, os.path.join(directory, SUMMARIES_NAME))
    storage.write_bytes_atomic(os.path.join(directory, REPORT_NAME), page.render(standing).encode())


def remove(directory: str) -> None:
    """Removes what `write` wrote into a study's workdir.

    Raises:
        UserError: something cannot be removed.
    """
    for name in (TRIALS_NAME, BEST_CONFIG_NAME, REPORT_NAME):
        storage.remove(os.path.join(directory, name))
    storage.remove_directory(os.path.join(directory, SUMMARIES_NAME))


def format_summary(standing: StudySummary) -> list[str]:
    """What came of a study so far, in sentences."""
    trials, best, first = standing.trials, standing.best, standing.first
    if first is None:
        return ["No trial has begun."]
    states = [record.state for record in trials]
    counts = ", ".join(
        f"{states.count(state)} {state}"
        for state in ("completed", "stopped", "failed", "running", "queued")
        if state in states
    )
    said = [f"{len(trials)} {'trial' if len(trials) == 1 else 'trials'}: {counts}."]
    if len(standing.chains) < len(trials):
        said[0] += f" They are {len(standing.chains)} configs: the better ones were trained on, in trials of their own."
    if best is None:
        if all(state == "failed" for state in states):
            said.append(f"All failed, the last one with: {trials[-1].reason}.")
        else:
            said.append("None has completed yet.")
        return said
    until = "" if best.share == 1 else f" after {percent(best.share)} of the full length"
    text = f"The best, trial {best.id}, scores {best.score:.3f} nats/note on the validation split{until}"
    judged = first.judged
    if best in first.trials:
        others = any(chain.judged for chain in standing.chains[1:])
        return [*said, f"{text}: it is the start config{', which no other trial beat' if others else ''}."]
    if judged is None or judged.score is None or best.score is None:
        return [*said, f"{text}; the start config has no score to compare it with."]
    margin = judged.score - best.score
    shorter = "" if judged.share == best.share else f", which was trained for {percent(judged.share)} of it only"
    side = "below" if margin >= 0 else "above"
    return [*said, f"{text}, {abs(margin):.3f} {side} the start config's {judged.score:.3f}{shorter}."]


def seconds_left(standing: StudySummary) -> float | None:
    """How long the study will still take; None before a trial has ended.

    The mean of what the trials took that ended, for those to come and what is left of those under way, shared out to
    the workers that took the newest trials. What hyperband will promote is not known and not counted.
    """
    ended = [record for record in standing.trials if not record.is_open]
    if not ended:
        return None
    under_way = [record for record in standing.trials if record.is_open]
    to_come = max(standing.settings.max_trials - len(standing.chains), 0)
    trials = to_come + sum(1 - min(trained(record) / record.share, 1) for record in under_way)
    # A worker whose trial just ended has not asked for the next one yet, and the others may have begun some meanwhile.
    newest = [*under_way, *standing.trials[-2 * (len(under_way) + 1) :]]
    workers = len({record.worker for record in newest})
    return trials * sum(record.seconds for record in ended) / len(ended) / workers


class Progress:
    """Shows a study as it goes, on stderr: a line a trial as it ends, and how the others come on.

    That is a line which is kept up to date on a terminal, and one now and then elsewhere.

    A context manager.

    Args:
        quiet: shows nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._shown: set[str] | None = None
        self._bar: tqdm.tqdm | None = None
        self._next_line = time.monotonic() + _STATUS_SECONDS

    def __enter__(self) -> "Progress":
        """Returns it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the line that is kept up to date."""
        if self._bar is not None:
            self._bar.close()

    def show(self, standing: StudySummary) -> None:
        """Shows what has changed since the last call; the trials that had ended before the first are summed up."""
        if self._quiet:
            return
        ended = [record for record in standing.trials if not record.is_open]
        table = _Table(standing, ("trial", "state", "trained", "nats/note", "best", "took", "left"))
        if self._shown is None:
            self._shown = {record.id for record in ended}
            if ended:
                logger.info(f"resumed: {' '.join(format_summary(standing))}")
            if not progress.has_json_lines():
                for line in table.head:
                    logger.info(line)
            self._bar = progress.bar(total=None, unit="trial", description="", bar_format="{desc}", leave=False)
        for record in ended:
            if record.id not in self._shown:
                self._shown.add(record.id)
                _say_ended(record, table)
        if self._bar is not None:
            self._bar.set_description_str(_status(standing))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _STATUS_SECONDS
            logger.info(
                _status(standing),
                extra={
                    "figures": {
                        "ended": len(ended),
                        "best": standing.best.score if standing.best else None,
                        "seconds_left": seconds_left(standing),
                    }
                },
            )


def _say_ended(record: Trial, table: "_Table") -> None:
    """Says what came of a trial: a row of the table or, where that has no head, a sentence with its figures."""
    line = table.row(record)
    if progress.has_json_lines():
        score = "" if record.score is None else f", {record.score:.3f} nats/note"
        line = f"trial {record.id}: {record.state}{score}{f' ({record.reason})' if record.state == 'failed' else ''}"
    logger.info(
        line,
        extra={
            "figures": {"trial": record.id, "state": record.state, "score": record.score, "seconds": record.seconds}
        },
    )


def final_table(standing: StudySummary) -> str:
    """The trials, best first, and what came of the study: lines for a terminal, or for a log of 100 columns."""
    table = _Table(standing, ("trial", "state", "trained", "nats/note", "to start", "took"))
    lines = [*table.head, *(table.row(record) for record in ranked(standing.trials))]
    if table.left_out:
        lines.append(f"{', '.join(table.left_out)}: see {TRIALS_NAME}")
    return "\n".join([*lines, "", *format_summary(standing)]) + "\n"


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Trials by what they are worth: completed ones trained longest first, then by score; then others; failed last."""
    states = ("completed", "stopped", "running", "queued", "failed")

    def key(record: Trial) -> tuple[int, float, float, str]:
        score = float("inf") if record.score is None else record.score
        return states.index(record.state), -record.share if record.state == "completed" else 0.0, score, record.id

    return sorted(trials, key=key)


def shown(value: Any) -> str:
    """A value of a hyperparameter, to be read."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(share: float) -> str:
    """A share, to be read."""
    return f"{share:.0%}".replace("%", " %")


def _trial_object(record: Trial, standing: StudySummary) -> dict[str, Any]:
    config, start = best_config(record, standing.space, standing.start), standing.start
    changed = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(start, field.name)
    }
    return {
        "trial": record.id,
        "state": record.state,
        "parent": record.parent,
        "directory": record.directory,
        "values": dict(record.values),
        "changed": changed,
        "share": record.share,
        "score": record.score,
        "scores": [dataclasses.asdict(score) for score in record.scores],
        "train_step": record.train_step,
        "seconds": record.seconds,
        "attempts": record.attempt,
        "worker": record.worker,
        "reason": record.reason,
    }


def _write_summaries(standing: StudySummary, directory: str) -> None:
    """Writes what TensorBoard's HParams shows: the space, and a run for each trial that ended and was not yet written.

    The bytes of event files are put together here, since TensorFlow's own writers would start it up, with all its
    devices, in a chief that has no use for any, and would append to files in place.
    """
    from tensorboard.plugins.hparams import summary_v2
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb

    now = time.time()
    path = os.path.join(directory, _EVENTS_NAME)
    if not storage.exists(path):
        storage.make_directories(directory)
        experiment = summary_v2.hparams_config_pb(
            hparams=[_domain(parameter) for parameter in standing.space.parameters],
            metrics=[summary_v2.Metric("score", display_name="score, nats/note")],
        )
        storage.write_bytes_atomic(path, _events([(0, experiment)], now))
    for record in standing.trials:
        path = os.path.join(directory, record.id, _EVENTS_NAME)
        if record.is_open or storage.exists(path):
            continue
        values = {parameter.field: standing.value(record, parameter) for parameter in standing.space.parameters}
        summaries = [
            (0, summary_v2.hparams_pb(values, trial_id=record.id, start_time_secs=now - record.seconds)),
            *((each.train_step, scalar_pb("val_nats", each.score)) for each in record.scores if each.score is not None),
        ]
        if record.score is not None:
            summaries.append((record.train_step, scalar_pb("score", record.score)))
        summaries.append((record.train_step, _session_end(record, now)))
        storage.make_directories(os.path.dirname(path))
        storage.write_bytes_atomic(path, _events(summaries, now))


def _session_end(record: Trial, wall_time: float) -> Any:
    """TensorBoard's word for how a trial ended; its own function for this is made of TensorFlow's messages."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    status = api_pb2.STATUS_FAILURE if record.state == "failed" else api_pb2.STATUS_SUCCESS
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=wall_time)
    told = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=info))
    value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=told, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])


def _domain(parameter: Parameter) -> Any:
    from tensorboard.plugins.hparams import summary_v2

    domain: Any
    if parameter.kind == "choice":
        domain = summary_v2.Discrete(list(parameter.values))
    elif parameter.kind == "int":
        domain = summary_v2.IntInterval(int(parameter.low or 0), int(parameter.high or 0))
    else:
        domain = summary_v2.RealInterval(float(parameter.low or 0), float(parameter.high or 0))
    return summary_v2.HParam(parameter.field, domain, description=f"{parameter.unit}: {parameter.why}")


def _events(summaries: Sequence[tuple[int, Any]], wall_time: float) -> bytes:
    """The bytes of an event file."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = io.BytesIO()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
    for train_step, summary in summaries:
        writer.write(Event(wall_time=wall_time, step=train_step, summary=summary).SerializeToString())
    return file.getvalue()


def _status(standing: StudySummary) -> str:
    """A study in one line: what has ended, what runs, how long it will take."""
    ended = sum(not chain.last.is_open for chain in standing.chains)
    parts = [f"{ended} of {standing.settings.max_trials} {_noun(standing)} ended"]
    if standing.best is not None:
        parts.append(f"best {standing.best.score:.3f} ({standing.best.id})")
    running = []
    for record in standing.trials:
        if record.state == "running":
            scores = [each.score for each in record.scores if each.score is not None]
            score = f" {scores[-1]:.3f}" if scores else ""
            running.append(f"{record.id} {percent(trained(record))}{score}")
    parts.extend([", ".join(running)] if running else [])
    left = _left(standing)
    return " | ".join([*parts, f"{left} left"] if left else parts)


def _noun(standing: StudySummary) -> str:
    return "configs" if standing.settings.tuner == "hyperband" else "trials"


def _left(standing: StudySummary) -> str:
    seconds = seconds_left(standing)
    if seconds is None:
        return ""
    return ("> " if standing.settings.tuner == "hyperband" else "") + duration(seconds)


class _Table:
    """Lines of fixed columns: facts about a trial, then as many hyperparameters as fit.

    Attributes:
        head: the lines above.
        left_out: the hyperparameters that did not fit.
    """

    def __init__(self, standing: StudySummary, facts: Sequence[str]) -> None:
        self._standing, self._facts = standing, facts
        on_terminal = sys.stderr.isatty()
        self._columns = shutil.get_terminal_size((_LOG_WIDTH, 24)).columns - 1 if on_terminal else _LOG_WIDTH
        widths = {"trial": 5, "state": 9, "trained": 7, "nats/note": 9, "to start": 8, "best": 7, "took": 7, "left": 9}
        self._widths = [widths[name] for name in facts]
        self._parameters: list[Parameter] = []
        names = [("", name) for name in facts]
        for parameter in standing.space.parameters:
            first, _, rest = parameter.field.rpartition("_")
            width = max(len(first), len(rest), *(len(shown(value)) for value in parameter.grid or (0.1234,)))
            if self._length([*self._widths, width]) > self._columns:
                break
            self._parameters.append(parameter)
            self._widths.append(width)
            names.append((first, rest))
        self.left_out = [parameter.field for parameter in standing.space.parameters[len(self._parameters) :]]
        self.head = [self._line(cells) for cells in zip(*names, strict=True) if any(cells)]

    @staticmethod
    def _length(widths: Sequence[int]) -> int:
        return sum(widths) + 2 * (len(widths) - 1)

    def _line(self, cells: Sequence[str]) -> str:
        placed = [
            cell.ljust(width) if name in ("trial", "state") else cell.rjust(width)
            for cell, width, name in itertools.zip_longest(cells, self._widths[: len(cells)], self._facts[: len(cells)])
        ]
        return "  ".join(placed).rstrip()

    def row(self, record: Trial) -> str:
        """The line of a trial; what a failed one failed of stands in place of its values."""
        facts = list(self._cells(record))
        if record.state == "failed":
            line = self._line(facts).ljust(self._length(self._widths[: len(facts)])) + "  " + record.reason
            return line if len(line) <= self._columns else line[: self._columns - 1] + "…"
        return self._line([*facts, *(shown(self._standing.value(record, each)) for each in self._parameters)])

    def _cells(self, record: Trial) -> Iterator[str]:
        first = self._standing.first
        start = first.score_at(trained(record)) if first else None
        best = self._standing.best
        for name in self._facts:
            match name:
                case "trial":
                    yield record.id
                case "state":
                    yield record.state
                case "trained":
                    yield percent(trained(record))
                case "nats/note":
                    yield "" if record.score is None else f"{record.score:.3f}"
                case "to start":
                    yield "" if record.score is None or start is None else f"{record.score - start:+.3f}"
                case "best":
                    yield f"{best.score:.3f}" if best else ""
                case "took":
                    yield duration(record.seconds)
                case "left":
                    yield _left(self._standing)
