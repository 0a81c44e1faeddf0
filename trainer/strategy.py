"""Devices, replicas and precision: what the trainer runs on."""

import tensorflow as tf

from notes.errors import UserError
from trainer.config import Config


def configure_devices(config: Config) -> list[str]:
    """Sets up the process's devices; to be called before TensorFlow runs its first operation.

    Several replicas without a GPU become logical devices of the CPU, so that what holds for many GPUs can be
    tried anywhere.

    Returns:
        The names of the devices, one a replica.

    Raises:
        UserError: more replicas than GPUs, or a batch that the replicas do not divide.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    replicas = config.replicas or max(len(gpus), 1)
    if config.batch_size % replicas:
        raise UserError(
            f"batch_size={config.batch_size} is no multiple of the {replicas} replicas: "
            f"try {-(-config.batch_size // replicas) * replicas}"
        )
    if gpus:
        if replicas > len(gpus):
            raise UserError(f"replicas={replicas}: only {len(gpus)} GPUs are visible, expected at most so many")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        return [f"GPU:{index}" for index in range(replicas)]
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    return [f"CPU:{index}" for index in range(replicas)]


def create_strategy(devices: list[str]) -> tf.distribute.Strategy:
    """A strategy with one replica on each device."""
    # Among logical devices of one CPU a plain sum does; the collectives meant for GPUs would only queue up there.
    sums = tf.distribute.ReductionToOneDevice() if devices[0].startswith("CPU") else None
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=sums)
