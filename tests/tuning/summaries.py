"""Summaries of studies at every stage, made without training."""

from typing import Any

from trainer.config import Config
from trainer.presets import preset
from tuning.space_file import create_space
from tuning.summary import StudySummary
from tuning.trial import Score, StudyConfig, Trial, TrialStatus

START = preset("base")


def trial(number: int, state: str = "completed", score: float | None = None, **changes: Any) -> Trial:
    """A trial of 900 train_steps; one that completed was scored at each third of them."""
    name = f"{number:04d}"
    scores: tuple[Score, ...] = ()
    if score is not None and state == "completed":
        scores = tuple(Score(300 * third, third / 3, score + 0.5 * (3 - third)) for third in (1, 2, 3))
    elif score is not None:
        scores = (Score(300, 1 / 3, score),)
    values = {"seq_length": 128, "units": 256, "step_weight": 1.0, "duration_weight": 1.0, **changes.pop("values", {})}
    changes = {"directory": f"trials/{name}", "attempt": 1, "worker": "tuner0", "seconds": 100.0, **changes}
    if scores:
        changes = {"train_step": scores[-1].train_step, "scores": scores, **changes}
    ended_with_score = state in ("completed", "stopped")
    changes = {"share": 1.0, "score": score if ended_with_score else None, **changes}
    return Trial(name, TrialStatus(state), values, **changes)


def rung(number: int, share: float, score: float, parent: str | None = None, **changes: Any) -> Trial:
    scores = (Score(round(900 * share), share, score),)
    return trial(number, score=score, share=share, parent=parent, scores=scores, **changes)


def summarize(
    *trials: Trial, start: Config = START, tuner: str = "random", workdir: str = "/my studies/first", **space: Any
) -> StudySummary:
    config = StudyConfig(tuner, 12, 900, seed=3, data="ab" * 32)
    return StudySummary(trials, create_space(start, **space), config, workdir, "/data/maestro")


def searched(count: int = 12) -> StudySummary:
    """A search in which units decide, and nothing else."""
    units = (64, 96, 128, 192, 256, 384, 512)
    return summarize(
        *(
            trial(
                number,
                score=9 - units[number % 7] / 512 + 0.001 * (number % 3),
                values={"units": units[number % 7], "seq_length": (32, 64, 128)[number % 3]},
            )
            for number in range(count)
        )
    )


def hyperband() -> StudySummary:
    first = [rung(n, 1 / 9, 9.5 - 0.1 * n, values={"units": (64, 96, 128, 192, 256)[n]}) for n in range(5)]
    return summarize(
        *first,
        rung(5, 1 / 3, 8.6, "0004", values=first[4].values, directory="trials/0004"),
        rung(6, 1 / 3, 8.7, "0003", values=first[3].values, directory="trials/0003"),
        rung(7, 1.0, 8.1, "0005", values=first[4].values, directory="trials/0004"),
        tuner="hyperband",
    )


STUDIES = {
    "not started": summarize(),
    "one runs": summarize(trial(0, "running")),
    "one runs and has a score": summarize(trial(0, "running", score=9.0)),
    "one": summarize(trial(0, score=8.0)),
    "all failed": summarize(*(trial(n, "failed", reason="out of memory: of 12 GiB") for n in range(3))),
    "the first failed": summarize(trial(0, "failed", reason="no"), trial(1, score=8.0)),
    "stopped only": summarize(trial(0, "stopped", score=9.0), trial(1, "stopped", score=9.5)),
    "many": searched(),
    "equal scores": summarize(*(trial(n, score=8.0) for n in range(9))),
    "one far off": summarize(*(trial(n, score=7 + n / 10) for n in range(9)), trial(9, score=1e6)),
    "hyperband": hyperband(),
    "all promoted failed": summarize(
        rung(0, 1 / 3, 8.0), trial(1, "failed", parent="0000", directory="trials/0000", reason="no"), tuner="hyperband"
    ),
    "all parameters": summarize(trial(0, score=8.0), trial(1, score=7.9), tune=["all"], fix=["units=64"]),
    "one parameter": summarize(
        trial(0, score=8.0), fix=["seq_length=64", "step_weight=1", "duration_weight=1"]
    ),
    "start outside of the space": summarize(
        trial(0, score=8.0, values={"units": 200, "step_weight": 9.0}), trial(1, score=7.9),
        start=START.replace(units=200, step_weight=9.0),
    ),
}  # fmt: skip
