"""JSON objects as frozen dataclasses, checked as they are read."""

import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, Self

from sostenuto import storage
from sostenuto.errors import UserError


def write_json(path: str, value: Any) -> None:
    """Writes a JSON file atomically."""
    storage.write_bytes_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


@dataclasses.dataclass(frozen=True)
class JsonRecord:
    """Base class of the objects of a JSON file: subclasses are frozen dataclasses of JSON types and of each other."""

    REMEDY: ClassVar[str] = ""

    @classmethod
    def load(cls, path: str) -> Self:
        """Reads a file.

        Raises:
            UserError: it is not JSON, lacks a key or has a value of a wrong type.
        """
        try:
            value = json.loads(storage.read_bytes(path))
        except ValueError as error:
            raise UserError(f"{path}: expected JSON: {error}. {cls.REMEDY}") from None
        return cls.from_json(value, path)

    @classmethod
    def load_if_exists(cls, path: str) -> Self | None:
        """Reads a file; returns None if it does not exist."""
        return cls.load(path) if storage.exists(path) else None

    @classmethod
    def from_json(cls, value: Any, name: str) -> Self:
        """Converts a parsed JSON value; `name` is its file's, for errors. Raises as `load`."""
        try:
            return _convert(cls, value, "")
        except (_MismatchError, UserError) as error:  # UserError: of a `Config`
            raise UserError(f"{name}: {error}. {cls.REMEDY}") from None

    def save(self, path: str) -> None:
        """Writes a file atomically."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object; a field that is None is left out unless `_null_keys` has it."""
        nulls = self._null_keys()
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: _to_json(value) for name, value in values.items() if value is not None or name in nulls}

    def _null_keys(self) -> Collection[str]:
        """Returns the fields that are written as null when they are None."""
        return ()


class _MismatchError(Exception):
    """A value of a JSON text has another type than its field."""


_EXPECTED: Final = {
    bool: "true or false", int: "an integer", float: "a number", str: "a string", Sequence: "a list", tuple: "a list"
}  # fmt: skip


@functools.cache
def _types(cls: Any) -> tuple[Mapping[str, Any], Sequence[str]]:
    """Returns the types of a record's fields, and the names of those without a default."""
    hints, fields = typing.get_type_hints(cls), dataclasses.fields(cls)
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    return {field.name: hints[field.name] for field in fields}, required


def _convert(kind: Any, value: Any, key: str) -> Any:
    """Converts a parsed JSON value to a type; `key` is its place in the file."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None if types.NoneType in arguments else _convert(arguments[0], value, key)
        is_object = [typing.get_origin(option) is Mapping for option in arguments]
        return _convert(
            arguments[is_object.index(True) if isinstance(value, dict) and any(is_object) else 0], value, key
        )
    if isinstance(value, dict) and origin is Mapping:
        _require(typing.get_args(arguments[0]), value, key)
        return {name: _convert(arguments[1], part, f"{key}.{name}") for name, part in value.items()}
    if isinstance(value, dict) and hasattr(kind, "__dataclass_fields__"):
        kinds, required = _types(kind)
        _require(required, value, key)
        known = {name: part for name, part in value.items() if name in kinds}
        return kind(**{name: _convert(kinds[name], part, f"{key}.{name}") for name, part in known.items()})
    if isinstance(value, list) and (origin is Sequence or (origin is tuple and len(value) == len(arguments))):
        parts = [_convert(arguments[0], part, f"{key}[{index}]") for index, part in enumerate(value)]
        return tuple(parts) if origin is tuple else parts
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        return kind(_convert(Literal.__getitem__(tuple(map(str, kind))), value, key))
    if value in arguments if origin is Literal else type(value) is kind or (kind is float and type(value) is int):
        return value
    expected = " or ".join(map(repr, arguments)) if origin is Literal else _EXPECTED.get(origin or kind, "an object")
    got = json.dumps(value)
    got = got if len(got) <= 40 else f"{got[:39]}…"
    raise _MismatchError(f"{key.lstrip('.')}: got {got}, expected {expected}".removeprefix(": "))


def _require(names: Collection[str], value: Mapping[str, Any], key: str) -> None:
    missing = [name for name in names if name not in value]
    if missing:
        raise _MismatchError(f"{f'{key}.{missing[0]}'.lstrip('.')} is missing")


def _to_json(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _to_json(part) for name, part in value.items()}
    return [_to_json(part) for part in value] if isinstance(value, list | tuple) else value
