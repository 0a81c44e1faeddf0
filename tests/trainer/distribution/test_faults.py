"""Errors of TensorFlow 2.2x, as users reported them and as its library spells them: whose failure each of them is."""

import pytest
import tensorflow as tf

from sostenuto.errors import GpuError, GpuMemoryError
from trainer.distribution.cluster import Cluster
from trainer.distribution.faults import (
    WorkerLostError,
    explain_failure,
    is_full_gpu,
    is_gpu_fault,
    is_lost_worker,
    translate_gpu_errors,
)

SECOND = Cluster(("a:1", "b:2"), 1)

GRAPH = (
    "Graph execution error:\n\nDetected at node while/cudnn_lstm/CudnnRNNV3 defined at (most recent call last):\n"
    '  File "keras/src/backend/tensorflow/rnn.py", line 933, in _cudnn_lstm\n\n{}\n'
    "\t [[{{{{node while/cudnn_lstm/CudnnRNNV3}}}}]] [Op:__inference_cudnn_run_7001]"
)
RNN = (
    "Failed to call DoRnnForward with model config: [rnn_mode, rnn_input_mode, rnn_direction_mode]: 2, 0, 0 , "
    "[num_layers, input_size, num_units, dir_count, max_seq_length, batch_size, cell_num_units]: "
    "[1, 19, 64, 1, 1, 32, 64] "
)
GPU_FAULTS = [
    tf.errors.InternalError(None, None, GRAPH.format(RNN)),
    tf.errors.InternalError(None, None, RNN.replace("Forward", "Backward")),
    tf.errors.InternalError(None, None, f"Collective ops is aborted by: {RNN}\nThe error could be from a previous"),
    tf.errors.InternalError(None, None, "GPU sync failed"),
    tf.errors.InternalError(
        None, None, "Failed to complete all kernels launched on stream 0x1f50: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal"
    ),
    tf.errors.InternalError(None, None, "cudaGetDevice() failed. Status: CUDA driver version is insufficient"),
    tf.errors.InternalError(None, None, GRAPH.format("Blas xGEMM launch failed : a.shape=[1,64,8]")),
    tf.errors.InternalError(None, None, "failed to create cublas handle: CUBLAS_STATUS_NOT_INITIALIZED"),
    tf.errors.FailedPreconditionError(None, None, GRAPH.format("DNN library initialization failed.")),
    tf.errors.UnimplementedError(None, None, GRAPH.format("DNN library is not found.")),
    tf.errors.UnknownError(
        None, None, "Error invoking NCCL: unhandled cuda error (run with NCCL_DEBUG=INFO for details)"
    ),
    tf.errors.InternalError(None, None, "invalid usage (run with NCCL_DEBUG=WARN for details)"),
    tf.errors.InternalError(None, None, "internal error - please report this issue to the NCCL developers"),
]
FULL_GPUS = [
    tf.errors.ResourceExhaustedError(
        None, None, GRAPH.format("OOM when allocating tensor with shape[64,256,1024] and type float on "
        "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc"),
    ),
    tf.errors.ResourceExhaustedError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory on GPU 0"),
    tf.errors.InternalError(
        None, None, "Failed copying input tensor from /job:localhost/replica:0/task:0/device:CPU:0 to "
        "/job:localhost/replica:0/task:0/device:GPU:0 in order to run _EagerConst: Dst tensor is not initialized.",
    ),
]  # fmt: skip
LOST_WORKERS = [
    tf.errors.UnavailableError(None, None, "Socket closed"),
    tf.errors.AbortedError(None, None, "/job:worker/replica:0/task:1 heartbeat timeout. Check CUDA_ERROR_ logs"),
    tf.errors.InternalError(None, None, "Collective ops is aborted by: /job:worker/task:1 is unhealthy"),
    tf.errors.FailedPreconditionError(None, None, "Coordination service agent is in ERROR state"),
    tf.errors.UnknownError(
        None, None, "Error invoking NCCL: remote process exited or there was a network error [[{{node CudnnRNN}}]]"
    ),
    tf.errors.InternalError(
        None, None,
        "NCCL operation ncclAllReduce(comm_) failed: remote process exited or there was a network error. Last NCCL "
        "warning(error) log entry (may be unrelated) 'Cuda failure'.",
    ),
    tf.errors.InternalError(None, None, f"Collective ops is aborted by: Error reported from /job:worker/task:0: {RNN}"),
    tf.errors.InternalError(None, None, GRAPH.format("Collective ops is aborted by: Connection reset by peer")),
    tf.errors.InternalError(
        None, None,
        f"Collective ops is aborted by: {RNN}\nAdditional GRPC error information from remote target "
        "/job:worker/replica:0/task:1 while calling /tensorflow.WorkerService/CompleteInstance:",
    ),
    tf.errors.ResourceExhaustedError(
        None, None,
        "Collective ops is aborted by: Error reported from /job:worker/task:0: OOM when allocating tensor with "
        "shape[64,256] and type float on /job:worker/replica:0/task:0/device:GPU:0",
    ),
]  # fmt: skip
OTHERS = [
    tf.errors.FailedPreconditionError(None, None, "Could not find variable kernel"),
    tf.errors.InternalError(None, None, GRAPH.format("wrong number of rows")),
    tf.errors.InvalidArgumentError(None, None, GRAPH.format("shapes differ")),
    tf.errors.ResourceExhaustedError(None, None, "/data/run/part; No space left on device [Op]"),
    tf.errors.ResourceExhaustedError(
        None, None, "OOM when allocating tensor with shape[9] and type float on /job:localhost/replica:0/task:0/"
        "device:CPU:0 by allocator cpu",
    ),
    # A message without a device, on a machine without a GPU.
    tf.errors.ResourceExhaustedError(None, None, "Out of memory allocating 1234567890 bytes."),
]  # fmt: skip


