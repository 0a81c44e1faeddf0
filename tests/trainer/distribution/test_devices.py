"""Devices and precision: what is refused before anything is set up, and what commands set up.

What works is tested in processes of its own, since devices are a setting of a whole TensorFlow process.
"""

import re

import pytest
import tensorflow as tf

from sostenuto.errors import UserError
from tests.processes import REPOSITORY
from trainer.distribution.cluster import Cluster
from trainer.distribution.devices import (
    COMPUTE_CAPABILITY,
    CPU_INFO,
    check_batch_size,
    check_cpu_precision,
    check_gpu,
    configure_devices,
    exact_float32,
    prepare_inference,
)
from trainer.presets import preset

SECOND_OF_THREE = Cluster(("a:1", "b:2", "c:3"), 1)
X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse2 avx2 avx512f {}\nbugs\t\t: spectre\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd aes {}\nCPU architecture: 8\n"


def config(**changes):
    # Op determinism, once on, would stay on in this process.
    return preset("base").replace(deterministic=False, **changes)


def refusal(cluster=None, cpu_info=CPU_INFO, **changes) -> str:
    with pytest.raises(UserError) as error:
        configure_devices(config(**changes), cluster, cpu_info)
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize(("replicas", "fits"), [(3, 9), (7, 14)])
def test_a_batch_that_the_replicas_do_not_share_equally_is_refused(replicas, fits):
    line = refusal(replicas=replicas, batch_size=8)
    assert line == f"batch_size=8 is no multiple of the {replicas} replicas. Try {fits}"


def test_on_several_hosts_a_batch_is_checked_once_they_have_met():
    """A host with fewer GPUs would else end alone, with a number of replicas that is wrong, and the others wait."""
    assert configure_devices(config(batch_size=8), SECOND_OF_THREE) == ["CPU:0"]
    with pytest.raises(UserError, match=r"^batch_size=8 is no multiple of the 3 replicas\. Try 9$"):
        check_batch_size(config(batch_size=8), 3)


def test_several_hosts_without_gpus_run_one_replica_each():
    line = refusal(SECOND_OF_THREE, replicas=2, batch_size=12)
    assert line.startswith("replicas=2: several hosts without GPUs")
    assert "--replicas=1" in line


@pytest.mark.parametrize(
    ("precision", "cpuinfo", "needed"),
    [
        ("mixed_bfloat16", X86.format("avx512_fp16"), "avx512_bf16"),
        ("mixed_float16", X86.format("avx512_bf16 amx_bf16"), "avx512_fp16"),
        ("mixed_bfloat16", ARM.format("fphp asimdhp"), "bf16"),
        ("mixed_float16", ARM.format("bf16"), "fphp"),
        # A word that only begins like one of the instructions.
        ("mixed_bfloat16", ARM.format("bf16x"), "bf16"),
    ],
)
def test_a_precision_that_the_cpu_lacks_is_refused(tmp_path, precision, cpuinfo, needed):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    line = refusal(cpu_info=str(tmp_path / "cpuinfo"), precision=precision)
    assert line.startswith(f"precision={precision}: this CPU has no instructions for it (")
    assert needed in line
    assert "--precision=float32" in line


@pytest.mark.parametrize(
    ("precision", "cpuinfo"),
    [
        ("mixed_bfloat16", X86.format("avx512_bf16")),
        ("mixed_bfloat16", X86.format("amx_bf16")),
        ("mixed_float16", X86.format("avx512_fp16")),
        ("mixed_bfloat16", ARM.format("bf16")),
        ("mixed_float16", ARM.format("fphp")),
        ("float32", X86.format("")),
        ("float64", X86.format("")),
        # A system that does not say what its CPU can do is taken at the user's word.
        ("mixed_float16", "processor\t: 0\n"),
        ("mixed_float16", None),
    ],
)
def test_a_precision_that_the_cpu_has_is_taken(tmp_path, precision, cpuinfo):
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    check_cpu_precision(precision, str(tmp_path / "cpuinfo"))


@pytest.mark.parametrize(
    ("precision", "capability", "needed"),
    [
        ("float32", (7, 0), "7.5"),
        ("float64", (3, 5), "7.5"),
        ("mixed_float16", (6, 1), "7.5"),
        ("mixed_bfloat16", (7, 0), "7.5"),
        ("mixed_bfloat16", (7, 5), "8.0"),
    ],
)
def test_a_gpu_that_is_too_old_is_refused(precision, capability, needed):
    with pytest.raises(UserError) as error:
        check_gpu(precision, "Some GPU", capability)
    (line,) = str(error.value).splitlines()
    assert f"Some GPU: got compute capability {'.'.join(map(str, capability))}, expected at least {needed}" in line
    assert ("--precision=float32" if needed == "8.0" else "CUDA_VISIBLE_DEVICES") in line


