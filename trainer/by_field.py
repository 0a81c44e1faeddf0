"""The text of a flag that gives one number for all fields of a note, or one by field."""

import math

from notes.errors import UserError
from notes.representation import FIELDS


def numbers_by_field(text: str, *, flag: str, highest: float = math.inf) -> dict[str, float]:
    """A number for each field: `0.9` is for all of them, `pitch=0.9` for one, `0.9,pitch=1` for all but one.

    A field that is not named has 1.

    Args:
        text: what the flag was given.
        flag: its name, for an error.
        highest: the largest number allowed; the smallest is above 0.

    Raises:
        UserError: anything else.
    """
    values = dict.fromkeys(FIELDS, 1.0)
    for place, part in enumerate(text.split(",")):
        field, equals, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        fields = [field] if equals else FIELDS
        if (place and not equals) or not set(fields) <= set(FIELDS) or not 0 < value <= highest or value == math.inf:
            raise UserError(
                f"--{flag}={text}: expected a number above 0"
                + (f", at most {highest:g}" if highest < math.inf else "")
                + f", or one for a field ({', '.join(FIELDS)}), as in 0.9,pitch=1"
            )
        values.update(dict.fromkeys(fields, value))
    return values
