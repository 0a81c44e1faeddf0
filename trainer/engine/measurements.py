"""Values of a run's reports, the lines of metrics.jsonl; a new field is first declared in `MetricsRecord`."""

from trainer.distribution.devices import exact_float32
from trainer.engine.schedule import Event
from trainer.engine.setup import RunSetup
from trainer.engine.shutdown import GracefulShutdown
from trainer.engine.timing import RunTimer
from trainer.evaluation.statistics import compute_metrics, sum_scores
from trainer.workdir.formats import MetricsRecord


class Measurements:
    """Losses since the last report, and scores of the validation split."""

    def __init__(self, setup: RunSetup, timer: RunTimer, shutdown: GracefulShutdown) -> None:
        self._setup, self._timer, self._shutdown = setup, timer, shutdown
        self._seconds = 0.0

    def count_call(self, seconds: float) -> None:
        """Counts the seconds of a call of train_steps."""
        self._seconds += seconds

    def measure(self, train_step: int, events: Event) -> MetricsRecord | None:
        """Returns the report, or None if none is due; raises ShutdownRequested if a signal arrives while it scores."""
        if Event.REPORT not in events:
            return None
        scores = self._score() if Event.EVALUATE in events else {}
        config, state = self._setup.config, self._setup.state
        totals, names = state.pop_sums(), state.model.heads.loss_names
        seconds, self._seconds = self._seconds, 0.0
        targets = max(totals.targets, 1.0)
        return MetricsRecord(
            train_step=train_step,
            epoch=round(train_step * config.windows_per_train_step / self._setup.windows.per_epoch, 4),
            loss=totals.objective / targets,
            **{names[field]: total / targets for field, total in totals.by_field.items()},
            learning_rate=state.learning_rate,
            **scores,
            notes_per_second=totals.targets / max(seconds, 1e-9),
            seconds=seconds,
        )

    def _score(self) -> dict[str, float]:
        """Scores the validation split, a part on each worker."""
        validation, scorer, workers = self._setup.validation, self._setup.scorer, self._setup.workers
        assert validation is not None
        begin = self._timer.clock()
        with self._setup.state.scored_weights(), exact_float32():
            if workers.size == 1:
                with self._shutdown.cancellable():
                    totals = sum_scores(scorer.score(validation, activity="scoring validation"))
            else:
                # Cancelled on one worker alone, the sum would break the others.
                totals = workers.all_reduce_sum(sum_scores(scorer.score(validation)))
        self._timer.count_score(begin)
        scores = compute_metrics(totals)
        nats = scores.nats_per_note
        return {
            "val_nats": nats["total"],
            **{f"val_{field}_nll": nats[field] for field in ("pitch", "step", "duration")},
            "val_pitch_top1": scores.pitch_top1,
        }
