"""Searches for better hyperparameters: `sostenuto tune --data=DIR --workdir=DIR --max_trials=N`."""

import os
from typing import Any

from absl import flags

from sostenuto import cli
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from trainer import startup
from trainer.config import Config
from trainer.config_fields import MAX_STEPS
from trainer.presets import PRESETS, preset, read_config
from tuning.default_space import PARAMETERS, SEARCHED_BY_DEFAULT
from tuning.roles import resolve_role
from tuning.space_file import create_space
from tuning.trial import MAX_TRIALS, SECONDS, TUNERS, StudyConfig, check_bounds

USAGE = """--data=DIR --workdir=DIR [--max_trials=N] [--tuner=NAME] [flags]

Searches for better hyperparameters. Alone it runs one trial after another. On several machines one chief
(--role=chief) leads, and any number of workers (--role=worker) train. All get the same flags except the role, and the
same workdir, on a shared file system or in a bucket.
"""
EXAMPLES = (
    "--data=dataset --workdir=study --max_trials=20",
    "--data=dataset --workdir=study --tuner=hyperband --tune=learning_rate,dropout --fix=units=256 --retrain_best",
)

cli.start_group("input and output")
_DATA = flags.DEFINE(cli.Path("DIR"), "data", None, "Dataset: a directory that `sostenuto preprocess` wrote.")
_WORKDIR = flags.DEFINE(
    cli.Path("DIR"), "workdir", None, "Directory for the study and its trials. An unfinished study is resumed."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete a study in the workdir first; only the chief does so.")
_RETRAIN_BEST = flags.DEFINE_bool(
    "retrain_best", False, "Train the best config at the base config's full length, in WORKDIR/best."
)
cli.start_group("search")
_PRESET = flags.DEFINE_enum(
    "preset", None, sorted(PRESETS), "Base config: the first trial, which the others vary. (default: base)"
)
_CONFIG = flags.DEFINE(
    cli.Path("FILE"), "config", None, "Config file as base config instead of a preset, such as a run's config.json."
)
_MAX_TRIALS = flags.DEFINE_integer("max_trials", 40, f"Configs to try, at most {MAX_TRIALS:,}.")
_TUNER = flags.DEFINE_enum("tuner", "random", TUNERS, "Search algorithm.")
_TUNE = flags.DEFINE(
    cli.Texts("NAME,..."), "tune", [], "Hyperparameters to search besides those marked *, or all. (default: none)"
)
_FIX = flags.DEFINE_multi(
    cli.Text("FIELD=VALUE"),
    flags.ArgumentSerializer(),
    "fix",
    [],
    "Value of a field in every trial; repeat it for further fields. (default: none)",
)
_SPACE = flags.DEFINE(
    cli.Path("FILE"), "space", None, "YAML file that narrows, widens or fixes hyperparameters. (default: none)"
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the search.", lower_bound=0, upper_bound=2**63 - 1)
cli.start_group("trials")
_TRAIN_STEPS = flags.DEFINE_integer(
    "train_steps",
    600,
    "Length of a trial with the base config's windows; all trials read the same number of notes. "
    f"At most {MAX_STEPS:,}.",
)
_TRAIN_FRACTION = flags.DEFINE_float("train_fraction", 1.0, "Fraction of the training performances that trials use.")
_STOP_WEAK = flags.DEFINE_bool("stop_weak", True, "Stop trials that are worse than the median of the others.")
cli.start_group("several machines")
_ROLE = flags.DEFINE_enum(
    "role", None, ["chief", "worker"], "Role of this process. (default: from KERASTUNER_TUNER_ID, else both in one)"
)
_CHIEF_ADDRESS = flags.DEFINE(
    cli.Text("HOST:PORT"),
    "chief_address",
    None,
    "Address of the chief. (default: from KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT)",
)
_WORKER_ID = flags.DEFINE(
    cli.Text("NAME"),
    "worker_id",
    None,
    "Id of this worker, the same after a restart. (default: from the index of a pod or task)",
)
_WORKER_TIMEOUT = flags.DEFINE_float(
    "worker_timeout", 120.0, "Seconds without a heartbeat after which another worker gets the trial."
)
_SCORE_TIMEOUT = flags.DEFINE_float(
    "score_timeout", 3600.0, "Seconds without a new score after which the trial of a hanging worker is reassigned."
)
_PATIENCE = flags.DEFINE_float("chief_patience", 300.0, "Seconds that a worker waits for an absent chief.")
_MAX_IDLE = flags.DEFINE_float(
    "max_idle", 3600.0, "Seconds without a call from any worker after which the chief exits."
)
# Flags of the settings of a search, which bear the names of its fields
_SETTINGS = (_TUNER, _MAX_TRIALS, _TRAIN_STEPS, _TRAIN_FRACTION, _SEED, _WORKER_TIMEOUT, _SCORE_TIMEOUT, _STOP_WEAK)


def _load_base_config() -> Config:
    """Returns the config that all trials vary."""
    if _PRESET.value and _CONFIG.value:
        raise UserError("--preset and --config: got both, expected at most one. Remove one of them")
    config = read_config(_CONFIG.value) if _CONFIG.value else preset(_PRESET.value or "base")
    if not config.evaluate_every:
        raise UserError(
            f"preset {config.preset!r}: evaluate_every=0 gives trials no scores. Pass another --preset or --config"
        )
    return config


def main() -> int:
    """Runs the search; returns the exit status."""
    data, workdir = cli.require_flag(_DATA), cli.require_flag(_WORKDIR)
    role = resolve_role(_ROLE.value, _CHIEF_ADDRESS.value, _WORKER_ID.value, os.environ)
    for flag in (_PATIENCE, _MAX_IDLE):
        check_bounds(f"--{flag.name}", flag.value, SECONDS)
    space = create_space(_load_base_config(), tune=_TUNE.value, fix=_FIX.value, file=_SPACE.value)
    manifest = Manifest.load(data)
    settings: dict[str, Any] = {flag.name: flag.value for flag in _SETTINGS}
    config = StudyConfig(**settings, data=manifest.sha256)
    startup.require_tensorflow()  # before a workdir is created
    from tuning.search import Search  # NumPy, gRPC and the reports, which `--help` does not need

    search = Search(space, config, manifest, workdir, quiet=cli.QUIET.value, retrain=_RETRAIN_BEST.value)
    if role.name == "worker":
        import tensorflow  # noqa: F401  Before the worker asks for a trial.

        return search.worker(role, patience=_PATIENCE.value)
    if role.name == "chief":
        status = search.chief(role, overwrite=_OVERWRITE.value, max_idle=_MAX_IDLE.value)
    else:
        status = search.alone(role, overwrite=_OVERWRITE.value)
    return search.retrain_best() if not status and _RETRAIN_BEST.value else status


if __name__ == "__main__":
    hyperparameters = [
        (
            parameter.field + " *" * (parameter.field in SEARCHED_BY_DEFAULT),
            f"{parameter.text} ({parameter.unit}): {parameter.why}",
        )
        for parameter in PARAMETERS
    ]
    sections = {"hyperparameters (* searched by default)": hyperparameters}
    cli.run(main, usage=USAGE, required=(_DATA, _WORKDIR), examples=EXAMPLES, sections=sections)
