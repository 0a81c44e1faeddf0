"""Devices, data and model of a run on this host."""

import dataclasses
import logging
import platform

import keras
import numpy as np
import tensorflow as tf

import sostenuto
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from sostenuto.text import counted
from trainer.config import Config
from trainer.data.note_table import NoteTable, load_table, select_fraction
from trainer.data.windows import WindowSampler
from trainer.distribution.cluster import Cluster
from trainer.distribution.devices import check_batch_size, configure_devices, device_name
from trainer.distribution.strategy import create_strategy
from trainer.distribution.workers import Workers
from trainer.engine.initial_weights import InitialWeights
from trainer.engine.train_state import TrainState
from trainer.evaluation.scorer import Scorer
from trainer.workdir import layout
from trainer.workdir.remote import LocalWorkdir

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunSetup:
    """Devices, data and model of a run on this host."""

    config: Config
    manifest: Manifest
    devices: list[str]  # of this host, one for each replica
    replicas: int  # on all hosts
    workers: Workers
    windows: WindowSampler  # of the train split
    performances: list[int]  # index in the train split of each performance that is trained on
    validation: NoteTable | None  # this host's part of the validation split, or None if nothing is scored
    state: TrainState
    initial_weights: InitialWeights
    scorer: Scorer

    @property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(int(np.prod(variable.shape)) for variable in self.state.model.weights)

    @property
    def frozen_parameters(self) -> int:
        """Number of parameters that are not trained."""
        trained = self.state.model.trainable_variables
        return self.parameters - sum(int(np.prod(variable.shape)) for variable in trained)

    @property
    def score_steps(self) -> float:
        """Estimated train_steps that take as long as one score; 0 without scores."""
        if self.validation is None:
            return 0.0
        # A forward pass costs about a third of training on as many notes, so this leaves a margin.
        notes_per_step = self.windows.targets_per_epoch / self.windows.per_epoch * self.config.windows_per_train_step
        return len(self.validation.notes) * self.workers.size / notes_per_step / 2

    def log_summary(self, train_step: int) -> None:
        """Logs model, devices and data, and the train_step at which a run is resumed, if above 0."""
        config, devices = self.config, self.devices
        figures = {
            "parameters": self.parameters, "precision": config.precision, "replicas": self.replicas,
            "global_batch_size": config.batch_size,
        }  # fmt: skip
        frozen = f", {self.frozen_parameters:,} of them frozen" if config.freeze else ""
        hosts = f" on each of {self.workers.size} hosts" if self.workers.size > 1 else ""
        accumulated = f", {config.accumulation_steps} of them a train_step" if config.accumulation_steps > 1 else ""
        logger.info(
            f"{config.preset}: {self.parameters:,} parameters{frozen}, {config.precision}, "
            f"{len(devices)} x {devices[0][:3]}{hosts}, "
            f"global batch {config.batch_size} = {config.batch_size // self.replicas} x "
            f"{counted(self.replicas, 'replica')}{accumulated}, {counted(self.windows.per_epoch, 'window')} and "
            f"{counted(self.windows.targets_per_epoch, 'note')} an epoch",
            extra={"figures": figures},
        )
        if train_step:
            logger.info(f"resumed at train_step {train_step:,}", extra={"figures": {"train_step": train_step}})


def build_setup(config: Config, manifest: Manifest, cluster: Cluster | None) -> RunSetup:
    """Builds a run's parts, and waits for other hosts; raises UserError if the config does not fit hosts or data."""
    if config.evaluate_every and manifest.notes("validation") <= manifest.performances("validation"):
        raise UserError(
            f"{manifest.directory}: the validation split has nothing to score. Pass --evaluate_every=0 to train "
            "without scores"
        )
    devices = configure_devices(config, cluster)
    train = load_table(manifest, "train")
    performances = select_fraction(len(train.lengths), config.train_fraction)
    if len(performances) < len(train.lengths):
        train = train.subset(performances)
    validation = load_table(manifest, "validation") if config.evaluate_every else None
    if cluster:
        logger.info(
            f"worker {cluster.index} of {cluster.size}, waiting for all: {', '.join(cluster.workers)}",
            extra={"figures": {"worker": cluster.index, "workers": cluster.size}},
        )
    # Hosts must be connected before TensorFlow runs its first operation.
    strategy = create_strategy(devices, cluster)
    check_batch_size(config, strategy.num_replicas_in_sync)
    windows = WindowSampler(train, config)
    windows.require_fit()
    workers = Workers(strategy, cluster)
    _check_same_run(workers, config, manifest)
    if validation is not None and cluster:
        validation = validation.subset(range(cluster.index, len(validation.lengths), cluster.size))
    with strategy.scope():
        state = TrainState(config, windows, strategy)
    return RunSetup(
        config=config, manifest=manifest, devices=devices, replicas=strategy.num_replicas_in_sync, workers=workers,
        windows=windows, performances=performances, validation=validation, state=state,
        initial_weights=InitialWeights(config, manifest, state, workers), scorer=Scorer(state.model),
    )  # fmt: skip


def claim_workdir(setup: RunSetup, workdir: LocalWorkdir) -> None:
    """Claims a workdir for a run and records the run in run.json; raises WorkdirLockedError if it is in use."""
    versions = {
        "sostenuto": sostenuto.__version__, "python": platform.python_version(), "tensorflow": tf.__version__,
        "keras": keras.__version__, "numpy": np.__version__,
    }  # fmt: skip
    workdir.claim(setup.config, setup.manifest, versions)
    record = {
        "device": device_name(setup.devices),
        "hosts": setup.workers.size,
        "parameters": setup.parameters,
        "targets_per_epoch": setup.windows.targets_per_epoch,
        "pitch_range": setup.windows.pitch_range,
        "composers": setup.windows.composers,
    }
    # A run that resumes keeps what it recorded at its start.
    if source := setup.initial_weights.source:
        record["init_from"] = source
    layout.update_run(workdir.directory, record)


def _check_same_run(workers: Workers, config: Config, manifest: Manifest) -> None:
    """Raises UserError if the hosts have different configs or datasets."""
    if not workers.are_equal(layout.fingerprint(config, manifest)):
        raise UserError(
            f"worker {workers.index} of {workers.size}: the workers were given different configs or datasets. "
            "Pass the same flags and data on every host"
        )