@pytest.mark.parametrize(
    ("precision", "capability"),
    [
        ("mixed_bfloat16", (8, 0)), ("mixed_bfloat16", (10, 0)), ("mixed_float16", (7, 5)), ("float32", (7, 5)),
        ("float64", (9, 0)), ("mixed_bfloat16", None),
    ],
)  # fmt: skip
def test_a_gpu_that_is_new_enough_is_taken(precision, capability):
    check_gpu(precision, "Some GPU", capability)


def test_the_lowest_compute_capability_is_that_of_the_locked_cudnn():
    """From 9.11 cuDNN has no code for GPUs before Turing, whose compute capability is 7.5."""
    lock = (REPOSITORY / "requirements" / "gpu.txt").read_text()
    version = re.search(r"^nvidia-cudnn-cu12==(\d+)\.(\d+)\.", lock, re.MULTILINE)
    assert version is not None
    assert (9, 11) <= tuple(map(int, version.groups())) < (10, 0), "look up the lowest compute capability again"
    assert COMPUTE_CAPABILITY == (7, 5)
    page = (REPOSITORY / "docs" / "gpu.md").read_text()
    assert f"cuDNN {version[1]}.{version[2]}" in page
    assert "compute capability 7.5 or newer" in page


@pytest.fixture
def gpus(monkeypatch):
    """Makes two GPUs appear; returns their details, and what is set up on them."""
    found = [tf.config.PhysicalDevice(f"/physical_device:GPU:{index}", "GPU") for index in range(2)]
    details, calls = {"device_name": "Some GPU", "compute_capability": (8, 0)}, []
    for name in ("list_physical_devices", "get_visible_devices"):
        monkeypatch.setattr(tf.config, name, lambda kind=None: found if kind == "GPU" else [])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, _: calls.append(("visible", devices)))
    experimental = tf.config.experimental
    monkeypatch.setattr(experimental, "get_device_details", lambda _: details)
    monkeypatch.setattr(experimental, "set_memory_growth", lambda gpu, on: calls.append(("growth", gpu.name, on)))
    monkeypatch.setattr(experimental, "enable_op_determinism", lambda: calls.append("determinism"))
    return details, calls


GROWTH = [("growth", f"/physical_device:GPU:{index}", True) for index in range(2)]


def test_more_replicas_than_gpus_are_refused(gpus):
    assert refusal(replicas=4, batch_size=8).startswith("replicas=4: expected at most 2")


@pytest.mark.parametrize("prepare", [configure_devices, prepare_inference])
def test_a_gpu_that_is_too_old_is_refused_before_it_is_set_up(gpus, prepare):
    details, calls = gpus
    details["compute_capability"] = (7, 0)
    with pytest.raises(UserError, match=r"^Some GPU: got compute capability 7\.0"):
        prepare(config(batch_size=8))
    assert calls == []


def test_by_default_every_gpu_is_a_replica(gpus):
    assert refusal(batch_size=7) == "batch_size=7 is no multiple of the 2 replicas. Try 8"
    assert configure_devices(config(batch_size=8)) == ["GPU:0", "GPU:1"]


def test_training_takes_memory_as_it_needs_it_on_its_gpus_alone(gpus):
    assert configure_devices(config(batch_size=8, replicas=1)) == ["GPU:0"]
    (name, visible), *growth = gpus[1]
    assert (name, len(visible), growth) == ("visible", 1, GROWTH[:1])


@pytest.mark.parametrize("is_deterministic", [False, True])
def test_a_trained_model_takes_memory_as_it_needs_it_and_is_as_deterministic_as_its_run(gpus, is_deterministic):
    # bfloat16 is for training; the trained model computes in float32.
    gpus[0]["compute_capability"] = (7, 5)
    prepare_inference(preset("base").replace(precision="mixed_bfloat16", deterministic=is_deterministic))
    assert gpus[1] == ["determinism"] * is_deterministic + GROWTH


def test_a_trained_model_is_used_after_tensorflow_has_started(gpus, monkeypatch):
    """TensorFlow then changes no device; a program of the user's may have done its own set-up."""

    def refuse(gpu, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", refuse)
    prepare_inference(config())


def test_a_cpu_is_not_set_up_for_a_trained_model(gpus, monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: [])
    prepare_inference(preset("base"))
    assert gpus[1] == []


@pytest.mark.parametrize("before", [False, True])
def test_exact_float32_turns_tf32_off_and_leaves_it_as_it_was(before):
    tf.config.experimental.enable_tensor_float_32_execution(before)
    try:
        with pytest.raises(ValueError, match="interrupted"), exact_float32():
            assert not tf.config.experimental.tensor_float_32_execution_enabled()
            raise ValueError("interrupted")
        assert tf.config.experimental.tensor_float_32_execution_enabled() == before
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)
