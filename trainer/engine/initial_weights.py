"""Weights of another run or export, with which a run starts."""

import hashlib
import logging

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from trainer.config import Config
from trainer.distribution.workers import Workers
from trainer.engine.train_state import TrainState
from trainer.model.next_note import NextNoteModel
from trainer.model.parts import named_weights
from trainer.workdir.formats import WeightSource
from trainer.workdir.layout import absolute, has_checkpoint, load_run, load_source_config, source_errors
from trainer.workdir.load_model import LoadedModel, read_model

logger = logging.getLogger(__name__)


class InitialWeights:
    """The weights of `init_from`, with which a run starts; none without `init_from`.

    Attributes:
        source: where they are from, once they are in the run's model.
    """

    def __init__(self, config: Config, manifest: Manifest, state: TrainState, workers: Workers) -> None:
        self._config, self._manifest, self._state, self._workers = config, manifest, state, workers
        self.source: WeightSource | None = None

    def prepare(self, workdir: str) -> None:
        """Loads the weights before the workdir is claimed, so that a wrong source leaves nothing behind.

        A run that has a checkpoint needs no source. Every host must call it.
        """
        if self._config.init_from and not any(self._workers.broadcast_from_chief([float(has_checkpoint(workdir))])):
            self.load()

    def load(self) -> None:
        """Copies the weights into the run's model, unless it has them already. Every host must call it.

        Raises UserError if they cannot be read, have other shapes, or differ between hosts.
        """
        path = self._config.init_from
        if not path or self.source:
            return
        loaded = _read_source(self._config)
        sha256 = fingerprint(loaded.model)
        if not self._workers.are_equal(int(sha256[:5], 16)):
            raise UserError(
                f"--init_from={path}: the hosts have read different weights. Pass a directory that all hosts share"
            )
        self._state.start_from(loaded.model)
        self.source = WeightSource(absolute(path), loaded.train_step, sha256)
        if self._workers.is_chief:
            self._warn_of_durations()
            logger.info(
                f"starting with the weights of {path}, train_step {loaded.train_step:,}",
                extra={"figures": {"source_train_step": loaded.train_step}},
            )

    def _warn_of_durations(self) -> None:
        """Logs a warning if the source has learned durations of another kind than the dataset's."""
        learned, own = load_run(self._config.init_from).sustain, self._manifest.options.get("sustain", "ignore")
        if learned not in (None, own):
            logger.warning(
                f"--init_from={self._config.init_from}: has learned durations of sustain={learned}, and the dataset's "
                f"are of sustain={own}; the model must learn them again"
            )


def fingerprint(model: NextNoteModel) -> str:
    """Returns the SHA-256 of a model's variables: their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, variable in named_weights(model).items():
        values = variable.numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _read_source(config: Config) -> LoadedModel:
    """Returns the source's model; raises UserError if its weights have other shapes than the run's."""
    path = config.init_from
    source = load_source_config(path)
    has, wants = source.shape, config.shape
    if differing := [name for name, value in has.items() if name in wants and wants[name] != value]:
        values, own = (", ".join(f"{name}={shape[name]}" for name in differing) for shape in (has, wants))
        flags = " ".join(f"--{name}={has[name]}" for name in differing)
        raise UserError(f"--init_from={path}: has {values}, this run {own}. Pass {flags}")
    with source_errors():
        return read_model(path, source)