@pytest.mark.parametrize(
    "error", [*GPU_FAULTS, *FULL_GPUS, *LOST_WORKERS, *OTHERS], ids=lambda error: error.message[:50]
)
def test_an_error_is_that_of_a_gpu_of_another_worker_or_neither(error):
    """A GPU's failure taken for a lost worker would be restarted for days; a lost worker taken for it, never."""
    kinds = {"fault": is_gpu_fault(error) and not is_full_gpu(error), "full": is_full_gpu(error)}
    kinds["lost"] = is_lost_worker(error)
    lists = {"fault": GPU_FAULTS, "full": FULL_GPUS, "lost": LOST_WORKERS}
    assert kinds == {kind: error in errors for kind, errors in lists.items()}


@pytest.mark.parametrize("cluster", [None, SECOND])
@pytest.mark.parametrize("error", GPU_FAULTS, ids=lambda error: error.message[:50])
def test_a_gpus_failure_is_one_line_that_names_the_message_and_the_docs(error, cluster):
    explained = explain_failure(error, cluster)
    assert type(explained) is GpuError
    (line,) = str(explained).splitlines()
    assert line.startswith("worker 1 of 2: " if cluster else "GPU: ")
    assert "docs/gpu.md" in line
    assert "File" not in line
    assert len(line) < 400


def test_a_gpus_failure_is_told_by_the_line_of_its_message_that_says_so():
    assert "failed (Failed to call DoRnnForward with model config: [rnn_mode" in str(explain_failure(GPU_FAULTS[0]))


@pytest.mark.parametrize("error", FULL_GPUS, ids=lambda error: error.message[:50])
def test_a_full_gpu_is_one_line_that_names_the_flags(error):
    explained = explain_failure(error)
    assert isinstance(explained, GpuMemoryError)
    (line,) = str(explained).splitlines()
    for flag in ("--batch_size", "--accumulation_steps", "--units"):
        assert flag in line


@pytest.mark.parametrize("error", LOST_WORKERS, ids=lambda error: error.message[:50])
def test_another_worker_is_lost_only_where_there_is_one(error):
    assert isinstance(explain_failure(error, SECOND), WorkerLostError)
    assert not isinstance(explain_failure(error), WorkerLostError)


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: error.message[:50])
def test_other_errors_stay_as_they_are(error):
    assert explain_failure(error, SECOND) is None
    with pytest.raises(type(error)) as raised, translate_gpu_errors("Pass less"):
        raise error
    assert raised.value is error


def test_a_command_names_its_own_remedy_for_a_full_gpu():
    message = r"is full \(OOM when.*\)\. Pass a smaller --num_samples$"
    with pytest.raises(GpuMemoryError, match=message), translate_gpu_errors("Pass a smaller --num_samples"):
        raise FULL_GPUS[0]
