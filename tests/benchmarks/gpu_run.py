"""Runs every measurement of benchmarks/gpu.py on the CPU in one process, and prints its rows as JSON.

In one process TensorFlow is imported once. The measurement that makes two logical devices comes first, because they are
a setting of a whole process.
Usage: python -m tests.benchmarks.gpu_run
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.processes import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import trainer  # noqa: F401  # isort: skip  First, so that TensorFlow loads without messages.
import gpu
import gpu_parts
from tensorflow.tsl.profiler.protobuf import xplane_pb2


def kernels(name: str) -> list[gpu_parts.Kernel]:
    """The kernels of a profile of one kernel."""
    space = xplane_pb2.XSpace()
    plane = space.planes.add(name="/device:GPU:0")
    plane.event_metadata[1].name = name
    plane.stat_metadata[1].name = "lstm_1/MatMul"
    line = plane.lines.add(name="Stream #1")
    line.events.add(metadata_id=1).stats.add(metadata_id=1, ref_value=1)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "host.xplane.pb").write_bytes(space.SerializeToString())
        return list(gpu_parts.kernels_in_profile(Path(directory)))


def main() -> None:
    parts = {}
    for job in sorted(gpu.jobs(0, small=True, rounds=1), key=lambda job: job.part != "replicas"):
        if job.part != "resume" and job.arguments.get("deterministic", True):
            _, _, name = job.function.rpartition(".")
            parts[job.part] = getattr(gpu_parts, name)(**job.arguments)
    found = {name: gpu_parts.uses_cudnn(kernels(name)) for name in ("LSTM_elementWise_fp", "gemm_kernel")}
    print(json.dumps({"parts": parts, "machine": gpu_parts.describe_machine(), "uses_cudnn": found}))


if __name__ == "__main__":
    main()
