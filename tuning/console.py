"""Progress and results of a study on the terminal."""

import contextlib
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from sostenuto import progress
from sostenuto.text import duration, labelled
from tuning.artifacts import REPORT_NAME, TRIALS_NAME
from tuning.space import Parameter
from tuning.summary import BEST_CONFIG_NAME, StudySummary, format_summary, format_value, ranked, seconds_left
from tuning.trial import Trial, TrialStatus

logger = logging.getLogger(__name__)

_STATUS_SECONDS = 30.0  # between two status lines in a log
_LOG_WIDTH = 100  # columns without a terminal
_WIDTHS = {"trial": 5, "state": 9, "trained": 7, "nats/note": 9, "to base": 8, "best": 7, "took": 7, "left": 9}
_ENDED_FACTS = ("trial", "state", "trained", "nats/note", "best", "took", "left")
_FINAL_FACTS = ("trial", "state", "trained", "nats/note", "to base", "took")


class Progress(contextlib.AbstractContextManager["Progress"]):
    """Shows a running study on stderr: a line for each ended trial, and the state of the others.

    A terminal shows the state in one updated line, a log in a line now and then.
    """

    def __init__(self) -> None:
        self._shown: set[str] | None = None
        self._bar: Any = None
        self._next_line = time.monotonic() + _STATUS_SECONDS

    def __exit__(self, *_: object) -> None:
        """Closes the updated line."""
        if self._bar is not None:
            self._bar.close()

    def show(self, summary: StudySummary) -> None:
        """Shows the changes since the last call; the first call summarizes the trials that have ended before."""
        ended = [trial for trial in summary.trials if not trial.is_open]
        table = _Table(summary, _ENDED_FACTS)
        if self._shown is None:
            self._shown = {trial.id for trial in ended}
            head = [] if progress.has_json_lines() else table.head
            for line in [f"resumed: {' '.join(format_summary(summary))}"] * bool(ended) + head:
                logger.info(line)
            self._bar = progress.bar(total=None, unit="trial", description="", bar_format="{desc}", leave=False)
        for trial in ended:
            if trial.id not in self._shown:
                self._shown.add(trial.id)
                _log_ended(trial, table)
        if self._bar is not None:
            self._bar.set_description_str(_status(summary))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _STATUS_SECONDS
            best = summary.best.score if summary.best else None
            figures = {"ended": len(ended), "best": best, "seconds_left": seconds_left(summary)}
            logger.info(_status(summary), extra={"figures": figures})


def final_report(summary: StudySummary, retrain: bool = False) -> str:
    """Returns the trials, best first, the results, the files and, unless `retrain` does it, the next command."""
    table = _Table(summary, _FINAL_FACTS)
    lines = [*table.head, *(table.row(trial) for trial in ranked(summary.trials))]
    if table.omitted:
        lines.append(f"{', '.join(table.omitted)}: see {TRIALS_NAME}")
    facts = [("report", summary.path(REPORT_NAME))]
    if summary.best is not None:
        best = f"trial {summary.best.id}, {summary.best.score:.3f} nats/note"
        facts = [("best", best), ("config", summary.path(BEST_CONFIG_NAME)), *facts]
        facts += [("next step", summary.train_command)] * (not retrain)
    return "\n".join([*lines, "", *format_summary(summary), "", *labelled(facts, width=None)])


def _log_ended(trial: Trial, table: "_Table") -> None:
    """Logs an ended trial: a row of the table or, among JSON lines, a sentence."""
    line = table.row(trial)
    if progress.has_json_lines():
        score = "" if trial.score is None else f", {trial.score:.3f} nats/note"
        reason = f" ({trial.reason})" if trial.status == TrialStatus.FAILED else ""
        line = f"trial {trial.id}: {trial.status}{score}{reason}"
    figures = {"trial": trial.id, "state": trial.status, "score": trial.score, "seconds": trial.seconds}
    logger.info(line, extra={"figures": figures})


def _status(summary: StudySummary) -> str:
    """Returns a study in one line: ended and running trials, and the time left."""
    ended = sum(not chain.last.is_open for chain in summary.chains)
    noun = "configs" if summary.config.tuner == "hyperband" else "trials"
    parts = [f"{ended} of {summary.config.max_trials} {noun} ended"]
    if summary.best is not None:
        parts.append(f"best {summary.best.score:.3f} ({summary.best.id})")
    running = [trial for trial in summary.trials if trial.status == TrialStatus.RUNNING]
    if running:
        parts.append(", ".join(f"{trial.id} {trial.trained_share:.0%}{_last_score(trial)}" for trial in running))
    if time_left := _time_left(summary):
        parts.append(f"{time_left} left")
    return " | ".join(parts)


def _last_score(trial: Trial) -> str:
    return next((f" {score.score:.3f}" for score in reversed(trial.scores) if score.score is not None), "")


def _time_left(summary: StudySummary) -> str:
    seconds = seconds_left(summary)
    sign = "> " if summary.config.tuner == "hyperband" else ""
    return "" if seconds is None else sign + duration(seconds)


class _Table:
    """Lines of fixed columns: facts about a trial, then the hyperparameters that fit."""

    def __init__(self, summary: StudySummary, facts: Sequence[str]) -> None:
        self._summary, self._facts = summary, facts
        on_terminal = sys.stderr.isatty()
        self._columns = shutil.get_terminal_size((_LOG_WIDTH, 24)).columns - 1 if on_terminal else _LOG_WIDTH
        self._widths = [_WIDTHS[name] for name in facts]
        self._facts_width = sum(self._widths) + 2 * len(facts)
        self._parameters: list[Parameter] = []
        names = [("", name) for name in facts]
        for parameter in summary.space.parameters:
            first, _, rest = parameter.field.rpartition("_")
            width = max(len(first), len(rest), *(len(format_value(value)) for value in parameter.grid or (0.1234,)))
            if sum(self._widths) + 2 * len(self._widths) + width > self._columns:
                break
            self._parameters.append(parameter)
            self._widths.append(width)
            names.append((first, rest))
        self.omitted = [parameter.field for parameter in summary.space.parameters[len(self._parameters) :]]
        self.head = [self._line(cells) for cells in zip(*names, strict=True) if any(cells)]

    def row(self, trial: Trial) -> str:
        """Returns the line of a trial; a failed trial's reason replaces its values."""
        facts = self._fact_cells(trial)
        if trial.status == TrialStatus.FAILED:
            line = f"{self._line(facts):{self._facts_width}}{trial.reason}"
            return line if len(line) <= self._columns else line[: self._columns - 1] + "…"
        values = (self._summary.value(trial, parameter) for parameter in self._parameters)
        return self._line([*facts, *map(format_value, values)])

    def _fact_cells(self, trial: Trial) -> list[str]:
        summary = self._summary
        base_score = summary.first.score_at(trial.trained_share) if summary.first else None
        cells = {
            "trial": trial.id,
            "state": trial.status,
            "trained": f"{trial.trained_share:.0%}",
            "nats/note": "" if trial.score is None else f"{trial.score:.3f}",
            "to base": "" if trial.score is None or base_score is None else f"{trial.score - base_score:+.3f}",
            "best": f"{summary.best.score:.3f}" if summary.best else "",
            "took": duration(trial.seconds),
            "left": _time_left(summary),
        }
        return [cells[name] for name in self._facts]

    def _line(self, cells: Sequence[str]) -> str:
        sides = "<<" + ">" * len(cells)  # The first two columns are texts.
        columns = zip(cells, sides, self._widths, strict=False)
        return "  ".join(f"{cell:{side}{width}}" for cell, side, width in columns).rstrip()
