"""Search spaces: hyperparameters over fields of the trainer's config, with units and reasons."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sostenuto.errors import UserError, mismatches
from trainer.config import Config

if TYPE_CHECKING:
    import keras_tuner

# Numbers of scores, checkpoints and log lines of a trial; with 12 checkpoints, a killed worker loses little
_COUNTS_PER_TRIAL = {"evaluate_every": 6, "checkpoint_every": 12, "log_every": 24}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A hyperparameter: a field of the config and its possible values.

    Attributes:
        field: name in `trainer.config.Config`.
        kind: `int` or `float` from low to high, both included, or `choice` among `values`.
        low: smallest value; None for a choice.
        high: largest value; None for a choice.
        step: difference between two values (linear), or their ratio (log); None allows all.
        values: values of a choice, numbers in ascending order.
        sampling: `linear`, or `log` if ratios count.
        unit: unit of the values.
        why: reason for the range.
    """

    field: str
    kind: Literal["int", "float", "choice"]
    low: float | None = None
    high: float | None = None
    step: float | None = None
    values: tuple[Any, ...] = ()
    sampling: Literal["linear", "log"] = "linear"
    unit: str = ""
    why: str = ""

    def __post_init__(self) -> None:
        """Raises UserError if it has no range, or a step that leads nowhere: a study.json may be corrupt."""
        if self.kind == "choice":
            return
        lowest = 0 if self.sampling == "log" else -math.inf
        if self.low is None or self.high is None or not lowest < self.low <= self.high:
            least = " above 0" if self.sampling == "log" else ""
            raise UserError(f"{self.field}: got {self.low} to {self.high}, expected a range in ascending order{least}")
        least_step = 1 if self.sampling == "log" else 0
        if self.step is not None and not self.step > least_step:
            raise UserError(f"{self.field}: got step={self.step}, expected a number above {least_step}")

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value of a range."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def grid(self) -> tuple[Any, ...] | None:
        """All values; None for a continuum or all integers of a range."""
        if self.kind == "choice":
            return self.values
        if self.low == self.high:
            return (self.low,)
        if self.step is None:
            return None
        (low, high), step = self.bounds, self.step
        is_log = self.sampling == "log"
        steps = math.log(high / low) / math.log(step) if is_log else (high - low) / step
        # The margin covers divisions such as 0.5 / 0.1 that round to just below a whole number.
        indices = range(math.floor(steps + 1e-9) + 1)
        values = [low * step**index if is_log else low + step * index for index in indices]
        return tuple(dict.fromkeys(round(value) if self.kind == "int" else float(f"{value:.10g}") for value in values))

    @property
    def text(self) -> str:
        """The values as text."""
        if self.kind == "choice":
            return ", ".join(format_number(value) for value in self.values)
        low, high = map(format_number, self.bounds)
        by, log = (" times ", ", log") if self.sampling == "log" else (" by ", "")
        return f"{low} to {high}{by + format_number(self.step) if self.step is not None else ''}{log}"

    def clamp(self, value: Any) -> Any:
        """Returns the nearest possible value; an unknown text gives the first one."""
        grid = self.grid
        if grid is None:
            low, high = self.bounds
            return min(max(value, low), high)
        if value in grid:
            return value
        return grid[0] if isinstance(value, str) else min(grid, key=lambda known: abs(known - value))

    def round_value(self, value: Any) -> Any:
        """Returns a sampled value as a config has it: of the field's type, floats with three digits."""
        if self.grid is not None:
            return self.clamp(value)
        return int(value) if self.kind == "int" else self.clamp(float(f"{value:.3g}"))


