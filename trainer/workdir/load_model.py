"""Loading of a workdir's trained model."""

import os
from typing import NamedTuple

from sostenuto.errors import FileError, UserError
from trainer.checkpoints.manager import Checkpoint, CheckpointManager, check_config, model_variables, restore
from trainer.config import Config
from trainer.distribution.devices import prepare_inference
from trainer.model.heads import ALL_PITCHES
from trainer.model.next_note import NextNoteModel, build_model
from trainer.workdir.layout import BEST_NAME, CHECKPOINTS_NAME, load_config, load_export, load_run
from trainer.workdir.transfer import corrupt_best_error, download_weights


def find_weights(directory: str, workdir: str) -> Checkpoint:
    """Returns the checkpoint of the best weights; if the run has none yet, its newest.

    `directory` holds the files of the workdir. Raises UserError if the best weights are corrupt, or there are none.
    """
    best = os.path.join(directory, BEST_NAME)
    if saved := CheckpointManager(best, max_to_keep=1).latest():
        return saved
    if os.path.isdir(best) and any(map(str.isdigit, os.listdir(best))):
        raise corrupt_best_error(workdir)
    if saved := CheckpointManager(os.path.join(directory, CHECKPOINTS_NAME), max_to_keep=1).latest():
        return saved
    if load_export(workdir):
        raise corrupt_best_error(workdir)
    raise UserError(f"{workdir}: holds no checkpoint yet. Train with sostenuto train")


class LoadedModel(NamedTuple):
    """A model with trained weights.

    Attributes:
        model: the model.
        train_step: the train_steps that trained its weights.
    """

    model: NextNoteModel
    train_step: int


def load_model(workdir: str) -> LoadedModel:
    """Loads the best weights of a workdir or an export; if a run has none yet, those of its newest checkpoint.

    On a GPU it first configures TensorFlow as training does: memory as needed, and deterministic operations.
    The model computes in the precision of its variables, so it scores and plays on any machine. It plays the pitch
    range that run.json or export.json records, or all pitches if none is recorded.

    Raises:
        UserError: the directory does not exist, holds no checkpoint yet, its best weights are corrupt, or a GPU is too
            old.
    """
    config = load_config(workdir)
    prepare_inference(config)
    return read_model(workdir, config)


def read_model(workdir: str, config: Config) -> LoadedModel:
    """Loads the weights as `load_model`, on devices that are configured already."""
    run = load_run(workdir)
    lowest, highest = run.pitch_range or ALL_PITCHES
    with download_weights(workdir) as directory:
        saved = find_weights(directory, workdir)
        check_config(saved, config)
        model = build_model(
            config.replace(precision=config.full_precision), (lowest, highest), tuple(run.composers or ())
        )
        while True:
            try:
                restore(saved, model_variables(model))
            except FileError:
                # A run in progress deletes its best weights once it has better ones.
                replaced, saved = saved, find_weights(directory, workdir)
                if saved.path == replaced.path:
                    raise
            else:
                return LoadedModel(model, saved.train_step)
