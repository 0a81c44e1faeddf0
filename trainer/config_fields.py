"""Fields of a config: their bounds, help and checks."""

import dataclasses
import math
from typing import Any, Final, NamedTuple

from sostenuto.errors import UserError


class Bounds(NamedTuple):
    """The range of a number: `minimum` and `maximum` are inclusive, `above` and `below` exclusive."""

    minimum: float = -math.inf
    above: float = -math.inf
    maximum: float = math.inf
    below: float = math.inf

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, int | float) and self.minimum <= value <= self.maximum and self.above < value < self.below
        )

    def __str__(self) -> str:
        words = ("at least", "above", "at most", "below")
        return " and ".join(
            f"{word} {limit:,}" for word, limit in zip(words, self, strict=True) if math.isfinite(limit)
        )


# Maxima stop a slip of the keyboard before it takes the machine's memory or days; real values are far below them.
MAX_STEPS: Final = 10**9
MAX_NOTES: Final = 100_000  # of a generated sample
MAX_SAMPLES: Final = 10_000
MAX_MINUTES: Final = 525_600  # a year

FRACTION: Final = Bounds(minimum=0, below=1)
COUNT: Final = Bounds(minimum=0, maximum=MAX_STEPS)
WIDTH: Final = Bounds(minimum=1, maximum=16_384)
BATCH: Final = Bounds(minimum=1, maximum=65_536)
AT_LEAST_0: Final = Bounds(minimum=0)


def declare(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    *,
    group: str = "training",
    bounds: Bounds = AT_LEAST_0,
    placeholder: str = "",
) -> Any:
    """Declares a field; `bounds` applies to numbers only, `placeholder` names the value of a text in `--help`."""
    metadata = {"help": help, "choices": choices, "group": group, "bounds": bounds, "placeholder": placeholder}
    return dataclasses.field(default=default, metadata=metadata)


def check_field(field: dataclasses.Field, value: Any) -> None:
    """Checks type, choices and bounds of a field."""
    expected: Any = field.type
    types = (int, float) if expected is float else (expected,)
    if not isinstance(value, types) or (isinstance(value, bool) and expected is not bool):
        raise UserError(f"config: {field.name}={value!r}: expected {expected.__name__}, got {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config: {field.name}={value}: expected a finite number")
    choices, bounds = field.metadata["choices"], field.metadata["bounds"]
    if choices and value not in choices:
        raise UserError(f"config: {field.name}={value!r}: expected one of {', '.join(choices)}")
    if expected in (int, float) and value not in bounds:
        raise UserError(f"config: {field.name}={value}: expected {bounds}")