def format_number(value: Any) -> str:
    """Returns a value as text, floats without rounding noise."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def notes_per_train_step(config: Config) -> int:
    """Returns the number of notes in the windows of one optimizer update."""
    return config.windows_per_train_step * config.seq_length


@dataclasses.dataclass(frozen=True)
class Space:
    """Search space of a study.

    Attributes:
        base_config: the config that the user passed.
        parameters: the hyperparameters, in a fixed order.
        fixed: fields that the user fixed, by name.
    """

    base_config: Config
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def start(self) -> Config:
        """The base config with the fixed fields: the first trial, even if its values lie outside of the ranges."""
        return self.base_config.replace(**self.fixed)

    @property
    def base_values(self) -> dict[str, Any]:
        """The base config's values of the hyperparameters."""
        return {parameter.field: getattr(self.base_config, parameter.field) for parameter in self.parameters}

    def declare(self) -> "keras_tuner.HyperParameters":
        """Returns the space for KerasTuner; the defaults are the values nearest to the base config's.

        A grid becomes a choice: KerasTuner would lose the last value of 0 to 0.5 by 0.1, since 0.5 // 0.1 is 4.
        """
        import keras_tuner

        hyperparameters = keras_tuner.HyperParameters()
        for parameter in self.parameters:
            name, default = parameter.field, parameter.clamp(self.base_values[parameter.field])
            if parameter.grid is not None:
                hyperparameters.Choice(name, list(parameter.grid), default=default)
            else:
                add = hyperparameters.Int if parameter.kind == "int" else hyperparameters.Float
                add(name, parameter.low, parameter.high, sampling=parameter.sampling, default=default)
        return hyperparameters

    def trial_config(self, values: Mapping[str, Any], train_steps: int) -> Config:
        """Returns the config of a trial.

        Args:
            values: hyperparameters; the base config's values replace missing ones.
            train_steps: those with the base config's windows; with others, as many as read the same number of notes.

        Raises:
            UserError: the values contradict each other, or the model is no density and has no score.
        """
        if (model := self.start.model) != "density":
            raise UserError(
                f"model={model}: a {model} model gives no nats/note, the score of a trial. Pass model=density"
            )
        config = self.start.replace(**values)
        steps = self._steps_for_equal_notes(config, train_steps)
        intervals = {name: math.ceil(steps / count) for name, count in _COUNTS_PER_TRIAL.items()}
        return config.replace(steps=steps, monitor="val_nats", patience=0, max_to_keep=1, **intervals)

    def full_config(self, values: Mapping[str, Any]) -> Config:
        """Returns the config of a trial with the base config's length, evaluation and checkpoints.

        A length in train_steps becomes the one in which the trial reads as many notes.
        """
        config = self.start.replace(**values)
        steps = self.start.steps
        return config.replace(steps=self._steps_for_equal_notes(config, steps)) if steps else config

    def _steps_for_equal_notes(self, config: Config, train_steps: int) -> int:
        """Returns the train_steps in which a config reads as many notes as `start` in `train_steps`, at least 1."""
        return max(round(train_steps * notes_per_train_step(self.start) / notes_per_train_step(config)), 1)

    def to_json(self) -> dict[str, Any]:
        """Returns the hyperparameters without their units and reasons, and the fixed fields, as a JSON object."""
        names = ("field", "kind", "low", "high", "step", "sampling")
        parameters = [
            {**{name: getattr(parameter, name) for name in names}, "values": list(parameter.values)}
            for parameter in self.parameters
        ]
        return {"parameters": parameters, "fixed": dict(self.fixed)}

    def differences(self, parameters: Sequence[Parameter], fixed: Mapping[str, Any]) -> list[str]:
        """Returns the hyperparameters in which this space differs from a recorded one, as `mismatches`."""
        return mismatches(_texts(self.parameters, self.fixed), _texts(parameters, fixed), absent="not searched")


def _texts(parameters: Sequence[Parameter], fixed: Mapping[str, Any]) -> dict[str, str]:
    texts = {parameter.field: parameter.text for parameter in parameters}
    return texts | {field: f"fixed to {format_number(value)}" for field, value in fixed.items()}
