"""Flags of sampling: temperature, top_p and seed."""

import difflib
import math
from typing import Any, Final, NamedTuple, get_args

from absl import flags

from sostenuto import cli
from sostenuto.errors import UserError
from trainer.workdir.formats import Field

_FIELDS: Final[tuple[Field, ...]] = get_args(Field)


class SamplingFlags(NamedTuple):
    """The flags, whose values are known once the command line is parsed."""

    temperature: flags.FlagHolder[str]
    top_p: flags.FlagHolder[str]
    seed: flags.FlagHolder[int]

    def parse(self) -> dict[str, Any]:
        """Returns the values as keyword arguments of `NoteSampler`.

        Raises:
            UserError: a value has a wrong form.
        """
        return {
            "temperature": parse_by_field(self.temperature.value, flag="temperature"),
            "top_p": parse_by_field(self.top_p.value, flag="top_p", highest=1),
            "seed": self.seed.value,
        }


def define_sampling_flags() -> SamplingFlags:
    """Defines the flags; they belong to the current group of `--help`."""
    return SamplingFlags(
        flags.DEFINE(
            cli.Text("NUMBER[,FIELD=NUMBER...]"), "temperature", "1",
            "Temperature of sampling, above 0: below 1 likely values are drawn more often. For one field: "
            "0.9,pitch=1.",
        ),
        flags.DEFINE(
            cli.Text("NUMBER[,FIELD=NUMBER...]"), "top_p", "1",
            "Draw from the most likely values whose probabilities add up to this; 1 draws from all. For one field: "
            "pitch=0.95.",
        ),
        flags.DEFINE_integer(
            "seed", 0, "Seed of sampling: the same seed plays the same music.", lower_bound=0, upper_bound=2**63 - 1
        ),
    )  # fmt: skip


def parse_by_field(text: str, *, flag: str, highest: float = math.inf) -> dict[Field, float]:
    """Returns a number for each field: `0.9` sets all, `pitch=0.9` sets one, `0.9,pitch=1` all but one.

    The default is 1.

    Args:
        text: the flag's value.
        flag: its name, for errors.
        highest: the largest number allowed; the smallest is above 0.

    Raises:
        UserError: a field is unknown, a number out of range, or the text has another form.
    """
    values: dict[Field, float] = dict.fromkeys(_FIELDS, 1.0)
    for index, part in enumerate(text.split(",")):
        name, equals, number = (word.strip() for word in part.rpartition("="))
        chosen = [field for field in _FIELDS if field == name or not equals]
        if not chosen:
            near = difflib.get_close_matches(name, _FIELDS, 1)
            raise UserError(
                f"--{flag}={text}: unknown field {name!r}, expected one of {', '.join(_FIELDS)}"
                + (f". Did you mean {near[0]}?" if near else "")
            )
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if (index and not equals) or not 0 < value <= highest or value == math.inf:
            raise UserError(
                f"--{flag}={text}: expected a number above 0"
                + (f", at most {highest:g}" if highest < math.inf else "")
                + f", or one for a field ({', '.join(_FIELDS)}), as in 0.9,pitch=1; got {part!r}"
            )
        values.update(dict.fromkeys(chosen, value))
    return values
