"""What a workdir holds, and a trained model out of it."""

import json
import os
from typing import Any, NamedTuple

import keras

from notes import storage
from notes.errors import UserError
from trainer.checkpoints import Checkpoints, restore
from trainer.config import CONFIG_NAME, Config
from trainer.model import NextNoteModel, build_model

CHECKPOINTS_NAME = "checkpoints"
BEST_NAME = "best"
RUN_NAME = "run.json"


class Trained(NamedTuple):
    """A model with trained weights.

    Attributes:
        model: the model.
        train_step: train_steps that its weights have seen.
    """

    model: NextNoteModel
    train_step: int


def model_variables(model: NextNoteModel) -> dict[str, list]:
    """A model's weights under the name that checkpoints have for them."""
    return {"model": [variable.value for variable in model.weights]}


def load_config(workdir: str) -> Config:
    """The config of a workdir.

    Raises:
        UserError: there is no such workdir.
    """
    path = os.path.join(workdir, CONFIG_NAME)
    if not storage.exists(path):
        raise UserError(
            f"{workdir}: is no workdir of the trainer (it has no {CONFIG_NAME}): train with python -m trainer"
        )
    return Config.load(path)


def load_run(workdir: str) -> dict[str, Any]:
    """What run.json says: the dataset, the planned length, the versions; empty before a run has begun."""
    path = os.path.join(workdir, RUN_NAME)
    return json.loads(storage.read_bytes(path)) if storage.exists(path) else {}


def load_model(workdir: str) -> Trained:
    """The best weights of a workdir, or, where a run has not chosen any yet, those of its newest checkpoint.

    Raises:
        UserError: no such workdir, or nothing was saved in it yet.
    """
    config = load_config(workdir)
    for name in (BEST_NAME, CHECKPOINTS_NAME):
        saved = Checkpoints(os.path.join(workdir, name), keep=1).latest()
        if saved is not None:
            break
    else:
        raise UserError(f"{workdir}: holds no checkpoint yet: train with python -m trainer")
    keras.utils.set_random_seed(config.seed)
    model = build_model(config)
    restore(saved, model_variables(model))
    return Trained(model, saved.train_step)
