"""What lies in a workdir, and under which name."""

import json
import os
from typing import Any

from notes import storage
from notes.errors import UserError
from trainer.config import CONFIG_NAME, Config

CHECKPOINTS_NAME = "checkpoints"
BEST_NAME = "best"
RUN_NAME = "run.json"


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
