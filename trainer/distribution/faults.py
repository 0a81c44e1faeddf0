"""Failures of GPUs and of other workers, recognized in TensorFlow's errors."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from sostenuto.errors import GpuError, GpuMemoryError, TemporaryError, UserError
from trainer.distribution.cluster import Cluster

_CONNECTION_ERRORS = (
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
)  # fmt: skip
# TensorFlow raises these for lost workers, for GPUs and for other causes; only their message tells which.
_OTHER_ERRORS = (
    tf.errors.InternalError, tf.errors.FailedPreconditionError, tf.errors.UnknownError, tf.errors.UnimplementedError,
    tf.errors.ResourceExhaustedError,
)  # fmt: skip

# Another worker's end, in the words of NCCL, whose other errors are faults of this worker; and its error, passed on.
_REMOTE = re.compile("remote process exited|[Ee]rror reported from /job|reported error: |remote target")
_CONNECTION = re.compile("Collective|NCCL|[Cc]oordination|Connection reset|Socket closed")
_GPU = re.compile(
    r"cuda|cudnn|cublas|\bdnn\b|\bblas\b|DoRnn|GPU sync failed|launched on stream|async mem(cpy|set)"
    r"|unhandled system error|NCCL developers|NCCL_DEBUG",
    re.IGNORECASE,
)
_MEMORY = re.compile(r"OOM when allocating|out.of.memory|_ALLOC_FAILED|Dst tensor is not initialized", re.IGNORECASE)
# Names of nodes and sources, which may contain any word: `[[{{node CudnnRNNV3}}]]` and the lines of a traceback.
_PLACES = re.compile(r"\[\[.*?\]\]|\{\{.*?\}\}|\[Op:[^\]]*\]|^Detected at node .*$|^ *File \".*$", re.MULTILINE)

_TRAINING_REMEDY = "Pass a smaller --batch_size with more --accumulation_steps, or fewer --units"
_CPU_REMEDY = "Wait for the processes that nvidia-smi lists, or set CUDA_VISIBLE_DEVICES=-1 to use the CPU"


class WorkerLostError(TemporaryError):
    """Another worker ended, and this one cannot continue alone."""


def explain_failure(
    error: tf.errors.OpError, cluster: Cluster | None = None, *, memory_remedy: str = _TRAINING_REMEDY
) -> UserError | None:
    """Returns the error of one line for a GPU's failure or another worker's end; None for any other error."""
    subject = f"worker {cluster.index} of {cluster.size}" if cluster else "GPU"
    if cluster and is_lost_worker(error):
        return WorkerLostError(
            f"{subject}: lost another worker ({type(error).__name__}). "
            "Start all workers again; they resume from the newest checkpoint"
        )
    if is_full_gpu(error):
        return GpuMemoryError(f"{subject}: the GPU's memory is full ({_excerpt(error, _MEMORY)}). {memory_remedy}")
    if is_gpu_fault(error):
        return GpuError(
            f"{subject}: the GPU or its software failed ({_excerpt(error, _GPU)}). "
            "Check nvidia-smi and the requirements in docs/gpu.md, then repeat the command"
        )
    return None


@contextlib.contextmanager
def translate_gpu_errors(memory_remedy: str = _CPU_REMEDY) -> Iterator[None]:
    """Raises TensorFlow's error about a GPU as a GpuError of one line."""
    try:
        yield
    except tf.errors.OpError as error:
        if explained := explain_failure(error, memory_remedy=memory_remedy):
            raise explained from error
        raise


def is_lost_worker(error: tf.errors.OpError) -> bool:
    """Returns whether an error is due to another worker's end: one of a connection or a collective."""
    if isinstance(error, _CONNECTION_ERRORS):
        return True
    if not isinstance(error, _OTHER_ERRORS) or is_full_gpu(error) or is_gpu_fault(error):
        return False
    return bool(_REMOTE.search(error.message) or _CONNECTION.search(error.message))


def is_gpu_fault(error: tf.errors.OpError) -> bool:
    """Returns whether an error is due to this worker's GPU, its driver or its libraries."""
    text = _problem(error)
    return isinstance(error, _OTHER_ERRORS) and bool(_GPU.search(text)) and not _REMOTE.search(text)


def is_full_gpu(error: tf.errors.OpError) -> bool:
    """Returns whether an error is due to a lack of memory on a GPU, not on the host."""
    text = _problem(error)
    if not isinstance(error, _OTHER_ERRORS) or not _MEMORY.search(text) or _REMOTE.search(text):
        return False
    # Some messages name no device.
    return "GPU" in error.message or ("CPU" not in error.message and bool(tf.config.get_visible_devices("GPU")))


def _problem(error: tf.errors.OpError) -> str:
    """Returns an error's message without the places of the error."""
    return _PLACES.sub("", error.message)


def _excerpt(error: tf.errors.OpError, pattern: re.Pattern[str]) -> str:
    """Returns the line of a message that matches, at most 160 characters long."""
    line = next(line for line in _problem(error).splitlines() if pattern.search(line)).strip()
    return line if len(line) <= 160 else f"{line[:157]}..."
