"""Presets, and config files that start from one."""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any, Final

from sostenuto import storage
from sostenuto.errors import UserError
from sostenuto.json_text import parse_json
from trainer.config import Config

PRESETS: Final[Mapping[str, Config]] = {
    # A first model for real use: every position is a target, every field has a density.
    "base": Config(),
    # As large as one GPU trains well on a corpus of MAESTRO's size; on a CPU only for measuring.
    "large": Config(
        preset="large", seq_length=256, units=512, layers=3, head_units=256, dropout=0.3, stretch=0.1, batch_size=64,
        learning_rate=1e-3, warmup_steps=500, weight_decay=0.1, ema=0.999, epochs=40, max_minutes=0.0,
    ),
    # The model and training of the well-known TensorFlow tutorial, for comparison. It differs in two points: windows
    # stay within a performance, and each epoch has a new shuffle.
    "tutorial": Config(
        preset="tutorial", model="regression", positions="last", seq_length=25, units=128, layers=1, pitch_weight=0.05,
        transpose=0, batch_size=64, optimizer="adam", learning_rate=0.005, schedule="constant", warmup_steps=0,
        weight_decay=0.0, clip_norm=0.0, epochs=50, max_minutes=0.0, monitor="loss", patience=5, evaluate_every=0,
        log_every=0, checkpoint_every=0, max_to_keep=50,
    ),
}  # fmt: skip


def preset(name: str) -> Config:
    """Returns the preset of that name.

    Raises:
        UserError: no preset has that name; the message lists those that exist.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise UserError(f"preset {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def read_config(path: str | os.PathLike[str]) -> Config:
    """Reads a config file; raises `UserError` if it does not exist, or as `parse_config`."""
    if not storage.exists(path):
        raise UserError(f"{os.fspath(path)}: no such config file")
    return parse_config(storage.read_bytes(path), os.fspath(path))


def parse_config(text: bytes | str, name: str) -> Config:
    """Parses the text of a config file, as `config_from_json`."""
    return config_from_json(parse_json(text, name, "Pass a JSON object of config fields"), name)


def config_from_json(values: Any, name: str) -> Config:
    """Returns the config of a JSON object, whose missing fields are those of the preset that it names, or of `base`.

    Raises `UserError`, with the file's name, if it is no object, or a field is unknown or out of its bounds.
    """
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected a JSON object of config fields, got {type(values).__name__}")
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    values = dict(values)
    for key, value in values.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, 1)
            raise UserError(f"{name}: unknown field {key!r}" + (f". Did you mean {near[0]!r}?" if near else ""))
        if types[key] is float and isinstance(value, int) and not isinstance(value, bool):
            values[key] = float(value)
    try:
        return preset(values.get("preset", "base")).replace(**values)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
