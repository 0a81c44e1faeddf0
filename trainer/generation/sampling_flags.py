"""Flags of sampling: temperature, top_p, returns, end_odds and seed."""

import difflib
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, get_args

from absl import flags

from sostenuto import cli
from sostenuto.errors import UserError
from trainer.config_fields import Bounds
from trainer.workdir.formats import Field

TEMPERATURES: Final = Bounds(above=0)
TOP_PS: Final = Bounds(above=0, maximum=1)
RETURNS: Final = Bounds(minimum=0, maximum=1_000)
END_ODDS: Final = Bounds(minimum=0, maximum=1_000_000)
SECONDS: Final = Bounds(above=0, maximum=1_000_000)

_FIELDS: Final[tuple[Field, ...]] = get_args(Field)

# With these two, generated pieces repeat themselves about as much as performances of MAESTRO's validation split do.
_PITCH_TEMPERATURE: Final = 0.92
DEFAULT_RETURNS: Final = 4.0

# With its own odds, `base` plays on for about twice as long as performers do. With this, its pieces from silence have
# 6,634 notes on average; the performances of MAESTRO v3's train split have 5,883, those of validation 4,667.
DEFAULT_END_ODDS: Final = 3.0

DEFAULT_TEMPERATURE: Final[Mapping[str, float]] = {**dict.fromkeys(_FIELDS, 1.0), "pitch": _PITCH_TEMPERATURE}


class SamplingFlags(NamedTuple):
    """The flags, whose values are known once the command line is parsed."""

    temperature: flags.FlagHolder[str]
    top_p: flags.FlagHolder[str]
    returns: flags.FlagHolder[float]
    end_odds: flags.FlagHolder[float]
    seed: flags.FlagHolder[int]

    def parse(self) -> dict[str, Any]:
        """Returns the values as keyword arguments of `NoteSampler.sample`."""
        return {
            "temperature": _parse(self.temperature, TEMPERATURES),
            "top_p": _parse(self.top_p, TOP_PS),
            "returns": self.returns.value,
            "end_odds": self.end_odds.value,
            "seed": self.seed.value,
        }


def define_sampling_flags() -> SamplingFlags:
    """Defines the flags; they belong to the current group of `--help`."""
    return SamplingFlags(
        flags.DEFINE(
            cli.Text("NUMBER[,FIELD=NUMBER...]"), "temperature", f"1,pitch={_PITCH_TEMPERATURE}",
            "Temperature of sampling, above 0: below 1 likely values are drawn more often. For one field: "
            "0.9,pitch=1."
        ),
        flags.DEFINE(
            cli.Text("NUMBER[,FIELD=NUMBER...]"), "top_p", "1",
            "Draw from the most likely values whose probabilities add up to this; 1 draws from all. For one field: "
            "pitch=0.95."
        ),
        flags.DEFINE_float(
            "returns", DEFAULT_RETURNS,
            "How often in 1,000 notes the music returns to an earlier passage, on average; 0 never, except by chance.",
            lower_bound=RETURNS.minimum, upper_bound=RETURNS.maximum,
        ),
        flags.DEFINE_float(
            "end_odds", DEFAULT_END_ODDS,
            "Factor on the odds that a piece ends after a note: above 1 makes it shorter, below 1 longer, 0 endless.",
            lower_bound=END_ODDS.minimum, upper_bound=END_ODDS.maximum,
        ),
        flags.DEFINE_integer(
            "seed", 0, "Seed of sampling: the same seed plays the same music.", lower_bound=0, upper_bound=2**63 - 1
        ),
    )  # fmt: skip


def _parse(flag: flags.FlagHolder[str], bounds: Bounds) -> dict[Field, float]:
    """Returns a number for each field, by default 1: `0.9` sets all, `pitch=0.9` one, `0.9,pitch=1` all but one."""
    values: dict[Field, float] = dict.fromkeys(_FIELDS, 1.0)
    for index, part in enumerate(flag.value.split(",")):
        name, equals, number = (word.strip() for word in part.rpartition("="))
        chosen = [field for field in _FIELDS if field == name or not equals]
        if not chosen:
            near = difflib.get_close_matches(name, _FIELDS, 1)
            raise UserError(
                f"--{flag.name}={flag.value}: unknown field {name!r}, expected one of {', '.join(_FIELDS)}"
                + (f". Did you mean {near[0]}?" if near else "")
            )
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if (index and not equals) or value not in bounds:
            raise UserError(
                f"--{flag.name}={flag.value}: got {part!r}, expected a number {bounds}, or one for a field "
                f"({', '.join(_FIELDS)}), as in 0.9,pitch=1"
            )
        values.update(dict.fromkeys(chosen, value))
    return values
