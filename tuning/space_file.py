"""Search spaces from the flags `--tune`, `--fix` and `--space`."""

import contextlib
import dataclasses
import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from sostenuto import storage
from sostenuto.errors import UserError
from trainer.config import LENGTH_FIELDS, Config
from trainer.model_config import SHAPE_FIELDS
from tuning.default_space import PARAMETERS, SEARCHED_BY_DEFAULT
from tuning.space import Parameter, Space, format_number

# Fields that decide how a trial is scored and how long it is; the study sets them.
_STUDY_FIELDS = frozenset(
    {"preset", *LENGTH_FIELDS, "monitor", "patience", "evaluate_every", "checkpoint_every", "max_to_keep", "log_every"}
)
_DECLARED = {parameter.field: parameter for parameter in PARAMETERS}
_FIELDS = {field.name: field for field in dataclasses.fields(Config)}
_PARAMETERS = {
    name: Parameter(name, "choice", why=field.metadata["help"]) for name, field in _FIELDS.items()
} | _DECLARED

_RANGE_KEYS = ("low", "high", "step", "sampling")
_SAMPLINGS: tuple[Literal["linear", "log"], ...] = ("linear", "log")
_MAX_VALUES = 10_000  # of one hyperparameter


def create_space(
    base_config: Config, *, tune: Sequence[str] = (), fix: Iterable[str] = (), file: str | None = None
) -> Space:
    """Returns the search space of a study.

    Args:
        base_config: the config that all trials vary.
        tune: fields to search besides those searched by default; `all` for all declared ones.
        fix: `FIELD=VALUE` each; overrides the file.
        file: a YAML file of `FIELD: VALUE` (fixed), `FIELD: [VALUE, ...]` (a choice) or
            `FIELD: {low, high, step, sampling}` (a range; missing keys are as declared).

    Raises:
        UserError: a field is unknown, a range is empty, the config rejects a value, the file is no such YAML, or every
            field is fixed.
    """
    parameters = {field: _DECLARED[field] for field in (*SEARCHED_BY_DEFAULT, *_tuned_fields(tune))}
    fixed: dict[str, Any] = {}
    entries = _read(file) if file else {}
    for field, entry in entries.items():
        source = f"{file}: {field}"
        _check_field(str(field), str(file))
        if isinstance(entry, dict):
            parameters[field] = _range(field, entry, base_config, source)
        elif isinstance(entry, list):
            parameters[field] = _choice(field, entry, base_config, source)
        else:
            fixed[field] = _check_value(field, entry, base_config, source)
    for assignment in fix:
        source = f"--fix {assignment}"
        field, separator, text = assignment.partition("=")
        if not separator:
            raise UserError(f"{source}: expected FIELD=VALUE, such as units=256")
        _check_field(field, source)
        if field in tune:
            raise UserError(f"{source}: {field} is also in --tune. Pass only one of the two")
        fixed[field] = _check_value(field, _parse_value(field, text, source), base_config, source)
    if base_config.init_from or "init_from" in {*fixed, *parameters}:
        _drop_shapes(parameters, {*tune, *entries} - {*fixed})
    for field, parameter in parameters.items():
        if parameter.grid is not None and len(parameter.grid) == 1:
            fixed.setdefault(field, parameter.grid[0])
    order = [*_DECLARED, *sorted(set(parameters) - set(_DECLARED))]
    searched = [parameters[field] for field in order if field in parameters and field not in fixed]
    if not searched:
        raise UserError("--fix and --space: every hyperparameter is fixed. Pass others with --tune")
    space = Space(base_config, tuple(searched), dict(sorted(fixed.items())))
    space.trial_config({}, 1)
    return space


def _drop_shapes(parameters: dict[str, Parameter], asked: Collection[str]) -> None:
    """Removes the fields that the weights of init_from determine; raises UserError if a search of one was asked for."""
    for field in [field for field in parameters if field in SHAPE_FIELDS]:
        if field in asked:
            raise UserError(f"{field}: the weights of init_from determine it. Do not search it")
        del parameters[field]


def _tuned_fields(tune: Iterable[str]) -> list[str]:
    fields: list[str] = []
    for field in tune:
        if field in _FIELDS and field not in _DECLARED and field not in _STUDY_FIELDS:
            raise UserError(f"--tune={field}: {field} has no declared range. Pass one with --space")
        if field not in (*_DECLARED, "all"):
            raise _unknown_name(f"--tune={field}", field, [*_DECLARED, "all"])
        fields += _DECLARED if field == "all" else [field]
    return fields


def _unknown_name(source: str, name: str, known: Iterable[str], kind: str = "hyperparameter") -> UserError:
    close = difflib.get_close_matches(name, list(known), 1)
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
    return UserError(f"{source}: unknown {kind} {name!r}, {hint}")


def _check_field(field: str, source: str) -> None:
    """Raises a UserError unless a study may set the field."""
    if field in _STUDY_FIELDS:
        raise UserError(f"{source}: the study's own flags, such as --train_steps, set {field}. Remove it")
    if field not in _FIELDS:
        raise _unknown_name(source, field, [name for name in _FIELDS if name not in _STUDY_FIELDS])


