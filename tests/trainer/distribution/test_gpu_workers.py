"""Two real workers whose GPUs are faked: how each of them ends, and with which status."""

import os
import sys

import pytest

from tests.factories import TINY
from tests.trainer.runs import TRAIN, run_all, workers

# A worker whose GPU fails, or that is killed, after its first call of train_steps.
FAILING = """
import os, runpy, signal, sys
from trainer.engine import measurements
import tensorflow as tf

message = sys.argv.pop(1)

def fail(*_):
    if message == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise tf.errors.InternalError(None, None, message)

measurements.Measurements.measure = fail
runpy.run_module("trainer", run_name="__main__", alter_sys=True)
"""
# A worker that finds so many GPUs. It is refused before it uses them.
WITH_GPUS = """
import runpy, sys
import trainer
import tensorflow as tf

gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{index}", "GPU") for index in range(int(sys.argv.pop(1)))]
find = tf.config.list_physical_devices
tf.config.list_physical_devices = lambda kind=None: gpus if kind == "GPU" else find(kind)
tf.config.set_visible_devices = tf.config.experimental.set_memory_growth = lambda *_: None
tf.config.experimental.get_device_details = lambda _: {"device_name": "GPU", "compute_capability": (9, 0)}
runpy.run_module("trainer", run_name="__main__", alter_sys=True)
"""
RNN = (
    "Failed to call DoRnnForward with model config: [rnn_mode, rnn_input_mode, rnn_direction_mode]: 2, 0, 0 , "
    "[num_layers, input_size, num_units, dir_count]: [1, 19, 64, 1] \n\t [[{{node while/CudnnRNNV3}}]]"
)
GPU_FAILED, PEER_LOST = 71, 75
FLAGS = [*TINY["base"], "--layers=1", "--steps=1000", "--quiet"]


def with_program(command: list[str], program: str, argument: str) -> list[str]:
    """The command of a worker as that of a program that runs it."""
    return [sys.executable, "-c", program, argument, *command[len(TRAIN) :]]


@pytest.mark.parametrize(
    ("failing", "message", "words"),
    [
        (1, RNN, ["failed (Failed to call DoRnnForward", "docs/gpu.md"]),
        (
            0,
            "CUDA_ERROR_OUT_OF_MEMORY: out of memory on GPU 0",
            ["memory is full", "--batch_size", "--accumulation_steps"],
        ),
    ],
    ids=["cuDNN", "memory"],
)
def test_a_gpus_failure_ends_its_worker_with_its_own_code_and_the_other_with_75(
    dataset, tmp_path, failing, message, words
):
    """With 75 for both, an orchestrator would start them again for days."""
    commands = workers(2, dataset, tmp_path / "run", *FLAGS)
    commands[failing] = with_program(commands[failing], FAILING, message)
    ends = run_all(commands)
    failed, other = ends[failing], ends[1 - failing]
    assert (failed.returncode, other.returncode) == (GPU_FAILED, PEER_LOST), [end.stderr for end in ends]
    (line,) = failed.stderr.splitlines()
    assert line.startswith(f"trainer: worker {failing} of 2: ")
    for word in words:
        assert word in line
    (line,) = other.stderr.splitlines()
    assert "lost another worker" in line


def test_a_worker_that_is_killed_ends_the_other_with_75(dataset, tmp_path):
    chief, worker = workers(2, dataset, tmp_path / "run", *FLAGS)
    chief, worker = run_all([chief, with_program(worker, FAILING, "killed")])
    assert (chief.returncode, worker.returncode) == (PEER_LOST, -9), chief.stderr
    (line,) = chief.stderr.splitlines()
    assert line.startswith("trainer: worker 0 of 2: lost another worker")


def test_workers_of_unequal_numbers_of_gpus_are_refused_by_name_on_all_of_them(dataset, tmp_path):
    commands = workers(2, dataset, tmp_path / "run", *FLAGS)
    addresses = commands[0][-2].partition("=")[2].split(",")
    ends = run_all([with_program(command, WITH_GPUS, count) for command, count in zip(commands, "42", strict=True)])
    for index, process in enumerate(ends):
        assert process.returncode == 2, process.stderr
        (line,) = process.stderr.splitlines()
        assert line.startswith(f"trainer: worker {index} of 2: the workers have different devices: ")
        assert f"got 4 GPUs on worker 0 ({addresses[0]}); 2 GPUs on worker 1 ({addresses[1]}), expected" in line
        assert line.endswith("Pass --replicas=2 to all workers, or use equal hosts")
    assert not os.path.exists(tmp_path / "run")
