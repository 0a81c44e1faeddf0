"""Composers in whose style a model plays, by name."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from sostenuto.errors import UserError

_SUGGESTIONS: Final = 3
_LISTED: Final = 12


def composer_ids(composers: str | Sequence[str], primers: int, known: Sequence[str]) -> np.ndarray:
    """Returns the model's number of each primer's composer, int64 `[primers]`; 0 for the empty name.

    Args:
        composers: one name for all primers, or one for each.
        primers: the number of primers.
        known: the names that the model knows.

    Raises:
        UserError: a name is unknown to the model, or there are not as many as primers.
    """
    names = [composers] * primers if isinstance(composers, str) else list(composers)
    if len(names) != primers:
        raise UserError(f"composers: got {len(names)} names, expected one, or one for each of {primers} primers")
    return np.array([_composer_id(name, known) for name in names], np.int64)


def _composer_id(name: str, known: Sequence[str]) -> int:
    if not name:
        return 0
    if name in known:
        return 1 + known.index(name)
    if not known:
        raise UserError(
            f"composer {name!r}: this model was trained without composers. Train with --composer_embedding above 0 on "
            "a dataset that names them"
        )
    near = suggest_composers(name, known)
    more = f", … of {len(known)} in run.json" if len(known) > _LISTED else ""
    remedy = f"Did you mean {' or '.join(near)}?" if near else f"Pass one of {', '.join(known[:_LISTED])}{more}"
    raise UserError(f"composer {name!r}: this model was not trained on music of that name. {remedy}")


def keep_known(composers: Iterable[str], known: Sequence[str]) -> list[str]:
    """Returns the names, each unknown one as the empty name."""
    return [name if name in known else "" for name in composers]


def suggest_composers(name: str, known: Sequence[str]) -> list[str]:
    """Returns the nearest known names, at most three: those that contain the name, or else similar ones."""
    plain = {_plain(other): other for other in known}
    containing = [other for text, other in plain.items() if _plain(name) in text]
    similar = difflib.get_close_matches(_plain(name), plain, _SUGGESTIONS)
    return containing[:_SUGGESTIONS] or [plain[text] for text in similar]


def _plain(name: str) -> str:
    """Returns a name in lower case without diacritics."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))
