"""Devices, replicas, precision and hosts: what the trainer runs on."""

import functools
import os
import platform
import signal
from collections.abc import Sequence

import tensorflow as tf

from sostenuto.errors import UserError
from trainer.config import Config
from trainer.distribution.cluster import Cluster
from trainer.distribution.rendezvous import wait_for_workers

_CPU_FLAGS = "/proc/cpuinfo"
# What a CPU calls its instructions for a type, on x86 and on ARM; without them TensorFlow computes in float32 and
# rounds, more slowly than float32 itself.
_CPU_INSTRUCTIONS = {
    "mixed_bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "mixed_float16": {"avx512_fp16", "amx_fp16", "fphp"},
}
_COMPUTE_CAPABILITY = {"mixed_bfloat16": (8, 0), "mixed_float16": (5, 3)}  # of a GPU, at least


def configure_devices(config: Config, cluster: Cluster | None = None) -> list[str]:
    """Sets up the process's devices; to be called before TensorFlow runs its first operation.

    Several replicas without a GPU become logical devices of the CPU, so that what holds for many GPUs can be
    tried anywhere.

    Args:
        config: how many replicas, the batch that they share, and the precision.
        cluster: the hosts that train together, or None for this one alone.

    Returns:
        The names of this host's devices, one a replica.

    Raises:
        UserError: more replicas than GPUs, a batch that the replicas do not divide, or a precision that the devices
            lack.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    replicas = config.replicas or max(len(gpus), 1)
    hosts = cluster.size if cluster else 1
    if config.batch_size % (replicas * hosts):
        raise UserError(
            f"batch_size={config.batch_size} is no multiple of the {replicas * hosts} replicas: "
            f"try {-(-config.batch_size // (replicas * hosts)) * replicas * hosts}"
        )
    if gpus:
        if replicas > len(gpus):
            raise UserError(f"replicas={replicas}: only {len(gpus)} GPUs are visible, expected at most so many")
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus[:replicas]]
        for gpu in details:
            _require_gpu_precision(config.precision, gpu.get("device_name", "GPU"), gpu.get("compute_capability"))
        _set_up_gpus(replicas)
        return [f"GPU:{index}" for index in range(replicas)]
    _require_cpu_precision(config.precision)
    if cluster and replicas > 1:
        raise UserError(f"replicas={replicas}: several hosts without GPUs run one replica each, give --replicas=1")
    _set_up_cpus(replicas)
    return [f"CPU:{index}" for index in range(replicas)]


def device_name(devices: Sequence[str]) -> str:
    """What a host's replicas run on, for a reader: as in "8 x NVIDIA H100 80GB HBM3"."""
    if devices[0].startswith("GPU"):
        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        return f"{len(devices)} x {details.get('device_name', 'GPU')}"
    name = platform.machine()
    if os.path.exists(_CPU_FLAGS):
        with open(_CPU_FLAGS, encoding="utf-8") as file:
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    return f"{len(devices)} x CPU ({name}, {os.cpu_count()} cores)"


# Once a process: TensorFlow refuses to be told again, even the same, once it has run an operation.


@functools.cache
def _set_up_gpus(replicas: int) -> None:
    gpus = tf.config.list_physical_devices("GPU")[:replicas]
    tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)


@functools.cache
def _set_up_cpus(replicas: int) -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)


def _require_gpu_precision(precision: str, name: str, capability: tuple[int, int] | None) -> None:
    needed = _COMPUTE_CAPABILITY.get(precision)
    if needed and capability and tuple(capability) < needed:
        raise UserError(
            f"precision={precision}: {name} has compute capability {capability[0]}.{capability[1]}, expected at least "
            f"{needed[0]}.{needed[1]}: give --precision=float32"
        )


def _require_cpu_precision(precision: str) -> None:
    needed = _CPU_INSTRUCTIONS.get(precision)
    if not needed or not os.path.exists(_CPU_FLAGS):
        return
    with open(_CPU_FLAGS, encoding="utf-8") as file:
        lines = [line for line in file if line.startswith(("flags", "Features"))]
    if lines and not needed & set(lines[0].split()):
        raise UserError(
            f"precision={precision}: this CPU has no instructions for it ({', '.join(sorted(needed))}): "
            "give --precision=float32"
        )


def create_strategy(devices: Sequence[str], cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """A strategy with one replica on each device, on each host; with several, it waits until all of them are there."""
    if cluster is None:
        # Among logical devices of one CPU a plain sum does; the collectives meant for GPUs would only queue up there.
        sums = tf.distribute.ReductionToOneDevice() if devices[0].startswith("CPU") else None
        return tf.distribute.MirroredStrategy(list(devices), cross_device_ops=sums)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}), task_type="worker", task_id=cluster.index,
        rpc_layer="grpc",
    )  # fmt: skip
    wait_for_workers(cluster)
    # Where TensorFlow must still wait after all, Python's handlers would not be heard.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    finally:
        # TensorFlow has taken SIGTERM, to do nothing with it. Until the run listens there is nothing to be saved.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
