"""Searches for better hyperparameters: `sostenuto tune --data=DIR --workdir=DIR --max_trials=N`.

Alone it runs trial after trial. On several machines one chief (`--role=chief`) leads, and any number of workers
(`--role=worker`) train; all are given the same flags but for the role, and the same workdir, on a shared file system or
in a bucket.
"""

import os

from absl import flags

from sostenuto import cli
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from trainer import startup
from trainer.config import Config
from trainer.presets import PRESETS, preset, read_config
from tuning.roles import resolve
from tuning.space import PARAMETERS, SEARCHED_BY_DEFAULT, Space

USAGE = """--data=DIR --workdir=DIR [--max_trials=N] [--tuner=NAME] [flags]

Searches for better hyperparameters. Alone it runs one trial after another. On several machines one chief
(--role=chief) leads, and any number of workers (--role=worker) train; all get the same flags except the role, and the
same workdir, on a shared file system or in a bucket.
"""
EXAMPLES = (
    "--data=dataset --workdir=study --max_trials=20",
    "--data=dataset --workdir=study --tuner=hyperband --tune=learning_rate,dropout --fix=units=256 --retrain_best",
)

cli.start_group("input and output")
_DATA = flags.DEFINE(cli.Path("DIR"), "data", None, "Dataset: a directory that beam_preprocess wrote.")
_WORKDIR = flags.DEFINE(
    cli.Path("DIR"), "workdir", None, "Directory for the study and its trials. An unfinished study is resumed."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete a study in the workdir first; only the chief does so.")
_RETRAIN_BEST = flags.DEFINE_bool(
    "retrain_best", False, "Train the best config at the start config's full length, in WORKDIR/best."
)
cli.start_group("search")
_PRESET = flags.DEFINE_enum(
    "preset", None, sorted(PRESETS), "Start config: the first trial, which the others vary. (default: base)"
)
_CONFIG = flags.DEFINE(
    cli.Path("FILE"), "config", None, "Config file as start config instead of a preset, such as a run's config.json."
)
_MAX_TRIALS = flags.DEFINE_integer("max_trials", 40, "Configs to try.")
_TUNER = flags.DEFINE_enum("tuner", "random", ["random", "bayesian", "hyperband"], "How configs are chosen.")
_TUNE = flags.DEFINE(
    cli.Texts("NAME,..."), "tune", [], "Hyperparameters to search besides those marked *, or all. (default: none)"
)
_FIX = flags.DEFINE_multi(
    cli.Text("FIELD=VALUE"),
    flags.ArgumentSerializer(),
    "fix",
    [],
    "Field of the config that every trial has so; may be given again for another field. (default: none)",
)
_SPACE = flags.DEFINE(
    cli.Path("FILE"), "space", None, "YAML file that narrows, widens or fixes hyperparameters. (default: none)"
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the search.")
cli.start_group("trials")
_TRAIN_STEPS = flags.DEFINE_integer(
    "train_steps", 600, "Length of a trial; one with other windows reads as many notes as the start config does."
)
_CORPUS_SHARE = flags.DEFINE_float("train_fraction", 1.0, "Fraction of the training performances that trials use.")
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
    "score_timeout", 3600.0, "Seconds without a new score after which a worker that hangs loses its trial."
)
_PATIENCE = flags.DEFINE_float("chief_patience", 300.0, "Seconds for which a worker waits for an absent chief.")
_MAX_IDLE = flags.DEFINE_float("max_idle", 3600.0, "Seconds without any worker after which the chief gives up.")


def _start() -> Config:
    """The config that all trials vary."""
    if _PRESET.value and _CONFIG.value:
        raise UserError("--preset and --config: expected at most one of them, both say where to start from")
    start = read_config(_CONFIG.value) if _CONFIG.value else preset(_PRESET.value or "base")
    if not start.evaluate_every:
        raise UserError(
            f"preset {start.preset!r}: evaluate_every=0, so that no trial would be scored: start from another preset"
        )
    return start


def main() -> int:
    """Searches as the flags say."""
    data, workdir = cli.require_flag(_DATA), cli.require_flag(_WORKDIR)
    role = resolve(_ROLE.value, _CHIEF_ADDRESS.value, _WORKER_ID.value, os.environ)
    start = _start()
    space = Space.create(start, tune=_TUNE.value, fix=_FIX.value, file=_SPACE.value)
    start = space.start(start)
    manifest = Manifest.load(data)
    from tuning import study

    settings = study.StudyConfig(
        tuner=_TUNER.value,
        max_trials=_MAX_TRIALS.value,
        train_steps=_TRAIN_STEPS.value,
        train_fraction=_CORPUS_SHARE.value,
        seed=_SEED.value,
        worker_timeout=_WORKER_TIMEOUT.value,
        score_timeout=_SCORE_TIMEOUT.value,
        stop_weak=_STOP_WEAK.value,
        data=manifest.sha256,
    )
    from tuning import search

    run = search.Search(space, start, settings, manifest, workdir, quiet=cli.QUIET.value)
    if role.name == "worker":
        startup.import_tensorflow()
        return run.worker(role, patience=_PATIENCE.value)
    if role.name == "chief":
        status = run.chief(role, overwrite=_OVERWRITE.value, max_idle=_MAX_IDLE.value)
    else:
        startup.import_tensorflow()
        status = run.alone(role, overwrite=_OVERWRITE.value)
    if not status and _RETRAIN_BEST.value:
        status = run.retrain_best(data)
    return status


def _hyperparameters() -> list[tuple[str, str]]:
    """Returns the rows of the help: a name, and its values, unit and reason."""
    return [
        (
            parameter.field + " *" * (parameter.field in SEARCHED_BY_DEFAULT),
            f"{parameter.text} ({parameter.unit}): {parameter.why}",
        )
        for parameter in PARAMETERS
    ]


if __name__ == "__main__":
    cli.run(
        main,
        usage=USAGE,
        required=(_DATA, _WORKDIR),
        examples=EXAMPLES,
        sections={"hyperparameters (* searched by default)": _hyperparameters()},
    )
