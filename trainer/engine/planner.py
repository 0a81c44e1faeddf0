"""Planning of a run's length, recorded in run.json, and the policy that fits a run into `max_minutes`."""

import dataclasses
import logging

from sostenuto import progress
from trainer.config import Config
from trainer.engine.run_length import MOST_REVISIONS, Costs, Plan
from trainer.engine.schedule import Schedule
from trainer.engine.timing import RunTimer
from trainer.workdir import layout

_MEASURE_SECONDS = 4.0  # of training, before the run's length is fixed
_MEASURE_SHARE = 0.1  # of the time left; the measurement of a short run takes no longer
_PLANNED_SHARE = 0.97  # of the time left that a plan fills
_REVISE_AFTER = 0.8  # of the time; before it, a run that leaves time unused is lengthened; then it may be shortened
_LENGTHEN_AFTER = 0.25  # of the train_steps from the last plan to its end
_LEAST_GAIN = 1.1  # factor by which a run is lengthened at least

logger = logging.getLogger(__name__)


class Planner:
    """Length of a run, which the chief plans, writes to `directory` and puts into the schedule."""

    def __init__(self, config: Config, schedule: Schedule, timer: RunTimer, directory: str) -> None:
        self._config, self._schedule, self._timer, self._directory = config, schedule, timer, directory

    def load(self, train_step: int) -> None:
        """Adopts the recorded plan; with `max_minutes` its length may be open until the speed is measured."""
        config, run = self._config, layout.load_run(self._directory)
        plan = Plan.from_record(run)
        if config.max_minutes:
            is_same = run.max_minutes == config.max_minutes
            self._schedule.plan = plan if is_same else dataclasses.replace(plan, steps=None, evaluate_every=None)
            return
        steps = config.steps or self._schedule.epoch_end(config.epochs)
        plan = dataclasses.replace(plan, evaluate_every=None)
        self.adopt(plan.with_steps(steps, train_step, warmup_steps=config.warmup_steps, lr_decay_from=0))

    def adopt(self, plan: Plan) -> None:
        """Records a plan and follows it from now on."""
        layout.update_run(self._directory, {**plan.to_record(), "max_minutes": self._config.max_minutes})
        self._schedule.plan = plan

    def revise(self, train_step: int) -> Plan | None:
        """Returns a plan that fits into `max_minutes`, or None if no change is needed.

        The length is fixed once the speed is measured. Then the run is lengthened if training becomes faster, and once
        shortened if it becomes slower.
        """
        plan, timer, limit = self._schedule.plan, self._timer, self._config.max_minutes * 60
        left = limit - timer.used_seconds
        if not limit or plan.steps == train_step or (timer.recent_seconds_per_step is None and left > 0):
            return None
        needed = min(_MEASURE_SECONDS, _MEASURE_SHARE * (left + timer.measured_seconds))
        is_measured = timer.measured_seconds >= max(needed, 1e-9)
        fitting = timer.costs(self._schedule.evaluate_every).steps_that_fit(left, train_step)
        is_last_call = fitting <= timer.call_steps
        if plan.steps is None:
            return self._fix_length(train_step, left) if is_measured or is_last_call else None
        is_late = timer.used_seconds >= _REVISE_AFTER * limit
        if train_step + fitting >= plan.steps:
            may_lengthen = is_measured and not is_late and not plan.is_shortened
            return self._lengthen(plan, plan.steps, train_step, left) if may_lengthen else None
        if is_measured and is_late and not plan.is_shortened:
            steps = self._steps_for(left, train_step, self._schedule.evaluate_every)
            return self._change_length(plan, plan.steps, train_step, steps)
        return dataclasses.replace(plan, steps=train_step + max(fitting, 1)) if is_last_call else None

    def _fix_length(self, train_step: int, left: float) -> Plan:
        """Returns the plan with length and evaluation interval for the measured speed and the seconds left."""
        config, timer, plan = self._config, self._timer, self._schedule.plan
        steps = self._steps_for(left, train_step, self._schedule.evaluate_every)
        if config.evaluate_every and not config.patience and timer.seconds_per_step is not None:
            costs = Costs(timer.seconds_per_step, timer.scoring_seconds, config.evaluate_every)
            every = costs.affordable_interval(steps)
            plan, steps = dataclasses.replace(plan, evaluate_every=every), self._steps_for(left, train_step, every)
        return plan.with_steps(steps, train_step, warmup_steps=config.warmup_steps, lr_decay_from=train_step)

    def _lengthen(self, plan: Plan, planned: int, train_step: int, left: float) -> Plan | None:
        """Returns a plan that fills the seconds left, or None if it would gain little, or the last plan is young."""
        last = plan.revisions[-1][0] if plan.revisions else plan.lr_decay_from
        # The last place is for a shorter run.
        if train_step < last + _LENGTHEN_AFTER * (planned - last) or len(plan.revisions) >= MOST_REVISIONS - 1:
            return None
        steps = self._steps_for(left, train_step, self._schedule.evaluate_every)
        return None if steps < _LEAST_GAIN * planned else self._change_length(plan, planned, train_step, steps)

    def _change_length(self, plan: Plan, planned: int, train_step: int, steps: int) -> Plan:
        """Returns the plan with another length, and logs why."""
        change = "faster" if steps > planned else "slower"
        logger.info(
            f"training became {change}: it ends at about train_step {steps:,} instead of {planned:,}, to keep to "
            f"--max_minutes={self._config.max_minutes:g}",
            extra={"figures": {"train_step": train_step, "planned": steps}},
        )
        return plan.revised(steps, train_step)

    def _steps_for(self, left: float, train_step: int, evaluate_every: int) -> int:
        """Returns the length of a run that fills the seconds left."""
        fitting = self._timer.costs(evaluate_every).steps_that_fit(left * _PLANNED_SHARE, train_step)
        return train_step + max(fitting, 1)

    def log_lr_decay(self) -> None:
        """Logs a notice if the learning rate decays to its end before the run does."""
        plan = self._schedule.plan
        decay_steps = plan.last_lr_decay_steps
        if self._config.schedule == "cosine" and decay_steps is not None and plan.steps not in (None, decay_steps):
            logger.log(
                progress.NOTICE,
                f"the learning rate falls until train_step {decay_steps:,}, as first planned, and then stays constant. "
                "For better weights plan the whole length at the start, in another --workdir",
            )
