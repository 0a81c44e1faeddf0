"""Planning of a run's length, recorded in run.json."""

import dataclasses
import logging

from sostenuto import progress
from trainer.config import Config
from trainer.engine.run_length import Plan
from trainer.engine.schedule import Schedule
from trainer.engine.timing import RunTimer, fit_to_time_limit
from trainer.workdir import layout

logger = logging.getLogger(__name__)


class Planner:
    """Length of a run; the chief's.

    Args:
        config: the run.
        schedule: holds the current plan.
        timer: the run's times.
        directory: the local directory of the workdir's files.
    """

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

    def revise(self, train_step: int) -> Plan | None:
        """Returns the plan that fits a run of `max_minutes` into its time; None if the current one does."""
        plan = self._schedule.plan
        if not self._config.max_minutes or plan.steps == train_step:
            return None
        return fit_to_time_limit(plan, train_step, self._timer, self._config)

    def adopt(self, plan: Plan) -> None:
        """Records a plan and follows it from now on."""
        layout.update_run(self._directory, {**plan.to_record(), "max_minutes": self._config.max_minutes})
        self._schedule.plan = plan

    def log_shortening(self, plan: Plan, train_step: int) -> None:
        """Logs that a plan is shorter than the current one, if it is."""
        previous = self._schedule.plan
        if previous.steps is not None and plan.shortened_from != previous.shortened_from:
            logger.info(
                f"slower than planned: the run ends at train_step {plan.steps:,} instead of {previous.steps:,}",
                extra={"figures": {"train_step": train_step, "planned": plan.steps}},
            )

    def log_lr_decay(self) -> None:
        """Logs a notice if the learning rate decays to its end before the run does."""
        plan = self._schedule.plan
        decay_steps = plan.shortened_lr_decay_steps or plan.lr_decay_steps
        if self._config.schedule == "cosine" and decay_steps is not None and plan.steps not in (None, decay_steps):
            logger.log(
                progress.NOTICE,
                f"the learning rate falls until train_step {decay_steps:,}, as first planned, and then stays constant. "
                "For better weights plan the whole length at the start, in another --workdir",
            )
