"""Searches for better hyperparameters: `python -m tuning --data=DIR --workdir=DIR --max_trials=N`.

Alone it runs trial after trial. On several machines one chief (`--role=chief`) leads, and any number of workers
(`--role=worker`) train; all are given the same flags but for the role, and the same workdir, on a shared file system or
in a bucket.
"""

import os

from absl import flags

from notes import cli
from notes.errors import UserError
from notes.manifest import Manifest
from trainer import startup
from trainer.config import PRESETS, Config, preset
from tuning.roles import resolve
from tuning.space import Space, table

_DATA = flags.DEFINE_string("data", None, "the dataset: a directory that beam_preprocess wrote")
_WORKDIR = flags.DEFINE_string("workdir", None, "where the study and its trials go; an unfinished study is resumed")
_PRESET = flags.DEFINE_enum("preset", None, sorted(PRESETS), "the start config: the first trial, which all others vary")
_CONFIG = flags.DEFINE_string("config", None, "a config file as start config, such as another run's config.json")
_MAX_TRIALS = flags.DEFINE_integer("max_trials", 40, "configs to try")
_TUNER = flags.DEFINE_enum("tuner", "random", ["random", "bayesian", "hyperband"], "how configs are chosen")
_TUNE = flags.DEFINE_list("tune", [], "hyperparameters to search besides the default ones, by name; or all")
_FIX = flags.DEFINE_multi_string("fix", [], "NAME=VALUE: a field of the config that every trial has so")
_SPACE = flags.DEFINE_string("space", None, "a YAML file that narrows, widens or fixes hyperparameters")
_TRAIN_STEPS = flags.DEFINE_integer(
    "train_steps", 600, "length of a trial; one with other windows reads as many notes as so many of the start config"
)
_CORPUS_SHARE = flags.DEFINE_float("corpus_share", 1.0, "share of the training performances that trials use")
_SEED = flags.DEFINE_integer("seed", 0, "of the search")
_STOP_WEAK = flags.DEFINE_bool("stop_weak", True, "stop trials that are worse than the median of the others")
_ROLE = flags.DEFINE_enum(
    "role", None, ["chief", "worker"], "by default as KERASTUNER_TUNER_ID says, or both in one process"
)
_CHIEF_ADDRESS = flags.DEFINE_string(
    "chief_address", None, "HOST:PORT of the chief; by default as KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT say"
)
_WORKER_ID = flags.DEFINE_string(
    "worker_id", None, "this worker's id, the same when it is started again; by default from a pod's or task's index"
)
_WORKER_TIMEOUT = flags.DEFINE_float(
    "worker_timeout", 120.0, "seconds without a sign of life after which a worker's trial goes to another"
)
_SCORE_TIMEOUT = flags.DEFINE_float(
    "score_timeout", 3600.0, "seconds without a new score after which a trial is taken from its worker, which hangs"
)
_PATIENCE = flags.DEFINE_float("chief_patience", 300.0, "seconds for which a worker waits for a chief that is away")
_MAX_IDLE = flags.DEFINE_float(
    "max_idle", 3600.0, "seconds for which the chief waits without hearing of any worker before it gives up"
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "remove a study that is in the workdir; only the chief does")
_RETRAIN_BEST = flags.DEFINE_bool(
    "retrain_best", False, "train the best config at the start config's full length, in WORKDIR/best"
)


def _start() -> Config:
    """The config that all trials vary."""
    if _PRESET.value and _CONFIG.value:
        raise UserError("--preset and --config: expected at most one of them, both say where to start from")
    start = Config.load(_CONFIG.value) if _CONFIG.value else preset(_PRESET.value or "base")
    if not start.evaluate_every:
        raise UserError(
            f"preset {start.preset!r}: evaluate_every=0, so that no trial would be scored: start from another preset"
        )
    return start


def main() -> int:
    """Searches as the flags say."""
    data, workdir = cli.required(_DATA), cli.required(_WORKDIR)
    role = resolve(_ROLE.value, _CHIEF_ADDRESS.value, _WORKER_ID.value, os.environ)
    start = _start()
    space = Space.create(start, tune=_TUNE.value, fix=_FIX.value, file=_SPACE.value)
    start = space.start(start)
    manifest = Manifest.load(data)
    from tuning import study

    settings = study.Settings(
        tuner=_TUNER.value,
        max_trials=_MAX_TRIALS.value,
        train_steps=_TRAIN_STEPS.value,
        corpus_share=_CORPUS_SHARE.value,
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


if __name__ == "__main__":
    cli.run(
        main,
        usage="--data=DIR --workdir=DIR --max_trials=N [--tuner=NAME] [flags]\n"
        + __doc__
        + "\nThe hyperparameters that it knows:\n\n"
        + table(),
    )
