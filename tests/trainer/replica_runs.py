"""Trains the same run on one and on two logical devices of one process, and prints how far apart the weights end.

A process of its own, because devices are a setting of a whole TensorFlow process.
Usage: python -m tests.trainer.replica_runs DATASET
"""

import json
import sys

import numpy as np
import tensorflow as tf

from notes.manifest import Manifest
from trainer.config import Config, preset
from trainer.dataset import Windows, load_table
from trainer.loop import TrainState
from trainer.strategy import configure_devices, create_strategy

TRAIN_STEPS = 30
SMALL = {"units": 16, "head_units": 16, "batch_size": 8, "warmup_steps": 5, "steps": TRAIN_STEPS}
RANDOM = {"dropout": 0.3, "transpose": 5, "stretch": 0.1}


def trained(config: Config, manifest: Manifest, devices: list[str], train_steps_per_call: int) -> np.ndarray:
    """All weights and optimizer variables after TRAIN_STEPS, as one float64 vector."""
    strategy = create_strategy(devices)
    with strategy.scope():
        state = TrainState(config, Windows(load_table(manifest, "train"), config), strategy)
    state.horizon.assign(TRAIN_STEPS)
    for _ in range(TRAIN_STEPS // train_steps_per_call):
        state.run(tf.constant(train_steps_per_call))
    variables = state.variables()
    return np.concatenate(
        [variable.numpy().astype(np.float64).ravel() for name in ("model", "optimizer") for variable in variables[name]]
    )


def main(directory: str) -> None:
    """Prints a JSON object: for each preset and precision the relative distances to the run on one device."""
    manifest = Manifest.load(directory)
    devices = configure_devices(preset("base").replace(replicas=2))
    distances = {}

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.linalg.norm(one - other) / np.linalg.norm(one))

    for name, seq_length in (("base", 16), ("seed", 8)):
        for precision in ("float64", "float32"):
            config = preset(name).replace(seq_length=seq_length, precision=precision, **SMALL, **RANDOM)
            one = trained(config, manifest, devices[:1], TRAIN_STEPS)
            distances[f"{name} {precision} two replicas"] = apart(one, trained(config, manifest, devices, TRAIN_STEPS))
            if (name, precision) == ("base", "float32"):
                distances["many calls"] = apart(one, trained(config, manifest, devices[:1], 3))
                for mixed in ("mixed_bfloat16", "mixed_float16"):
                    config = config.replace(precision=mixed)
                    distances[mixed] = apart(one, trained(config, manifest, devices[:1], TRAIN_STEPS))
    print(json.dumps(distances))


if __name__ == "__main__":
    main(sys.argv[1])
