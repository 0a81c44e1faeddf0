"""Tensors that TensorFlow itself sends between host and replica in a run, after its placer and Grappler.

A process of its own, because devices are a setting of a whole TensorFlow process: the CPU's second logical device is
in the GPU's place. Its kernels have no memory types and the LSTM is the CPU's, so that this complements the audit.
Usage: python -m tests.gpu.partitions; prints JSON, the sends as [from, to, tensor].
"""

import json

import tensorflow as tf
from tensorflow.python.eager import context

from tests.gpu.graphs import table
from trainer.data.windows import WindowSampler
from trainer.engine.train_state import TrainState
from trainer.presets import preset


def main() -> None:
    """Runs two train_steps and prints the sends."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    config = preset("base").replace(units=16, head_units=16, batch_size=4, seq_length=16)
    strategy = tf.distribute.MirroredStrategy(["CPU:1"])
    with tf.device("CPU:1"), strategy.scope():
        state = TrainState(config, WindowSampler(table(), config), strategy)
    context.context().enable_run_metadata()
    state.run(2)
    partitions = context.context().export_run_metadata().partition_graphs
    sends = [
        (node.device[-5:], node.attr["recv_device"].s.decode()[-5:], node.attr["tensor_name"].s.decode())
        for partition in partitions
        for node in partition.node
        if node.op == "_Send"
    ]
    print(json.dumps(sends))


if __name__ == "__main__":
    main()
