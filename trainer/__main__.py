"""Trains a next-note model: `python -m trainer --data=DIR --workdir=DIR`."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from notes import cli, storage
from notes.errors import UserError
from notes.manifest import Manifest
from trainer import startup
from trainer.cluster import resolve
from trainer.config import CONFIG_NAME, LENGTH_FIELDS, PRESETS, Config, preset
from trainer.samples import NUM_SAMPLES

_STARTED = time.monotonic()

EXIT_PEER_LOST = cli.EXIT_TRY_AGAIN

_DATA = flags.DEFINE_string("data", None, "the dataset: a directory that beam_preprocess wrote")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "where checkpoints, metrics and results go; an unfinished run is resumed"
)
_PRESET = flags.DEFINE_enum(
    "preset", None, sorted(PRESETS), "the config to start from; base where neither a workdir nor --config gives one"
)
_CONFIG = flags.DEFINE_string("config", None, "a config file to start from, such as another run's config.json")
_WORKERS = flags.DEFINE_string(
    "workers", None, "the hosts that train together, as HOST:PORT,HOST:PORT; by default as TF_CONFIG or Slurm say"
)
_WORKER_INDEX = flags.DEFINE_integer(
    "worker_index", None, "which of --workers this is; by default as Kubernetes (JOB_COMPLETION_INDEX) or Slurm say"
)
_SAMPLES = flags.DEFINE_integer(
    "samples",
    NUM_SAMPLES,
    "samples to play at the end and for TensorBoard; 0 plays none",
    lower_bound=0,
    upper_bound=NUM_SAMPLES,
)
_PROFILE = flags.DEFINE_bool("profile", False, "write a trace of train_steps 10 to 20 for TensorBoard")


def _define_config_flags() -> dict[str, flags.FlagHolder]:
    """A flag for each field of the config; None means "as the preset has it"."""
    define: dict[Any, Callable] = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}
    holders = {}
    for field in dataclasses.fields(Config):
        if field.name == "preset":
            continue
        defaults = "; ".join(f"{name}: {getattr(values, field.name)}" for name, values in PRESETS.items())
        text = f"{field.metadata['help']} ({defaults})"
        if field.metadata["choices"]:
            holders[field.name] = flags.DEFINE_enum(field.name, None, field.metadata["choices"], text)
        else:
            holders[field.name] = define[field.type](field.name, None, text)
    return holders


_FIELDS = _define_config_flags()


def _config(workdir: str) -> Config:
    """The config that the flags ask for."""
    if _PRESET.value and _CONFIG.value:
        raise UserError("--preset and --config: expected at most one of them, both say where to start from")
    begun = os.path.join(workdir, CONFIG_NAME)
    if _CONFIG.value:
        start = Config.load(_CONFIG.value)
    elif _PRESET.value:
        start = preset(_PRESET.value)
    elif storage.exists(begun):
        start = Config.load(begun)
    else:
        start = preset("base")
    changes = {name: holder.value for name, holder in _FIELDS.items() if holder.value is not None}
    if sum(bool(changes.get(name)) for name in LENGTH_FIELDS) > 1:
        raise UserError("--steps, --epochs and --max_minutes: expected at most one of them")
    return start.replace(**changes)


def main() -> int:
    """Trains as the flags say."""
    data, workdir = cli.required(_DATA), cli.required(_WORKDIR)
    config = _config(workdir)
    cluster = resolve(_WORKERS.value, _WORKER_INDEX.value, os.environ)
    # What it said is known; TensorFlow need not read it a second time, in its own way.
    os.environ.pop("TF_CONFIG", None)
    manifest = Manifest.load(data)
    startup.import_tensorflow()
    from trainer import loop

    try:
        result = loop.train(
            config,
            manifest,
            workdir,
            cluster=cluster,
            profile=_PROFILE.value,
            started=_STARTED,
            num_samples=_SAMPLES.value,
        )
    except loop.PeerLost as error:
        cli.complain(error, EXIT_PEER_LOST)
        return EXIT_PEER_LOST
    if result.reason == "peer":
        return EXIT_PEER_LOST
    if not result.is_final:
        return 128 + getattr(signal, result.reason)
    if cluster is None or cluster.is_chief:
        score = (
            "" if result.best is None else f", best {result.monitor} {result.best:.4f} at {result.best_train_step:,}"
        )
        cli.show(f"done: {result.train_step:,} train_steps ({result.reason}){score}; {_WORKDIR.value}")
    return 0


if __name__ == "__main__":
    cli.run(main, usage="--data=DIR --workdir=DIR [--preset=NAME | --config=FILE] [--FIELD=VALUE ...]\n" + __doc__)
