"""Checks of the samplers' arguments."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sostenuto.errors import UserError
from sostenuto.music.notes import FIELDS, Notes
from trainer.config import Config
from trainer.config_fields import Bounds


def list_primers(primers: Any) -> Sequence[Notes]:
    """Checks the primers, and returns one as a list."""
    listed = primers if isinstance(primers, Sequence) else [primers]
    wrong = [type(primer).__name__ for primer in listed if not isinstance(primer, Notes)]
    if wrong:
        raise UserError(f"primers: got {wrong[0]}, expected Notes or a list of Notes")
    if not listed:
        raise UserError("primers: got an empty list, expected at least one. Pass Notes.empty() to start from silence")
    return listed


def check_starts_from_silence(config: Config) -> None:
    """Checks that a model can play its first note without one before it."""
    if config.positions != "every":
        raise UserError(
            f"a model with positions={config.positions} cannot start without notes; expected a model with "
            "positions=every, such as that of the preset base"
        )


def check_density(density: float, config: Config) -> None:
    """Raises UserError for a density if a model has no distribution of the step, which it would change."""
    if density and config.model != "density":
        raise UserError(
            f"density={density:g}: got a model with model={config.model}, which has no distribution of the step, "
            "expected model=density. Leave the density out"
        )


def list_by_field(name: str, values: Any, bounds: Bounds) -> list[float]:
    """Checks an argument that is a number or one for each field; returns one for each field."""
    by_field = values if isinstance(values, Mapping) else dict.fromkeys(FIELDS, values)
    if {*by_field} != {*FIELDS}:
        missing = ", ".join(field for field in FIELDS if field not in by_field)
        raise UserError(
            f"{name}: got {', '.join(map(str, by_field)) or 'no field'}, expected {', '.join(FIELDS)}"
            + (f". Add {missing}" if missing else "")
        )
    return [
        check_number(f"{name}[{field!r}]" if by_field is values else name, by_field[field], bounds) for field in FIELDS
    ]


def check_number(name: str, value: Any, bounds: Bounds, kind: type = float) -> Any:
    """Checks that an argument is an integer or, by default, any number within bounds; returns Python's for NumPy's."""
    number = value.item() if isinstance(value, np.generic) else value
    if not isinstance(number, (int, kind)) or isinstance(number, bool) or number not in bounds:
        expected = "an integer" if kind is int else "a number"
        got = " ".join(reprlib.repr(value).split())  # NumPy's may have several lines.
        raise UserError(f"{name}: got {got}, expected {expected} {bounds}")
    return number
