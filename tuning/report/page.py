"""A study as one HTML page: the best config, charts of all configs, and a table of all trials."""

from pathlib import Path
from typing import Any, Final, NamedTuple

from sostenuto.html.pages import Tile, environment
from tuning.importance import FEWEST_CONFIGS, SHUFFLES, Importance, compared, importance, is_number
from tuning.report.charts import SHADES, StudyCharts, is_shorter, score_of
from tuning.space import notes_per_train_step
from tuning.summary import (
    BEST_CONFIG_NAME,
    StudySummary,
    duration,
    format_summary,
    percent,
    ranked,
    shown,
    trained,
)

_MARKS: Final = {"completed": "✓", "stopped": "■", "failed": "✗", "running": "▶", "queued": "·"}


class _Cell(NamedTuple):
    """A cell of the table of trials: its text, and the number that it is sorted by, or None to sort by the text."""

    text: str
    key: float | str | None = None


class _Column(NamedTuple):
    """A column of the table of trials."""

    name: str
    is_number: bool = False


def render(study: StudySummary) -> str:
    """Returns the page as HTML.

    Args:
        study: the study at any stage.
    """
    templates = environment(Path(__file__).parent)
    templates.filters |= {"percent": percent, "shown": shown}
    ranking = importance(study)
    columns, rows = _tabulate_trials(study)
    return templates.get_template("study.html.j2").render(
        study=study,
        best_config_name=BEST_CONFIG_NAME,
        lead=[*format_summary(study), *_describe_importance(study, ranking)],
        tiles=_tiles(study),
        notes=study.settings.train_steps * notes_per_train_step(study.space.start(study.start)),
        best_values=_best_values(study),
        charts=_view_charts(study) if any(chain.judged for chain in study.chains) else None,
        importance=ranking,
        comparable=len(compared(study.chains)[1]),
        fewest_configs=FEWEST_CONFIGS,
        shuffles=SHUFFLES,
        columns=columns,
        rows=rows,
    )


def _tiles(study: StudySummary) -> list[Tile]:
    """Returns the numbers at the top of the page."""
    start = study.first.judged if study.first else None
    failed = sum(record.state == "failed" for record in study.trials)
    seconds = sum(record.seconds for record in study.trials)
    return [
        Tile("best score", f"{study.best.score:.3f}" if study.best else "–", "nats/note, less is better"),
        Tile("start config", f"{start.score:.3f}" if start else "–", "nats/note, trial 0000"),
        Tile("trials", str(len(study.trials)), f"{failed} failed"),
        Tile("spent", duration(seconds), "h:mm:ss, all workers together"),
    ]


def _describe_importance(study: StudySummary, ranking: Importance | None) -> list[str]:
    if len(study.space.parameters) < 2:
        return []
    if ranking is None:
        return ["There are too few scores to rank the hyperparameters."] if study.trials else []
    first, second, *_ = ranking.means
    if not ranking.is_predictive or ranking.means[first] <= 0:
        return ["No hyperparameter stands out: these trials do not predict the score."]
    runner_up = f", then {second}" if ranking.means[second] > 0.5 * ranking.means[first] else ""
    return [f"Of the hyperparameters, {first} mattered most{runner_up}."]


def _best_values(study: StudySummary) -> list[tuple[str, Any, Any, str]]:
    """Returns name, best value, start value and unit of each hyperparameter and each fixed field."""
    best = study.best
    if best is None:
        return []
    start = study.space.start(study.start)
    tuned = [
        (parameter.field, study.value(best, parameter), getattr(start, parameter.field), parameter.unit)
        for parameter in study.space.parameters
    ]
    fixed = [(field, value, getattr(study.start, field), "fixed") for field, value in study.space.fixed.items()]
    return [*tuned, *fixed]


def _view_charts(study: StudySummary) -> dict[str, Any]:
    """Returns what the template shows of a study that has a score."""
    charts = StudyCharts(study)
    chains = [chain for chain in study.chains if chain.judged or chain.last.state == "failed"]
    scores = [score_of(chain) for chain in chains if chain.judged]
    return {
        "legend": {
            "best": study.best,
            "has_start": study.first is not None and study.best not in study.first.trials,
            "shades": range(SHADES),
            "lowest": min(scores),
            "highest": max(scores),
        },
        "parallel": charts.parallel_coordinates(chains),
        "has_shorter": any(map(is_shorter, chains)),
        "has_failed": any(chain.judged is None for chain in chains),
        "scatter": charts.scatter(),
        "curves": charts.learning_curves(),
    }


def _tabulate_trials(study: StudySummary) -> tuple[list[_Column], list[tuple[str, bool, list[_Cell]]]]:
    """Returns the columns, and of each trial, best first, its id, whether it is the best, and its cells."""
    parameters = study.space.parameters
    has_parents = any(record.parent for record in study.trials)
    has_reasons = any(record.state in ("stopped", "failed") for record in study.trials)
    columns = [_Column("trial"), _Column("state"), _Column("nats/note", True)]
    columns += [_Column(parameter.field, True) for parameter in parameters]
    columns += [_Column("trained", True), _Column("time", True), _Column("attempts", True), _Column("worker")]
    columns += [_Column("continues")] * has_parents + [_Column("reason")] * has_reasons
    rows = []
    for record in ranked(study.trials):
        values = [study.value(record, parameter) for parameter in parameters]
        cells = [
            _Cell(record.id, int(record.id)),
            _Cell(f"{_MARKS[record.state]} {record.state}"),
            _Cell("", "") if record.score is None else _Cell(f"{record.score:.3f}", record.score),
            *(_Cell(shown(value), value if is_number(value) else None) for value in values),
            _Cell(percent(trained(record)), trained(record)),
            _Cell(duration(record.seconds), record.seconds),
            _Cell(str(record.attempt), record.attempt),
            _Cell(record.worker),
        ]
        if has_parents:
            cells.append(_Cell(record.parent or ""))
        if has_reasons:
            cells.append(_Cell(record.reason if record.state in ("stopped", "failed") else ""))
        rows.append((record.id, record is study.best, cells))
    return columns, rows
