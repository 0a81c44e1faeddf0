"""The search space: hyperparameters over fields of the trainer's config, declared once, with units and reasons.

The weights of the step and of the duration loss are searched relative to that of the pitch loss, which stays as it is
(1 in every preset but `tutorial`): Adam does not see a factor common to all losses, so only ratios matter. A file of
the user's own may search `pitch_weight` and any other field that is a choice of the run.
"""

import contextlib
import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sostenuto import storage
from sostenuto.errors import UserError, mismatches
from sostenuto.text import markdown_table
from trainer.config import LENGTH_FIELDS, Config

if TYPE_CHECKING:
    import keras_tuner

# How a trial is measured and how long it is, which the study says; no trial may choose its own.
_OF_THE_STUDY = frozenset(
    {"preset", *LENGTH_FIELDS, "monitor", "patience", "evaluate_every", "checkpoint_every", "max_to_keep", "log_every"}
)
_SCORES_A_TRIAL = 6
_CHECKPOINTS_A_TRIAL = 12  # so that a worker that was killed loses little
_LOGS_A_TRIAL = 24
_MOST_VALUES = 10_000  # of one hyperparameter

_RANGE_KEYS = ("low", "high", "step", "sampling")
_SAMPLINGS = ("linear", "log")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A hyperparameter: a field of the config, and the values that it may take.

    Attributes:
        field: of `trainer.config.Config`.
        kind: `int` or `float` from low to high, both included, or `choice` among `values`.
        low: the least value; None for a choice.
        high: the greatest value; None for a choice.
        step: what lies between two values (linear), or by what factor they differ (log); None where all are allowed.
        values: the values of a choice, numbers in ascending order.
        sampling: `linear`, or `log` where ratios count.
        unit: what the values are counted in.
        why: the reason for the range.
    """

    field: str
    kind: Literal["int", "float", "choice"]
    low: float | None = None
    high: float | None = None
    step: float | None = None
    values: tuple[Any, ...] = ()
    sampling: Literal["linear", "log"] = "linear"
    unit: str = ""
    why: str = ""

    @property
    def grid(self) -> tuple[Any, ...] | None:
        """All the values it may take; None where they are a continuum, or all integers of a range."""
        if self.kind == "choice":
            return self.values
        assert self.low is not None
        assert self.high is not None
        if self.low == self.high:
            return (self.low,)
        if self.step is None:
            return None
        # The margin is for divisions such as 0.5 / 0.1, that may come out just below a whole number.
        if self.sampling == "log":
            last = math.floor(math.log(self.high / self.low) / math.log(self.step) + 1e-9)
            exact = (self.low * self.step**index for index in range(last + 1))
        else:
            last = math.floor((self.high - self.low) / self.step + 1e-9)
            exact = (self.low + self.step * index for index in range(last + 1))
        if self.kind == "int":
            return tuple(dict.fromkeys(round(value) for value in exact))
        return tuple(float(f"{value:.10g}") for value in exact)

    @property
    def text(self) -> str:
        """The values, to be read."""
        if self.kind == "choice":
            return ", ".join(_number(value) for value in self.values)
        assert self.low is not None
        assert self.high is not None
        step = ""
        if self.step is not None:
            step = f" {'times' if self.sampling == 'log' else 'by'} {_number(self.step)}"
        return f"{_number(self.low)} to {_number(self.high)}{step}" + (", log" if self.sampling == "log" else "")

    def nearest(self, value: Any) -> Any:
        """The value that it may take and that is nearest to this one; any, for what is not ordered."""
        grid = self.grid
        if grid is None:
            assert self.low is not None
            assert self.high is not None
            return min(max(value, self.low), self.high)
        if value in grid or isinstance(value, str):
            return value if value in grid else grid[0]
        return min(grid, key=lambda each: abs(each - value))

    def tidy(self, value: Any) -> Any:
        """A sampled value as it goes into a config: of the field's type, and no longer than a person reads."""
        if self.grid is not None:
            return self.nearest(value)
        return int(value) if self.kind == "int" else self.nearest(float(f"{value:.3g}"))


