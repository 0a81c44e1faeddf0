"""Trains runs on one and on two logical devices of one process, and prints how far apart their variables end.

A process of its own, because devices are a setting of a whole TensorFlow process.
Usage: python -m tests.trainer.replica_runs DATASET
"""

import json
import sys
import tempfile

import numpy as np
import tensorflow as tf

from sostenuto.data.manifest import Manifest
from trainer.checkpoints.manager import Checkpoint, CheckpointManager, restore
from trainer.config import Config
from trainer.data.note_table import NoteTable, load_table
from trainer.data.windows import WindowSampler
from trainer.distribution.devices import configure_devices
from trainer.distribution.strategy import create_strategy
from trainer.engine.train_state import TrainState
from trainer.model.heads import DensityHeads
from trainer.presets import preset

TRAIN_STEPS = 50
SMALL = {"units": 16, "head_units": 16, "batch_size": 12, "warmup_steps": 5, "steps": TRAIN_STEPS}
RANDOM = {"dropout": 0.3, "transpose": 5, "stretch": 0.1}

MARK = 127  # a pitch that no other note of the tests' datasets has


def build(config: Config, table: NoteTable, devices: list[str], **options) -> TrainState:
    strategy = create_strategy(devices)
    with strategy.scope():
        state = TrainState(config, WindowSampler(table, config), strategy, **options)
    state.set_lr_decay(config.warmup_steps, TRAIN_STEPS)
    return state


def trained(state: TrainState, train_steps_per_call: int = TRAIN_STEPS) -> dict[str, np.ndarray]:
    """The weights, their averages, the optimizer's moments, the sums of losses after TRAIN_STEPS: a vector each."""
    while (left := TRAIN_STEPS - int(state.train_step.numpy())) > 0:
        state.run(min(train_steps_per_call, left))
    groups = {**state.variables(), "run": [state.sums]}
    # The optimizer's own count of train_steps, and its learning rate, would outweigh all else.
    groups["optimizer"] = [variable for variable in groups["optimizer"] if variable.shape.rank]
    return {
        name: np.concatenate([variable.numpy().astype(np.float64).ravel() for variable in group])
        for name, group in groups.items()
        if group
    }


def save_half_way(state: TrainState, directory: str) -> Checkpoint:
    """The checkpoint after half of the train_steps."""
    state.run(TRAIN_STEPS // 2)
    checkpoints = CheckpointManager(directory, max_to_keep=1)
    checkpoints.save(TRAIN_STEPS // 2, state.variables(), {})
    saved = checkpoints.latest()
    assert saved is not None
    return saved


def apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The relative distance of two runs' variables, of those that are furthest apart."""
    assert one.keys() == other.keys()
    return max(float(np.linalg.norm(one[name] - other[name]) / np.linalg.norm(one[name])) for name in one)


def distances(table: NoteTable, devices: list[str]) -> dict[str, float]:
    """The relative distance of each run to the same run on one device."""
    found = {}
    for name, seq_length in (("base", 16), ("tutorial", 8)):
        config = preset(name).replace(seq_length=seq_length, precision="float64", ema=0.9, **SMALL, **RANDOM)
        alone, pair = build(config, table, devices[:1]), build(config, table, devices)
        with tempfile.TemporaryDirectory() as directory:
            saved = save_half_way(alone, directory)
            one = trained(alone)
            found[f"{name} float64, two replicas"] = apart(one, trained(pair))
            restore(saved, pair.variables())
        found[f"{name} float64, resumed on two replicas"] = apart(one, trained(pair))
        if name == "base":
            accumulated = config.replace(batch_size=config.batch_size // 3, accumulation_steps=3)
            found["accumulated on two replicas"] = apart(one, trained(build(accumulated, table, devices)))
    config = preset("base").replace(seq_length=16, **SMALL, **RANDOM)
    state = build(config, table, devices[:1])
    variables = [variable for group in state.variables().values() for variable in group]
    initial = [variable.numpy() for variable in variables]
    one = trained(state)
    for variable, value in zip(variables, initial, strict=True):
        variable.assign(value)
    found["many calls"] = apart(one, trained(state, 3))
    found["base float32, two replicas"] = apart(one, trained(build(config, table, devices)))
    for mixed in ("mixed_bfloat16", "mixed_float16"):
        found[mixed] = apart(one, trained(build(config.replace(precision=mixed), table, devices[:1])))
    return found


@tf.custom_gradient
def overflowing(loss: tf.Tensor, where: tf.Tensor):
    """A loss `[windows, notes]` whose gradient is infinite in some windows, as one too large for float16."""
    return loss, lambda gradient: (gradient * tf.where(where[:, tf.newaxis], np.inf, tf.ones_like(gradient)), None)


def overflow(table: NoteTable, devices: list[str]) -> list[dict]:
    """Trains in float16 where the gradient of the third train_step's last window, on replica 1, is infinite.

    Returns:
        After each train_step: the train_steps done, the loss scale, the norm of what changed in the weights, their
        averages and the optimizer's moments, how far these are apart on the two replicas, and whether the run stopped.
    """
    changes = {"seq_length": 8, "batch_size": 8, "transpose": 0, "precision": "mixed_float16", "ema": 0.9}
    config = preset("base").replace(**{**SMALL, **changes})
    performance, note, _ = WindowSampler(table, config).place(3 * config.batch_size - 1)
    table = NoteTable(table.notes.copy(), table.offsets)
    table.notes["pitch"][table.offsets[performance] + note] = MARK
    loss_names = DensityHeads.losses

    def losses(heads, body, notes, times, is_end=False):
        marked = tf.reduce_any(notes.pitch == MARK, axis=1)
        return {
            field: overflowing(loss, marked) for field, loss in loss_names(heads, body, notes, times, is_end).items()
        }

    DensityHeads.losses = losses
    state, after = build(config, table, devices, loss_scale_patience=2), []
    local = state.model.distribute_strategy.experimental_local_results
    groups = state.variables()
    weights = [*groups["model"], *groups["ema"], *(moment for moment in groups["optimizer"] if moment.shape.rank)]

    def on_replica(index: int) -> np.ndarray:
        return np.concatenate([np.ravel(local(weight)[index].numpy()) for weight in weights])

    before = on_replica(0)
    for _ in range(4):
        state.run(1)
        now, other = on_replica(0), on_replica(1)
        after.append(
            {
                "train_step": int(state.train_step.numpy()),
                "loss_scale": float(groups["run"][-2].numpy()),
                "moved": float(np.linalg.norm(now - before)),
                "apart": float(np.linalg.norm(now - other)),
                "stopped": state.not_finite() is not None,
            }
        )
        before = now
    return after


def main(directory: str) -> None:
    """Prints a JSON object."""
    devices = configure_devices(preset("base").replace(replicas=2))
    table = load_table(Manifest.load(directory), "train")
    print(json.dumps({"distances": distances(table, devices), "overflow": overflow(table, devices)}))


if __name__ == "__main__":
    main(sys.argv[1])
