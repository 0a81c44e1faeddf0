"""Devices of a process: replicas, precision, memory, determinism and TF32; every command sets them up here."""

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence

import tensorflow as tf

from sostenuto.errors import UserError
from sostenuto.text import counted
from trainer.config import Config
from trainer.distribution.cluster import Cluster

CPU_INFO = "/proc/cpuinfo"
# CPU flags of the instructions for a type, on x86 and on ARM. Without them TensorFlow is slower than in float32.
_CPU_INSTRUCTIONS = {
    "mixed_bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "mixed_float16": {"avx512_fp16", "amx_fp16", "fphp"},
}
COMPUTE_CAPABILITY = (7, 5)
"""Minimum of a GPU: cuDNN 9.11 and later has no code for older ones, such as V100."""

_BFLOAT16_CAPABILITY = (8, 0)


def configure_devices(config: Config, cluster: Cluster | None = None, cpu_info: str = CPU_INFO) -> list[str]:
    """Configures and names this host's devices, one for each replica, before TensorFlow runs its first operation.

    Without a GPU, several replicas become logical devices of the CPU, to test the behavior of many GPUs anywhere.
    Raises UserError if they do not fit the GPUs, the precision or, without a cluster, the batch size: on several hosts,
    one with fewer GPUs must meet the others first, to be named.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    replicas = config.replicas or max(len(gpus), 1)
    if cluster is None:
        check_batch_size(config, replicas)
    if gpus:
        if replicas > len(gpus):
            raise UserError(
                f"replicas={replicas}: expected at most {len(gpus)}, the visible GPUs. Pass --replicas={len(gpus)}"
            )
        _check_gpus(gpus[:replicas], config.precision)
        tf.config.set_visible_devices(gpus[:replicas], "GPU")
        _limit_memory(gpus[:replicas])
        return [f"GPU:{index}" for index in range(replicas)]
    check_cpu_precision(config.precision, cpu_info)
    if cluster and replicas > 1:
        raise UserError(f"replicas={replicas}: several hosts without GPUs run one replica each. Pass --replicas=1")
    if replicas > 1:  # One is the default. TensorFlow accepts no change after its first operation.
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    return [f"CPU:{index}" for index in range(replicas)]


def check_batch_size(config: Config, replicas: int) -> None:
    """Raises UserError unless the batch can be divided among the replicas of all hosts."""
    if config.batch_size % replicas:
        raise UserError(
            f"batch_size={config.batch_size} is no multiple of the {replicas} replicas. "
            f"Try {-(-config.batch_size // replicas) * replicas}"
        )


def prepare_inference(config: Config) -> None:
    """Configures the visible GPUs for a trained model as `configure_devices` does for a run.

    Raises UserError if a GPU is too old. After TensorFlow's first operation, a GPU's memory stays configured as it is.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if gpus and config.deterministic:
        # XLA then times no kernels to choose one, so equal calls give equal results.
        tf.config.experimental.enable_op_determinism()
    _check_gpus(gpus, config.full_precision)
    with contextlib.suppress(RuntimeError):
        _limit_memory(gpus)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Multiplies float32 numbers exactly on a GPU. By default Ampere and newer round the factors to 10 bits (TF32)."""
    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(enabled)


def device_name(devices: Sequence[str]) -> str:
    """Returns the name of a host's devices, such as "8 x NVIDIA H100 80GB HBM3"."""
    if devices[0].startswith("GPU"):
        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        return f"{len(devices)} x {details.get('device_name', 'GPU')}"
    name = _read_cpu_info(CPU_INFO, "model name") or platform.machine()
    return f"{len(devices)} x CPU ({name}, {counted(len(os.sched_getaffinity(0)), 'core')})"


def _read_cpu_info(path: str, *names: str) -> str:
    """Returns the first field of these names in Linux's list of CPUs; "" without it."""
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(names)), "")


def _check_gpus(gpus: Sequence[tf.config.PhysicalDevice], precision: str) -> None:
    for gpu in gpus:
        details = tf.config.experimental.get_device_details(gpu)
        check_gpu(precision, details.get("device_name", "GPU"), details.get("compute_capability"))


def _limit_memory(gpus: Sequence[tf.config.PhysicalDevice]) -> None:
    """Lets TensorFlow take memory as it needs it, not all of a GPU."""
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)


def check_gpu(precision: str, name: str, capability: tuple[int, int] | None) -> None:
    """Raises UserError if a GPU's compute capability, if known, is too low for cuDNN or for a precision."""
    if not capability:
        return
    got = f"got compute capability {capability[0]}.{capability[1]}, expected at least"
    if tuple(capability) < COMPUTE_CAPABILITY:
        raise UserError(
            f"{name}: {got} {'.'.join(map(str, COMPUTE_CAPABILITY))}, the lowest of this cuDNN. "
            "Set CUDA_VISIBLE_DEVICES to other GPUs, or to -1 for the CPU"
        )
    if precision == "mixed_bfloat16" and tuple(capability) < _BFLOAT16_CAPABILITY:
        raise UserError(
            f"precision={precision}: {name}: {got} {'.'.join(map(str, _BFLOAT16_CAPABILITY))}. Pass --precision=float32"
        )


def check_cpu_precision(precision: str, cpu_info: str) -> None:
    """Raises UserError if the CPU's instructions, if known, lack those for a precision."""
    needed, present = _CPU_INSTRUCTIONS.get(precision), _read_cpu_info(cpu_info, "flags", "Features").split()
    if needed and present and needed.isdisjoint(present):
        raise UserError(
            f"precision={precision}: this CPU has no instructions for it ({', '.join(sorted(needed))}). "
            "Pass --precision=float32"
        )