def _number(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _choice(field: str, values: Sequence[Any], unit: str, why: str) -> Parameter:
    return Parameter(field, "choice", values=tuple(values), unit=unit, why=why)


def _weight(field: str, of: str) -> Parameter:
    return Parameter(
        field, "float", 0.25, 4.0, sampling="log", unit="times the pitch loss's",
        why=f"how much the {of} loss weighs against pitch; beyond a factor of four one field learns and others starve",
    )  # fmt: skip


SEARCHED_BY_DEFAULT = ("seq_length", "units", "step_weight", "duration_weight")

PARAMETERS = (
    _choice(
        "seq_length", (32, 64, 128, 256, 512), "notes",
        "how far back gradients reach: 32 notes are a few bars; beyond 512, little is gained for the memory",
    ),
    _choice(
        "units", (64, 96, 128, 192, 256, 384, 512), "units of each LSTM layer",
        "arithmetic grows with the square: below 64 too few to play from, beyond 512 no longer a cheap trial",
    ),
    _weight("step_weight", "step"),
    _weight("duration_weight", "duration"),
    _choice("layers", (1, 2, 3, 4), "LSTM layers", "more than four seldom learn without shortcuts between them"),
    Parameter(
        "learning_rate", "float", 3e-4, 1e-2, sampling="log", unit="peak of the schedule",
        why="a short trial does not get far below it, and above it training is unsteady",
    ),
    _choice(
        "batch_size", (8, 16, 32, 64, 128), "windows",
        "a trial reads as many notes whatever the batch: small ones give more train_steps, large ones faster ones",
    ),
    Parameter(
        "dropout", "float", 0.0, 0.5, step=0.05, unit="share of the activations",
        why="helps once a model is large for its corpus; beyond half, it only learns more slowly",
    ),
    _choice(
        "transpose", (0, 3, 6, 9, 12), "semitones up or down",
        "6 gives every piece in every key; beyond an octave lie registers in which nobody wrote it",
    ),
    Parameter(
        "stretch", "float", 0.0, 0.1, step=0.025, unit="share faster or slower",
        why="beyond a tenth another tempo would be meant",
    ),
    _choice("pitch_embedding", (32, 64, 96, 128, 192), "numbers", "88 keys are used, so 96 can hold each apart"),
    _choice("time_embedding", (16, 32, 48, 64, 96), "numbers", "for step and for duration each: 1,001 ordered ticks"),
    _choice("velocity_embedding", (8, 16, 32, 64), "numbers", "127 ordered values, of which a few dynamics are heard"),
    _choice(
        "recent_embedding", (0, 32, 64, 128, 256), "numbers",
        "size of the summary of the last 32 notes; without it (0) the LSTM must remember them itself",
    ),
    _choice("head_units", (64, 128, 192, 256), "hidden units of each head", "at 256, as much as a layer of the body"),
    _choice("head_blocks", (0, 1, 2), "residual blocks of each head", "each costs as much as the heads without any"),
)  # fmt: skip

_DECLARED = {parameter.field: parameter for parameter in PARAMETERS}
_FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def notes_per_train_step(config: Config) -> int:
    """The notes in the windows of one optimizer update."""
    return config.windows_per_train_step * config.seq_length


def steps_for_equal_notes(config: Config, of: Config, train_steps: int) -> int:
    """The train_steps in which a config reads as many notes as another one does in so many, at least 1."""
    return max(round(train_steps * notes_per_train_step(of) / notes_per_train_step(config)), 1)


@dataclasses.dataclass(frozen=True)
class Space:
    """What a study searches.

    Attributes:
        parameters: the hyperparameters, in a fixed order.
        fixed: fields of the config that are other than the start config's in every trial.
    """

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @staticmethod
    def create(start: Config, *, tune: Iterable[str] = (), fix: Iterable[str] = (), file: str | None = None) -> "Space":
        """The space of a study, from what the user gave.

        Args:
            start: the config that all trials vary.
            tune: fields searched besides those that are by default; `all` for all that are declared.
            fix: `FIELD=VALUE` each; wins over the file.
            file: a YAML file of `FIELD: VALUE` (fixed), `FIELD: [VALUE, ...]` (a choice) or
                `FIELD: {low, high, step, sampling}` (a range; what is left out is as declared).

        Raises:
            UserError: an unknown field, an empty range, a value that the config does not take, a file that is no such
                YAML, or nothing left to search.
        """
        searched = dict.fromkeys(SEARCHED_BY_DEFAULT) | dict.fromkeys(_tuned(tune))
        parameters = {field: _DECLARED[field] for field in searched}
        fixed = {}
        for field, entry in _read(file).items() if file else ():
            where = f"{file}: {_known(str(field), str(file))}"
            if isinstance(entry, dict):
                parameters[field] = _range(field, entry, start, where)
            elif isinstance(entry, list):
                parameters[field] = _choices(field, entry, start, where)
            else:
                fixed[field] = _value(field, entry, start, where)
        for given in fix:
            field, separator, text = given.partition("=")
            if not separator:
                raise UserError(f"--fix {given}: expected FIELD=VALUE, such as units=256")
            _known(field, f"--fix {given}")
            if field in tune:
                raise UserError(f"--fix {given}: {field} is also given to --tune: expected one of the two")
            fixed[field] = _value(field, _parse(text, f"--fix {given}"), start, f"--fix {given}")
        for field, parameter in parameters.items():
            if parameter.grid is not None and len(parameter.grid) == 1:
                fixed.setdefault(field, parameter.grid[0])
        order = [*_DECLARED, *sorted(set(parameters) - set(_DECLARED))]
        space = Space(
            tuple(parameters[field] for field in order if field in parameters and field not in fixed),
            dict(sorted(fixed.items())),
        )
        if not space.parameters:
            raise UserError("nothing is left to search: every hyperparameter is fixed; search others with --tune")
        space.config({}, start, 1)
        return space

    def start(self, config: Config) -> Config:
        """The first trial's config but for its length: the start config, with what the study fixes."""
        return config.replace(**self.fixed) if self.fixed else config

    def values(self, config: Config) -> dict[str, Any]:
        """What a config has for the hyperparameters."""
        return {parameter.field: getattr(config, parameter.field) for parameter in self.parameters}

    def declare(self, start: Config) -> "keras_tuner.HyperParameters":
        """The space as KerasTuner has it; the defaults are the start config's values, or those nearest to them.

        What has a grid becomes a choice: KerasTuner would lose the last value of 0 to 0.5 by 0.1, as 0.5 // 0.1 is 4.
        """
        import keras_tuner

        hyperparameters = keras_tuner.HyperParameters()
        values = self.values(self.start(start))
        for parameter in self.parameters:
            name, default = parameter.field, parameter.nearest(values[parameter.field])
            if parameter.grid is not None:
                hyperparameters.Choice(name, list(parameter.grid), default=default)
            else:
                add = hyperparameters.Int if parameter.kind == "int" else hyperparameters.Float
                add(name, parameter.low, parameter.high, sampling=parameter.sampling, default=default)
        return hyperparameters

    def config(self, values: Mapping[str, Any], start: Config, train_steps: int) -> Config:
        """The config of a trial.

        Args:
            values: of the hyperparameters; those left out are the start config's.
            start: the config that all trials vary.
            train_steps: how many a trial with the start config's windows does. One with other windows does as many as
                read the same number of notes.

        Raises:
            UserError: the config does not take these values together, or its model is no density and has no score.
        """
        start = self.start(start)
        if start.model != "density":
            raise UserError(
                f"model={start.model}: expected density: the score of a trial is nats/note, which a {start.model} "
                "model is not trained to give"
            )
        changed = start.replace(**values) if values else start
        steps = steps_for_equal_notes(changed, start, train_steps)
        return changed.replace(
            steps=steps,
            monitor="val_nats",
            patience=0,
            evaluate_every=math.ceil(steps / _SCORES_A_TRIAL),
            checkpoint_every=math.ceil(steps / _CHECKPOINTS_A_TRIAL),
            log_every=math.ceil(steps / _LOGS_A_TRIAL),
            max_to_keep=1,
        )

    def to_json(self) -> dict[str, Any]:
        """The space as a JSON object; two are equal where the same trials may come from them."""
        described = ("field", "kind", "low", "high", "step", "sampling")
        parameters = [
            {**{name: getattr(parameter, name) for name in described}, "values": list(parameter.values)}
            for parameter in self.parameters
        ]
        return {"parameters": parameters, "fixed": dict(self.fixed)}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Returns the hyperparameters in which this space differs from one that `to_json` wrote, as `mismatches`."""
        mine = {parameter.field: parameter.text for parameter in self.parameters}
        theirs = {
            values["field"]: Parameter(**{**values, "values": tuple(values["values"])}).text
            for values in other["parameters"]
        }
        mine |= {field: f"fixed to {_number(value)}" for field, value in self.fixed.items()}
        theirs |= {field: f"fixed to {_number(value)}" for field, value in other["fixed"].items()}
        return mismatches(mine, theirs, absent="not searched")


def table(parameters: Sequence[Parameter] = PARAMETERS) -> str:
    """The hyperparameters as a Markdown table: name, values, unit, reason; a star at those searched by default."""
    rows = []
    for parameter in parameters:
        star = " *" if parameter.field in SEARCHED_BY_DEFAULT else ""
        rows.append((f"`{parameter.field}`{star}", parameter.text, parameter.unit, parameter.why))
    return markdown_table(("hyperparameter", "values", "unit", "why"), rows) + "\n"


def _tuned(tune: Iterable[str]) -> list[str]:
    found: list[str] = []
    for field in tune:
        if field == "all":
            found.extend(_DECLARED)
        elif field not in _DECLARED:
            if field in _FIELDS and field not in _OF_THE_STUDY:
                raise UserError(f"--tune={field}: {field} has no range of its own: give it one with --space")
            raise UserError(_unknown(f"--tune={field}", field, [*_DECLARED, "all"]))
        else:
            found.append(field)
    return found


def _unknown(where: str, name: str, known: Iterable[str], what: str = "hyperparameter") -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"{where}: unknown {what} {name!r}, " + (
        f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    )


def _known(field: str, where: str) -> str:
    """Checks that a field is one that a study may set; returns it."""
    if field in _OF_THE_STUDY:
        raise UserError(f"{where}: {field} follows from the study's own flags, such as --train_steps: leave it out")
    if field not in _FIELDS:
        raise UserError(_unknown(where, field, (name for name in _FIELDS if name not in _OF_THE_STUDY)))
    return field


def _parse(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: is no YAML ({' '.join(str(error).split())})") from error


def _read(file: str) -> dict[Any, Any]:
    entries = _parse(storage.read_bytes(file).decode("utf-8", "replace"), file)
    if not isinstance(entries, dict):
        raise UserError(
            f"{file}: expected lines such as units: [128, 256], got {'nothing' if entries is None else repr(entries)}"
        )
    return entries


def _value(field: str, value: Any, start: Config, where: str) -> Any:
    """One value of a field, of its type; `where` tells the user which one is wrong."""
    if _FIELDS[field].type is float and not isinstance(value, bool):
        try:
            value = float(value)  # YAML takes 1e-3 for a string: its numbers have a point.
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {value!r}: expected a number") from error
    try:
        dataclasses.replace(start, **{field: value})
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('config: ')}") from error
    return value


def _choices(field: str, entry: list[Any], start: Config, where: str) -> Parameter:
    values = list(dict.fromkeys(_value(field, value, start, where) for value in entry))
    if not values:
        raise UserError(f"{where}: the list is empty, expected at least one value")
    if not isinstance(values[0], str):
        values.sort()
    return dataclasses.replace(
        _named(field), kind="choice", low=None, high=None, step=None, values=tuple(values), sampling="linear"
    )


def _named(field: str) -> Parameter:
    """The hyperparameter that is declared for a field, or one without a range."""
    return _DECLARED.get(field) or Parameter(field, "choice", why=_FIELDS[field].metadata["help"])


def _range(field: str, entry: dict[Any, Any], start: Config, where: str) -> Parameter:
    for key in entry:
        if key not in _RANGE_KEYS:
            raise UserError(_unknown(where, str(key), _RANGE_KEYS, "key"))
    of = _FIELDS[field].type
    if of not in (int, float):
        raise UserError(f"{where}: is no number: expected a list of its values")
    declared = _named(field)
    grid = declared.grid
    entry = dict(entry)
    for key, default in (
        ("low", grid[0] if grid else declared.low),
        ("high", grid[-1] if grid else declared.high),
    ):
        if entry.get(key, default) is None:
            raise UserError(f"{where}: has no {key}: expected both low and high")
        entry[key] = _value(field, entry.get(key, default), start, where)
    low, high = entry["low"], entry["high"]
    if low > high:
        raise UserError(f"{where}: the range from {_number(low)} to {_number(high)} is empty")
    if declared.kind == "choice" and grid and not {"step", "sampling"} & entry.keys():
        kept = [value for value in grid if low <= value <= high]
        if not kept:
            raise UserError(
                f"{where}: none of {declared.text} is from {_number(low)} to {_number(high)}: give a step, or a list"
            )
        return dataclasses.replace(declared, values=tuple(kept))
    sampling = entry.get("sampling", declared.sampling)
    if sampling not in _SAMPLINGS:
        raise UserError(f"{where}: sampling={sampling!r}: expected one of {', '.join(_SAMPLINGS)}")
    if sampling == "log" and low <= 0:
        raise UserError(f"{where}: low={_number(low)}: expected above 0 with sampling=log")
    step = entry.get("step", declared.step if sampling == declared.sampling else None)
    if step is not None:
        step = _step(step, of is int, low, high, sampling, where)
    kind: Literal["int", "float"] = "int" if of is int else "float"
    return dataclasses.replace(declared, kind=kind, low=low, high=high, step=step, values=(), sampling=sampling)


def _step(step: Any, whole: bool, low: float, high: float, sampling: str, where: str) -> float:
    least = 1 if sampling == "log" else 0
    with contextlib.suppress(TypeError, ValueError):
        step = step if isinstance(step, (int, bool)) else float(step)  # 1e-3 is a string to YAML.
    if not isinstance(step, (int, float)) or isinstance(step, bool) or not least < step < math.inf:
        raise UserError(f"{where}: step={step!r}: expected a number above {least} with sampling={sampling}")
    if whole and sampling == "linear" and step != int(step):
        raise UserError(f"{where}: step={step!r}: expected a whole number")
    count = math.log(high / low) / math.log(step) if sampling == "log" else (high - low) / step
    if count > _MOST_VALUES:
        raise UserError(f"{where}: step={step!r}: makes {count:.0f} values, expected at most {_MOST_VALUES}")
    return step
