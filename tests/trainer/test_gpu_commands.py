"""Commands on a faked GPU: how they set it up, and how they end if it fails. They compute on the CPU."""

import sys

import pytest

from tests.factories import TINY
from tests.trainer.runs import run_all, train

# A command on a GPU; its scoring and sampling print whether TF32 is on, and fail if they are told to.
PROGRAM = """
import runpy, sys
import trainer
import tensorflow as tf
from trainer.engine.measurements import Measurements
from trainer.evaluation.scorer import Scorer
from trainer.generation.sampler import NoteSampler

module, message = sys.argv[1:3]
del sys.argv[1:3]
experimental = tf.config.experimental
gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
if module != "trainer":
    tf.config.get_visible_devices = lambda kind=None: [gpu]
    experimental.get_device_details = lambda _: {"device_name": "GPU", "compute_capability": (9, 0)}
    experimental.set_memory_growth = lambda gpu, on: print("GOT growth", on)
    experimental.enable_op_determinism = lambda: print("GOT determinism")

def watch(kind, name):
    run = getattr(kind, name)

    def call(*args, **options):
        print("GOT", name, experimental.tensor_float_32_execution_enabled())
        if message:
            raise tf.errors.ResourceExhaustedError(None, None, message)
        return run(*args, **options)

    setattr(kind, name, call)

watch(Scorer, "score")
watch(NoteSampler, "sample")
watch(Measurements, "count_call")
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
FULL = (
    "OOM when allocating tensor with shape[512,64] on /job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0"
)
SET_UP = ["determinism", "growth True"]


def run(module: str, *flags: str, message: str = ""):
    """The end of a command, and what it did on the GPU, in order and each once."""
    (process,) = run_all([[sys.executable, "-c", PROGRAM, module, message, *flags]])
    lines = process.stdout.splitlines()
    return process, list(dict.fromkeys(line.removeprefix("GOT ") for line in lines if line.startswith("GOT ")))


@pytest.fixture(scope="module")
def workdir(dataset, tmp_path_factory):
    directory = tmp_path_factory.mktemp("gpu") / "run"
    process = train(dataset, directory, *TINY["base"], "--layers=1", "--steps=4")
    assert process.returncode == 0, process.stderr
    return directory


def test_training_multiplies_in_tf32_and_scores_without_it(dataset, tmp_path):
    flags = [*TINY["base"], "--layers=1", "--steps=4", "--evaluate_every=2"]
    process, got = run("trainer", f"--data={dataset}", f"--workdir={tmp_path / 'run'}", *flags)
    assert process.returncode == 0, process.stderr
    # `count_call` follows each call of train_steps.
    assert got == ["count_call True", "score False"]


def test_evaluate_takes_memory_as_it_needs_it_and_scores_without_tf32(workdir, tmp_path):
    process, got = run("trainer.evaluate", f"--workdir={workdir}", f"--output={tmp_path / 'scores.json'}")
    assert process.returncode == 0, process.stderr
    assert got == [*SET_UP, "score False"]


@pytest.mark.parametrize("module", ["trainer.generate", "trainer.report"])
def test_commands_that_play_take_memory_as_they_need_it(workdir, tmp_path, module):
    output = [f"--output={tmp_path / 'music'}", "--num_notes=8"] if module == "trainer.generate" else []
    process, got = run(module, f"--workdir={workdir}", *output)
    assert process.returncode == 0, process.stderr
    assert got == [*SET_UP, "sample True"]


def test_a_full_gpu_ends_generate_with_its_own_code_and_a_remedy(workdir, tmp_path):
    output = tmp_path / "music"
    process, _ = run("trainer.generate", f"--workdir={workdir}", f"--output={output}", "--quiet", message=FULL)
    assert process.returncode == 71, process.stderr
    (line,) = process.stderr.splitlines()
    assert "the GPU's memory is full (OOM when allocating tensor" in line
    assert line.endswith("Pass a smaller --num_samples")
    assert not output.exists()
