"""JSON objects as frozen dataclasses, checked as they are read."""

import dataclasses
import enum
import functools
import json
import math
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self, TypeAlias, TypeVar

from sostenuto import storage
from sostenuto.errors import UserError
from sostenuto.json_text import parse_json
from sostenuto.text import printable

_Kind = TypeVar("_Kind")

# A file in the directory of the JSON file that names it. Any other path could lead out of the directory.
FileName: TypeAlias = Annotated[str, "a file name without a directory"]


def is_file_name(name: str) -> bool:
    """Returns whether a name is one of a directory's files, and no path that could lead out of it."""
    return name not in (".", "..") and bool(re.fullmatch(r"[^/\\\0]+", name))


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
        return cls.parse(storage.read_bytes(path), path)

    @classmethod
    def parse(cls, text: bytes, name: str) -> Self:
        """Parses a JSON text; `name` is its file's, for errors. Raises as `load`."""
        return cls.from_json(parse_json(text, name, cls.REMEDY), name)

    @classmethod
    def load_if_exists(cls, path: str) -> Self | None:
        """Reads a file; returns None if it does not exist."""
        return cls.load(path) if storage.exists(path) else None

    @classmethod
    def from_json(cls, value: Any, name: str) -> Self:
        """Converts a parsed JSON value; `name` is its file's, for errors. Raises as `load`."""
        return from_json(cls, value, name, cls.REMEDY)

    def save(self, path: str) -> None:
        """Writes a file atomically."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object; a field that is None is left out unless `_null_keys` has it."""
        nulls, kind = self._null_keys(), typing.cast(Any, type(self))
        values = {name: getattr(self, key.field) for name, key in _keys(kind).items()}
        return {name: _to_json(value) for name, value in values.items() if value is not None or name in nulls}

    def _null_keys(self) -> Collection[str]:
        """Returns the fields that are written as null when they are None."""
        return ()


def from_json(kind: type[_Kind], value: Any, name: str, remedy: str) -> _Kind:
    """Converts a parsed JSON value to a dataclass of JSON types; `name` is its file's, for errors.

    Integers are 0 or more, and numbers finite. A field's metadata may have another key, as `json`. `Any` is one value,
    or a list or an object of such. Raises UserError for any other value, and as the dataclass does.
    """
    try:
        return _convert(kind, value, "")
    except (_MismatchError, UserError) as error:
        raise UserError(printable(f"{name}: {error}. {remedy}")) from None


class _MismatchError(Exception):
    """A value of a JSON text has another type than its field."""


_EXPECTED: Final = {
    bool: "true or false", int: "an integer", float: "a number", str: "a string", Sequence: "a list", tuple: "a list",
    Any: "a single value, or a list or an object of such",
}  # fmt: skip


class _Key(NamedTuple):
    """A key of a JSON object: its field, the type of that, and whether it may be missing."""

    field: str
    kind: Any
    is_optional: bool


@functools.cache
def _keys(cls: Any) -> Mapping[str, _Key]:
    """Returns the keys of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    missing = dataclasses.MISSING
    return {
        field.metadata.get("json", field.name): _Key(
            field.name, hints[field.name], (field.default, field.default_factory) != (missing, missing)
        )
        for field in dataclasses.fields(cls)
    }


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
    if kind == FileName:
        return _convert_file_name(value, key)
    if isinstance(value, dict) and origin in (Mapping, dict):
        _require(typing.get_args(arguments[0]), value, key)
        return {name: _convert(arguments[1], part, f"{key}.{name}") for name, part in value.items()}
    if isinstance(value, dict) and hasattr(kind, "__dataclass_fields__"):
        return _convert_object(kind, value, key)
    if isinstance(value, list) and origin in (Sequence, tuple):
        is_of_any_length = origin is Sequence or arguments[1:] == (...,)
        if is_of_any_length or len(value) == len(arguments):
            parts = [_convert(arguments[0], part, f"{key}[{index}]") for index, part in enumerate(value)]
            return tuple(parts) if origin is tuple else parts
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        return kind(_convert(Literal.__getitem__(tuple(map(str, kind))), value, key))
    if _has_type(kind, value):
        return value
    expected = " or ".join(map(repr, arguments)) if origin is Literal else _EXPECTED.get(origin or kind, "an object")
    raise _MismatchError(f"{key.lstrip('.')}: got {_excerpt(value)}, expected {expected}".removeprefix(": "))


def _convert_object(kind: Any, value: Mapping[str, Any], key: str) -> Any:
    """Converts a JSON object to a dataclass; unknown keys are ignored."""
    if not issubclass(kind, JsonRecord) and hasattr(kind, "from_json"):
        try:
            return kind.from_json(_convert(Mapping[str, Sequence[int]], value, key))
        except ValueError as error:
            raise _MismatchError(f"{key.lstrip('.')}: {error}") from None
    keys = _keys(kind)
    _require([name for name, known in keys.items() if not known.is_optional], value, key)
    return kind(
        **{
            known.field: _convert(known.kind, value[name], f"{key}.{name}")
            for name, known in keys.items()
            if name in value
        }
    )


def _convert_file_name(value: Any, key: str) -> str:
    name = _convert(str, value, key)
    if is_file_name(name):
        return name
    raise _MismatchError(f"{key.lstrip('.')}: got {_excerpt(name)}, expected {typing.get_args(FileName)[1]}")


def _has_type(kind: Any, value: Any) -> bool:
    """Returns whether a value has a type that is no object."""
    if kind is Any:
        parts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
        return all(part is None or any(_has_type(plain, part) for plain in (str, bool, float)) for part in parts)
    if typing.get_origin(kind) is Literal:
        return type(value) is str and value in typing.get_args(kind)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind and (kind is not int or value >= 0)


def _excerpt(value: Any) -> str:
    """Returns the start of a value's JSON text."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "a deeply nested value"
    return text if len(text) <= 40 else f"{text[:39]}…"


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
