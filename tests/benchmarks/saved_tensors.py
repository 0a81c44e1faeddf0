"""Prints what TensorFlow keeps of a forward pass for the backward pass, and what benchmarks/gpu_memory.py reckons.

A process of its own, as the benchmark is. Usage: python -m tests.benchmarks.saved_tensors
"""

import json
import math
import sys

from tests.processes import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import gpu_memory
import tensorflow as tf
from gpu_parts import load

from trainer.config import Config
from trainer.data.windows import WindowSampler
from trainer.distribution.strategy import create_strategy
from trainer.engine.train_state import TrainState
from trainer.engine.train_step import ReplicaStep
from trainer.presets import preset


def saved_bytes(config: Config) -> int:
    """Bytes of the tensors that the backward pass reads, without those of the CPU's own LSTM loops."""
    strategy = create_strategy(["CPU:0"])
    with strategy.scope():
        windows = WindowSampler(load(None), config)
        model = TrainState(config, windows, strategy).model
        step = ReplicaStep(config, windows, model, [variable.value for variable in model.trainable_variables])
        batch = windows.batch(tf.constant(0, tf.int64), config.batch_size)
    loss = tf.function(lambda: tf.add_n([tf.reduce_sum(value) for value in step.losses(batch).values()]))
    # Only TensorFlow itself lists them: they are outputs of the forward function that it makes for a gradient tape.
    forward, _ = loss.get_concrete_function()._delayed_rewrite_functions.forward_backward()
    tensors = {(tensor.op.name, tensor.value_index): tensor for tensor in forward.graph.outputs}
    return sum(
        # A dimension that is not known is the number of notes.
        math.prod(config.seq_length if size is None else size for size in tensor.shape.as_list()) * tensor.dtype.size
        for tensor in tensors.values()
        if tensor.dtype not in (tf.variant, tf.resource)
    )


def main() -> None:
    config = preset("base").replace(ema=0.99)
    reckoned = gpu_memory.reckon(config)
    strategy = create_strategy(["CPU:0"])
    with strategy.scope():
        state = TrainState(config, WindowSampler(load(None), config), strategy)
    groups = state.variables()
    held = sum(variable.shape.num_elements() * 4 for name in ("model", "optimizer", "ema") for variable in groups[name])
    print(
        json.dumps(
            {
                "saved": saved_bytes(config),
                "reckoned": reckoned.activations - reckoned.reserve,
                "held": held,
                "vectors": reckoned.vectors,
            }
        )
    )


if __name__ == "__main__":
    main()