def _check_value(field: str, value: Any, base_config: Config, source: str) -> Any:
    """Returns a value with the field's type, if the config accepts it."""
    if _FIELDS[field].type is float and not isinstance(value, bool):
        try:
            value = float(value)  # YAML reads 1e-3 as a string, since it has no point
        except (TypeError, ValueError) as error:
            raise UserError(f"{source}: got {value!r}, expected a number") from error
    # Another --fix may give init_from; the whole config is checked at the end.
    source_of_frozen = {"init_from": base_config.init_from or "another --fix"} if field == "freeze" else {}
    try:
        dataclasses.replace(base_config, **{**source_of_frozen, field: value})
    except UserError as error:
        raise UserError(f"{source}: {str(error).removeprefix('config: ')}") from error
    return value


def _parse_value(field: str, text: str, source: str) -> Any:
    # YAML would read the directory 2024 as a number.
    return text if _FIELDS[field].type is str else _parse_yaml(text, source)


def _parse_yaml(text: str, source: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    # Dates and numbers are converted by Python, and lists within lists are read by recursion.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: the text is no YAML ({' '.join(str(error).split())})") from error


def _read(file: str) -> dict[Any, Any]:
    entries = _parse_yaml(storage.read_bytes(file).decode("utf-8", "replace"), file)
    if not isinstance(entries, dict):
        content = "nothing" if entries is None else repr(entries)
        raise UserError(f"{file}: got {content}, expected lines such as units: [128, 256]")
    return entries


def _choice(field: str, entry: list[Any], base_config: Config, source: str) -> Parameter:
    values = list(dict.fromkeys(_check_value(field, value, base_config, source) for value in entry))
    if not values:
        raise UserError(f"{source}: the list is empty, expected at least one value")
    if not isinstance(values[0], str):
        values.sort()
    return dataclasses.replace(
        _PARAMETERS[field], kind="choice", low=None, high=None, step=None, values=tuple(values), sampling="linear"
    )


def _range(field: str, entry: Mapping[Any, Any], base_config: Config, source: str) -> Parameter:
    for key in entry:
        if key not in _RANGE_KEYS:
            raise _unknown_name(source, str(key), _RANGE_KEYS, "key")
    kind = _FIELDS[field].type
    if kind not in (int, float):
        raise UserError(f"{source}: the field is no number. Pass a list of its values")
    declared = _PARAMETERS[field]
    first, *_, last = declared.grid or (declared.low, declared.high)
    bounds = {"low": entry.get("low", first), "high": entry.get("high", last)}
    if missing := [name for name, bound in bounds.items() if bound is None]:
        raise UserError(f"{source}: {missing[0]} is missing, expected both low and high")
    low, high = (_check_value(field, bound, base_config, source) for bound in bounds.values())
    if low > high:
        raise UserError(f"{source}: the range from {format_number(low)} to {format_number(high)} is empty")
    if declared.grid and declared.kind == "choice" and not {"step", "sampling"} & entry.keys():
        values = tuple(value for value in declared.grid if low <= value <= high)
        if not values:
            raise UserError(
                f"{source}: none of {declared.text} is from {format_number(low)} to {format_number(high)}. "
                "Pass a step, or a list"
            )
        return dataclasses.replace(declared, values=values)
    sampling = entry.get("sampling", declared.sampling)
    if sampling not in _SAMPLINGS:
        raise UserError(f"{source}: sampling={sampling!r}: expected one of {', '.join(_SAMPLINGS)}")
    if sampling == "log" and low <= 0:
        raise UserError(f"{source}: low={format_number(low)}: expected above 0 with sampling=log")
    step = entry.get("step", declared.step if sampling == declared.sampling else None)
    parameter = dataclasses.replace(
        declared, kind="int" if kind is int else "float", low=low, high=high, step=None, values=(), sampling=sampling
    )
    return parameter if step is None else _with_step(parameter, step, source)


def _with_step(parameter: Parameter, step: Any, source: str) -> Parameter:
    """Returns a range with a step, if it is valid and gives at most 10,000 values."""
    low, high = parameter.bounds
    is_log = parameter.sampling == "log"
    minimum = 1 if is_log else 0
    with contextlib.suppress(TypeError, ValueError):
        step = step if isinstance(step, (int, bool)) else float(step)  # YAML reads 1e-3 as a string
    if not isinstance(step, (int, float)) or isinstance(step, bool) or not minimum < step < math.inf:
        raise UserError(
            f"{source}: step={step!r}: expected a number above {minimum} with sampling={parameter.sampling}"
        )
    if parameter.kind == "int" and not is_log and step != int(step):
        raise UserError(f"{source}: step={step!r}: expected a whole number")
    count = math.log(high / low) / math.log(step) if is_log else (high - low) / step
    if count > _MAX_VALUES:
        raise UserError(f"{source}: step={step!r} gives {count:.0f} values, expected at most {_MAX_VALUES}")
    return dataclasses.replace(parameter, step=step)
