"""Devices, precision and hosts: what is refused before anything is set up.

What works is tested in processes of its own, since devices are a setting of a whole TensorFlow process.
"""

import pytest
import tensorflow as tf

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.factories import write_dataset
from trainer.distribution.cluster import Cluster
from trainer.distribution.strategy import CPU_INFO, check_cpu_precision, check_gpu_precision, configure_devices
from trainer.distribution.workers import Workers, is_lost_worker
from trainer.presets import preset
from trainer.workdir import layout

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


@pytest.mark.parametrize(
    ("replicas", "cluster", "all_replicas", "fits"),
    [(3, None, 3, 9), (7, None, 7, 14), (0, SECOND_OF_THREE, 3, 9), (1, SECOND_OF_THREE, 3, 9)],
)
def test_a_batch_that_the_replicas_do_not_share_equally_is_refused(replicas, cluster, all_replicas, fits):
    line = refusal(cluster, replicas=replicas, batch_size=8)
    assert line == f"batch_size=8 is no multiple of the {all_replicas} replicas. Try {fits}"


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
    ("precision", "capability", "needed"), [("mixed_bfloat16", (7, 5), "8.0"), ("mixed_float16", (5, 2), "5.3")]
)
def test_a_precision_that_the_gpu_lacks_is_refused(precision, capability, needed):
    with pytest.raises(UserError) as error:
        check_gpu_precision(precision, "Some GPU", capability)
    (line,) = str(error.value).splitlines()
    had = ".".join(map(str, capability))
    assert line.startswith(
        f"precision={precision}: Some GPU has compute capability {had}, expected at least {needed}. Pass "
    )


@pytest.mark.parametrize(
    ("precision", "capability"),
    [
        ("mixed_bfloat16", (8, 0)), ("mixed_bfloat16", (10, 0)), ("mixed_float16", (5, 3)), ("mixed_float16", (7, 0)),
        ("float32", (3, 5)), ("float64", (3, 5)), ("mixed_bfloat16", None),
    ],
)  # fmt: skip
def test_a_precision_that_the_gpu_has_is_taken(precision, capability):
    check_gpu_precision(precision, "Some GPU", capability)


@pytest.fixture
def gpus(monkeypatch):
    """Makes two GPUs appear; nothing is set up on them, since the tests end before."""
    found = [tf.config.PhysicalDevice(f"/physical_device:GPU:{index}", "GPU") for index in range(2)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: found if kind == "GPU" else [])
    details = {"device_name": "Old GPU", "compute_capability": (7, 0)}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)


def test_more_replicas_than_gpus_are_refused(gpus):
    assert refusal(replicas=4, batch_size=8).startswith("replicas=4: expected at most 2")


def test_a_precision_that_the_gpus_lack_is_refused_before_they_are_set_up(gpus):
    line = refusal(precision="mixed_bfloat16", batch_size=8)
    assert line.startswith("precision=mixed_bfloat16: Old GPU has compute capability 7.0")


def test_by_default_every_gpu_is_a_replica(gpus):
    assert refusal(batch_size=7) == "batch_size=7 is no multiple of the 2 replicas. Try 8"


def test_a_host_alone_agrees_with_itself():
    workers = Workers(tf.distribute.get_strategy(), None)
    assert (workers.size, workers.index, workers.is_chief) == (1, 0, True)
    assert workers.all_reduce_sum([1.5, 2.0]) == [1.5, 2.0]
    assert workers.broadcast_from_chief([3.0]) == [3.0]


def test_runs_of_another_config_or_dataset_have_another_fingerprint(dataset, tmp_path):
    manifest = Manifest.load(dataset)
    other = Manifest.load(write_dataset(tmp_path / "other", {"train": [40], "validation": [30]}, seed=1))
    base = preset("base")
    prints = [
        layout.fingerprint(config, data)
        for data in (manifest, other)
        for config in (base, base.replace(seed=1), base.replace(max_to_keep=4), base.replace(learning_rate=0.0021))
    ]
    assert len(set(prints)) == len(prints)
    assert layout.fingerprint(preset("base").replace(), Manifest.load(dataset)) == prints[0]
    # Small enough for the sum of the squares of very many to be exact as a float64.
    assert all(0 <= number < 2**20 for number in prints)


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (tf.errors.UnavailableError(None, None, "Socket closed"), True),
        (tf.errors.InternalError(None, None, "Collective ops is aborted by: /job:worker/task:1 is unhealthy"), True),
        (tf.errors.FailedPreconditionError(None, None, "Coordination service agent is in ERROR state"), True),
        (tf.errors.InternalError(None, None, "Failed to call DoRnnForward [[{{node while/CudnnRNNV3}}]]"), False),
        (tf.errors.FailedPreconditionError(None, None, "Could not find variable kernel"), False),
        (tf.errors.InvalidArgumentError(None, None, "shapes differ"), False),
    ],
)
def test_only_errors_of_a_connection_are_another_workers_end(error, is_lost):
    """Others recur: restarted, the workers would fail for ever."""
    assert is_lost_worker(error) == is_lost
