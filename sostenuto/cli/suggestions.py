"""One-line explanations of mistakes in flags, with the nearest flag or value that exists."""

import difflib
import math
import re
from collections.abc import Iterable, Sequence

from absl import flags

from sostenuto.cli.flag_types import Path, Paths
from sostenuto.errors import UserError

# Names that other programs use, where they resemble ours too little to be found.
_FOREIGN = {
    "bs": "batch_size",
    "checkpoint_dir": "workdir",
    "dim": "units",
    "gpus": "replicas",
    "hidden_size": "units",
    "input_dir": "input",
    "log_dir": "workdir",
    "logdir": "workdir",
    "lr": "learning_rate",
    "max_steps": "steps",
    "model_dir": "workdir",
    "out": "output",
    "outdir": "output",
    "train_dir": "workdir",
    "wd": "weight_decay",
}


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that resembles a mistyped one the most; None if none resembles it."""
    known = list(known)
    name = name.lower().replace("-", "_")
    if name in known:
        return name
    if _FOREIGN.get(name) in known:
        return _FOREIGN[name]
    completions = [candidate for candidate in known if len(name) >= 3 and candidate.startswith(name)]
    if len(completions) == 1:
        return completions[0]
    close = difflib.get_close_matches(name, known, 1, 0.7)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Returns a sentence with the nearest known name, to be appended to an error; "" if none is near."""
    near = nearest_name(name, known)
    return f". Did you mean {prefix}{near}?" if near else ""


def flag_names() -> list[str]:
    """Returns what may follow `--`: the names of all flags, and `no` before those that are true or false."""
    names = [name for name in flags.FLAGS if name not in ("flagfile", "undefok")]
    return [*names, *(f"no{name}" for name in names if flags.FLAGS[name].boolean), "help", "version"]


def check_values(argv: Sequence[str]) -> None:
    """Raises UserError for a flag without a value, before absl takes the next flag as its value."""
    for argument, following in zip(argv, [*argv[1:], "--"], strict=True):
        if argument == "--":
            return
        name = argument.lstrip("-")
        if not argument.startswith("-") or name not in flags.FLAGS:
            continue
        flag = flags.FLAGS[name]
        if not flag.boolean and following.startswith("--"):
            raise UserError(f"--{name}: has no value. Expected --{name}={value_kind(flag)}")
        if flag.boolean and following.lower() in ("true", "false"):
            raise UserError(f"--{name}: takes no separate value. Expected --{name} or --no{name}")


def check_finite() -> None:
    """Raises UserError for a flag that is nan or infinite, which absl accepts."""
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name}: expected a finite number, got {str(value)!r}")


def explain(error: Exception) -> str:
    """Returns absl's error about a flag, on one line."""
    text = str(error)
    if isinstance(error, flags.UnrecognizedFlagError):
        name = error.flagname
        return f"--{name}: unknown flag" + (did_you_mean(name, flag_names(), prefix="--") or ". See --help")
    if text.endswith("does not take an argument"):
        name, _, value = text.removesuffix(" does not take an argument").partition("=")
        return f"{name}: expected no value, got {value!r}"
    cause = error.__context__
    match = re.match(r"flag --(\w+)=", text)
    if not isinstance(error, flags.IllegalFlagValueError) or match is None or cause is None:
        return text
    flag = flags.FLAGS[match[1]]
    if isinstance(flag.parser, Path | Paths):
        return f"--{flag.name}={cause}"
    value = text[match.end() : len(text) - len(f": {cause}")]
    choices = flag.parser.enum_values if isinstance(flag.parser, flags.EnumParser) else ()
    return f"--{flag.name}: expected {_expectation(flag)}, got {value!r}" + did_you_mean(value, choices)


def value_kind(flag: flags.Flag) -> str:
    """Returns the placeholder of a flag's value in `--help`, such as "DIR"."""
    match flag.parser:
        case flags.EnumParser(enum_values=choices):
            return "|".join(choices)
        case flags.IntegerParser():
            return "N"
        case flags.FloatParser():
            return "NUMBER"
        case parser:
            return getattr(parser, "kind", "TEXT")


def _expectation(flag: flags.Flag) -> str:
    """Describes the values that a flag accepts."""
    match flag.parser:
        case flags.BooleanParser():
            return "true or false"
        case flags.EnumParser(enum_values=choices):
            return f"one of {', '.join(choices)}"
        case flags.IntegerParser(lower_bound=lowest, upper_bound=highest):
            return f"a whole number{_bounds(lowest, highest)}"
        case flags.FloatParser(lower_bound=lowest, upper_bound=highest):
            return f"a number{_bounds(lowest, highest)}"
        case _:
            return value_kind(flag)


def _bounds(lowest: float | None, highest: float | None) -> str:
    if lowest is not None and highest is not None:
        return f" from {lowest} to {highest}"
    if lowest is not None:
        return f" of at least {lowest}"
    return "" if highest is None else f" of at most {highest}"
