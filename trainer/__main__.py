"""Trains a next-note model: `sostenuto train --data=DIR --workdir=DIR`."""

import dataclasses
import logging
import math
import os
import shlex
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from sostenuto import cli, storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from sostenuto.progress import NOTICE
from sostenuto.text import counted
from trainer.config import CONFIG_NAME, LENGTH_FIELDS, Config
from trainer.distribution.cluster import resolve
from trainer.generation.samples import NUM_SAMPLES
from trainer.presets import PRESETS, preset, read_config
from trainer.workdir.formats import RunResult
from trainer.workdir.layout import REPORT_NAME, load_source_config, why_finished

_STARTED = time.monotonic()

logger = logging.getLogger(__name__)

USAGE = """--data=DIR --workdir=DIR [--preset=NAME | --config=FILE] [--FIELD=VALUE ...]

Trains a next-note model. The config is a preset or a file, with the fields that flags change. Started again, the
command resumes an unfinished run.
"""
EXAMPLES = (
    "--data=dataset --workdir=run",
    "--data=dataset --workdir=run --preset=base --units=384 --layers=3 --max_minutes=60",
    "--data=dataset --workdir=other-run --config=run/config.json --seed=1",
    "--data=my-dataset --workdir=my-run --init_from=run --learning_rate=5e-4 --steps=1000",
)

cli.start_group("input and output")
_DATA = flags.DEFINE(cli.Path("DIR"), "data", None, "Dataset: a directory that beam_preprocess wrote.")
_WORKDIR = flags.DEFINE(
    cli.Path("DIR"), "workdir", None, "Directory for checkpoints, metrics and results. An unfinished run is resumed."
)
_PRESET = flags.DEFINE_enum(
    "preset", None, sorted(PRESETS), "Config to start from. (default: that of the workdir, else base)"
)
_CONFIG = flags.DEFINE(
    cli.Path("FILE"),
    "config",
    None,
    "Config file to start from instead of a preset, such as another run's config.json.",
)


def _define_config_flags() -> dict[str, flags.FlagHolder]:
    """Defines a flag for each field of the config; without a value, the preset's applies."""
    define: dict[Any, Callable] = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}
    holders = {}
    for field in dataclasses.fields(Config):
        if field.name == "preset":
            continue
        cli.start_group(field.metadata["group"])
        limit = field.metadata["bounds"].maximum
        most = f"At most {limit:,}. " if field.type in (int, float) and math.isfinite(limit) else ""
        text = f"{field.metadata['help']} {most}({_defaults(field.name)})"
        if field.metadata["choices"]:
            holders[field.name] = flags.DEFINE_enum(field.name, None, field.metadata["choices"], text)
        elif field.type is str:
            placeholder = field.metadata["placeholder"]
            parser: Any = cli.Path(placeholder) if placeholder == "DIR" else cli.Text(placeholder)
            holders[field.name] = flags.DEFINE(parser, field.name, None, text)
        else:
            holders[field.name] = define[field.type](field.name, None, text)
    return holders


def _defaults(field: str) -> str:
    """Returns the help text of a field's default in `base` and in the presets that differ."""
    base = getattr(PRESETS["base"], field)
    values = {name: getattr(values, field) for name, values in PRESETS.items()}
    differing = [f"{name}: {_as_typed(value)}" for name, value in values.items() if value != base]
    return "; ".join([f"default: {_as_typed(base)}", *differing])


def _as_typed(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() or "none"


_FIELDS = _define_config_flags()

cli.start_group("devices and hosts")
_WORKERS = flags.DEFINE(
    cli.Text("HOST:PORT,..."), "workers", None, "Hosts that train together. (default: from TF_CONFIG or Slurm, if set)"
)
_WORKER_INDEX = flags.DEFINE_integer(
    "worker_index",
    None,
    "Index of this host in --workers. (default: from Kubernetes' JOB_COMPLETION_INDEX or from Slurm)",
    lower_bound=0,
)
cli.start_group("reports and checkpoints")
_SAMPLES = flags.DEFINE_integer(
    "samples",
    NUM_SAMPLES,
    "Samples to render at the end and for TensorBoard; 0 renders none.",
    lower_bound=0,
    upper_bound=NUM_SAMPLES,
)
_PROFILE = flags.DEFINE_bool("profile", False, "Write a trace of the process's train_steps 11 to 20 for TensorBoard.")


def _config(workdir: str) -> Config:
    """Returns the config that the flags describe."""
    if _PRESET.value and _CONFIG.value:
        raise UserError("--preset and --config: got both, expected at most one. Drop one of them")
    path = _CONFIG.value or os.path.join(workdir, CONFIG_NAME)
    is_read = _CONFIG.value or (not _PRESET.value and storage.exists(path))
    changes = {name: holder.value for name, holder in _FIELDS.items() if holder.value is not None}
    if is_read:
        start = read_config(path)
    elif init_from := changes.get("init_from"):
        # A resumed run has the model already; its source may be gone.
        source = read_config(path) if storage.exists(path) else load_source_config(init_from)
        start = preset(_PRESET.value or source.preset).with_model_of(source)
    else:
        start = preset(_PRESET.value or "base")
    if sum(bool(changes.get(name)) for name in LENGTH_FIELDS) > 1:
        raise UserError("--steps, --epochs and --max_minutes: got several, expected at most one. Drop the others")
    return start.replace(**changes)


def main() -> int:
    """Trains; returns the exit status."""
    data, workdir = cli.require_flag(_DATA), cli.require_flag(_WORKDIR)
    config = _config(workdir)
    cluster = resolve(_WORKERS.value, _WORKER_INDEX.value, os.environ)
    # TensorFlow would parse it again, in another way.
    os.environ.pop("TF_CONFIG", None)
    manifest = Manifest.load(data)
    from trainer.callbacks.standard import command_callbacks
    from trainer.engine import loop

    if (warning := manifest.size_warning()) and (cluster is None or cluster.is_chief):
        logger.log(NOTICE, f"warning: {warning}")
    callbacks = command_callbacks(num_samples=_SAMPLES.value, profile=_PROFILE.value)
    result = loop.train(config, manifest, workdir, cluster=cluster, callbacks=callbacks, started=_STARTED)
    if result.reason.is_final and (cluster is None or cluster.is_chief):
        cli.print_result(_format_result(result, config))
    return result.reason.exit_status


def _format_result(result: RunResult, config: Config) -> str:
    """Returns a finished run's length, reason and best score, the next commands and the report's page."""
    score = ""
    if result.best is not None:
        is_score = result.monitor == "val_nats"
        value = f"validation score {result.best:.3f} nats/note" if is_score else f"training loss {result.best:.4f}"
        score = f"; best {value} at train_step {result.best_train_step:,}"
    workdir = cli.require_flag(_WORKDIR)
    primer = " --primer=FILE.mid" if config.positions == "last" else ""  # Such a model cannot start from silence.
    flag = f"--workdir={shlex.quote(workdir)}"
    return (
        f"finished after {counted(result.train_step, 'train_step')} ({why_finished(result, config)}){score}\n"
        f"next: sostenuto evaluate {flag}\n"
        f"      sostenuto generate {flag} --output=music{primer}\n"
        f"report: {storage.join(workdir, REPORT_NAME)}"
    )


if __name__ == "__main__":
    cli.run(main, usage=USAGE, required=(_DATA, _WORKDIR), examples=EXAMPLES)
