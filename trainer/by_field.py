"""Parser of flags with one number for all fields of a note, or one for each."""

import difflib
import math

from sostenuto.errors import UserError
from sostenuto.music.notes import FIELDS


def numbers_by_field(text: str, *, flag: str, highest: float = math.inf) -> dict[str, float]:
    """Returns a number for each field; `0.9` sets all fields, `pitch=0.9` one, `0.9,pitch=1` all but one.

    A field without a number has 1.

    Args:
        text: the flag's value.
        flag: the flag's name, for errors.
        highest: the largest allowed number; the smallest is above 0.

    Raises:
        UserError: a field is unknown, a number is out of its range, or the text has another form.
    """
    values = dict.fromkeys(FIELDS, 1.0)
    for place, part in enumerate(text.split(",")):
        field, equals, number = (word.strip() for word in part.rpartition("="))
        if equals and field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, 1)
            raise UserError(
                f"--{flag}={text}: unknown field {field!r}, expected one of {', '.join(FIELDS)}"
                + (f". Did you mean {near[0]}?" if near else "")
            )
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if (place and not equals) or not 0 < value <= highest or value == math.inf:
            raise UserError(
                f"--{flag}={text}: expected a number above 0"
                + (f", at most {highest:g}" if highest < math.inf else "")
                + f", or one for a field ({', '.join(FIELDS)}), as in 0.9,pitch=1; got {part!r}"
            )
        values.update(dict.fromkeys([field] if equals else FIELDS, value))
    return values
