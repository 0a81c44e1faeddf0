"""Runs benchmarks/gpu.py on the CPU in one process, which imports TensorFlow once.

Before that, prints as JSON whether cuDNN's RNN is found in profiles with it and without.
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
    found = {name: gpu_parts.uses_cudnn(kernels(name)) for name in ("LSTM_elementWise_fp", "gemm_kernel")}
    print(json.dumps(found))
    # Two logical devices are a setting of a whole process.
    gpu_parts.all_devices(gpu_parts.checked_config(small=True, devices=1))
    sys.argv = ["gpu.py", "--rounds=1"]
    sys.exit(gpu.main(run=gpu.call))


if __name__ == "__main__":
    main()
