"""Strict reader of JSON texts: wrong ones are errors of one line."""

import json
from collections.abc import Sequence
from typing import Any

from sostenuto.errors import UserError


def parse_json(text: bytes | str, name: str, remedy: str = "") -> Any:
    """Parses a JSON text; an integer that 64 bits cannot hold becomes a float, which may be infinite.

    Raises:
        UserError: it is not UTF-8, no JSON, nested too deeply, or has a key twice; the message starts with `name`.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(text, parse_int=_parse_int, object_pairs_hook=_parse_object)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{name}: expected JSON: {reason}. {remedy}".rstrip(". ")) from None


def _parse_int(text: str) -> int | float:
    return int(text) if len(text) <= 20 and abs(int(text)) < 2**63 else float(text)


def _parse_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return value
