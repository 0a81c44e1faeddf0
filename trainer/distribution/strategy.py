"""Devices, replicas, precision and hosts of the trainer."""

import os
import platform
import signal
from collections.abc import Sequence

import tensorflow as tf

from sostenuto.errors import UserError
from sostenuto.text import counted
from trainer.config import Config
from trainer.distribution.cluster import Cluster
from trainer.distribution.rendezvous import wait_for_workers

CPU_INFO = "/proc/cpuinfo"
# CPU flags of the instructions for a type, on x86 and on ARM. Without them TensorFlow is slower than in float32.
_CPU_INSTRUCTIONS = {
    "mixed_bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "mixed_float16": {"avx512_fp16", "amx_fp16", "fphp"},
}
_COMPUTE_CAPABILITY = {"mixed_bfloat16": (8, 0), "mixed_float16": (5, 3)}  # minimum of a GPU

_CONNECT_SECONDS = 300  # longest time in which TensorFlow connects workers that are all present; usually a second


def configure_devices(config: Config, cluster: Cluster | None = None, cpu_info: str = CPU_INFO) -> list[str]:
    """Configures and names this host's devices, one for each replica, before TensorFlow runs its first operation.

    Without a GPU, several replicas become logical devices of the CPU, to test the behavior of many GPUs anywhere.
    Raises UserError if they do not fit the batch size, the GPUs or the precision.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    replicas = config.replicas or max(len(gpus), 1)
    hosts = cluster.size if cluster else 1
    if config.batch_size % (replicas * hosts):
        raise UserError(
            f"batch_size={config.batch_size} is no multiple of the {replicas * hosts} replicas. "
            f"Try {-(-config.batch_size // (replicas * hosts)) * replicas * hosts}"
        )
    if gpus:
        if replicas > len(gpus):
            raise UserError(
                f"replicas={replicas}: expected at most {len(gpus)}, the visible GPUs. Pass --replicas={len(gpus)}"
            )
        for gpu in gpus[:replicas]:
            details = tf.config.experimental.get_device_details(gpu)
            check_gpu_precision(config.precision, details.get("device_name", "GPU"), details.get("compute_capability"))
        tf.config.set_visible_devices(gpus[:replicas], "GPU")
        for gpu in gpus[:replicas]:
            tf.config.experimental.set_memory_growth(gpu, True)
        return [f"GPU:{index}" for index in range(replicas)]
    check_cpu_precision(config.precision, cpu_info)
    if cluster and replicas > 1:
        raise UserError(f"replicas={replicas}: several hosts without GPUs run one replica each. Pass --replicas=1")
    if replicas > 1:  # One is the default. TensorFlow accepts no change after its first operation.
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    return [f"CPU:{index}" for index in range(replicas)]


def device_name(devices: Sequence[str]) -> str:
    """Returns the name of a host's devices, such as "8 x NVIDIA H100 80GB HBM3"."""
    if devices[0].startswith("GPU"):
        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        return f"{len(devices)} x {details.get('device_name', 'GPU')}"
    name = _read_cpu_info(CPU_INFO, "model name") or platform.machine()
    return f"{len(devices)} x CPU ({name}, {counted(os.cpu_count() or 1, 'core')})"


def _read_cpu_info(path: str, *names: str) -> str:
    """Returns the first field of these names in Linux's list of CPUs; "" without it."""
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(names)), "")


def check_gpu_precision(precision: str, name: str, capability: tuple[int, int] | None) -> None:
    """Raises UserError if a GPU's compute capability, if known, is too low for a precision."""
    needed = _COMPUTE_CAPABILITY.get(precision)
    if needed and capability and tuple(capability) < needed:
        raise UserError(
            f"precision={precision}: {name} has compute capability {capability[0]}.{capability[1]}, expected at least "
            f"{needed[0]}.{needed[1]}. Pass --precision=float32"
        )


def check_cpu_precision(precision: str, cpu_info: str) -> None:
    """Raises UserError if the CPU's instructions, if known, lack those for a precision."""
    needed, present = _CPU_INSTRUCTIONS.get(precision), _read_cpu_info(cpu_info, "flags", "Features").split()
    if needed and present and needed.isdisjoint(present):
        raise UserError(
            f"precision={precision}: this CPU has no instructions for it ({', '.join(sorted(needed))}). "
            "Pass --precision=float32"
        )


def create_strategy(devices: Sequence[str], cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Returns a strategy with one replica on each device of each host; waits for the other hosts."""
    if cluster is None:
        # For logical devices of one CPU, a plain sum is faster than the collectives for GPUs.
        sums = tf.distribute.ReductionToOneDevice() if devices[0].startswith("CPU") else None
        return tf.distribute.MirroredStrategy(list(devices), cross_device_ops=sums)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}), task_type="worker", task_id=cluster.index,
        rpc_layer="grpc",
    )  # fmt: skip
    wait_for_workers(cluster)
    # While TensorFlow still waits, no thread of Python runs. It would wait an hour for a worker that has ended.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(_CONNECT_SECONDS)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    finally:
        signal.alarm(0)
        # TensorFlow installs a SIGTERM handler that does nothing. There is nothing to save yet.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
