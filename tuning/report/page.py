"""A study as one HTML page: the best config, charts of all configs, and a table of all trials."""

from pathlib import Path
from typing import Any, Final

from sostenuto.html.pages import environment
from sostenuto.text import duration
from tuning.report.charts import StudyCharts
from tuning.report.importance import MIN_CONFIGS, SHUFFLES, Importance, importance, is_number
from tuning.space import notes_per_train_step
from tuning.summary import StudySummary, format_summary, format_value, ranked

_MARKS: Final = {"completed": "✓", "stopped": "■", "failed": "✗", "running": "▶", "queued": "·"}


def render(study: StudySummary) -> str:
    """Returns the page of a study at any stage as HTML."""
    templates = environment(Path(__file__).parent)
    templates.filters |= {"duration": duration, "percent": "{:.0%}".format, "shown": format_value}
    ranking = importance(study)
    has_scores = any(chain.last_scored for chain in study.chains)
    return templates.get_template("study.html.j2").render(
        study=study,
        lead=[*format_summary(study), *_describe_importance(study, ranking)],
        notes=study.config.train_steps * notes_per_train_step(study.space.start),
        best_values=_best_values(study),
        charts=StudyCharts(study) if has_scores else None,
        importance=ranking,
        fewest_configs=MIN_CONFIGS,
        shuffles=SHUFFLES,
        trials=ranked(study.trials),
        marks=_MARKS,
        is_number=is_number,
    )


def _describe_importance(study: StudySummary, ranking: Importance | None) -> list[str]:
    if len(study.space.parameters) < 2:
        return []
    if ranking is None:
        return ["There are too few scores to rank the hyperparameters."] if study.trials else []
    first, second, *_ = ranking.means
    if ranking.fit <= 0 or ranking.means[first] <= 0:
        return ["No hyperparameter stands out: these trials do not predict the score."]
    runner_up = f", then {second}" if ranking.means[second] > 0.5 * ranking.means[first] else ""
    return [f"The hyperparameter {first} mattered most{runner_up}."]


def _best_values(study: StudySummary) -> list[tuple[str, Any, Any, str]]:
    """Returns name, best value, base config's value and unit of each hyperparameter and each fixed field."""
    best = study.best
    if best is None:
        return []
    start = study.space.start  # with the fixed values, as in trial 0000
    tuned = [(parameter.field, study.value(best, parameter), parameter.unit) for parameter in study.space.parameters]
    fixed = [(field, value, "fixed") for field, value in study.space.fixed.items()]
    return [(field, value, getattr(start, field), unit) for field, value, unit in (*tuned, *fixed)]
