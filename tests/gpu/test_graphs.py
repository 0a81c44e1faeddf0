"""The traced graphs against the kernel registry of the locked TensorFlow, which is a CUDA build: what a GPU would run.

SOSTENUTO_AUDIT=all (`make audit`) audits every preset in every precision, and prints the figures.
"""

import concurrent.futures
import itertools
import json
import os
from typing import Final

import pytest
import tensorflow as tf

from sostenuto.text import table
from tests.gpu.graph_audit import Audit, Copy
from tests.processes import run_python
from trainer.presets import preset

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")
ALL = os.environ.get("SOSTENUTO_AUDIT") == "all"
CONFIGS: Final = [
    f"{name}:{precision}:{replicas}"
    for name, precision, replicas in itertools.product(("base", "large", "tutorial"), PRECISIONS, (1, 2))
    if ALL or name == "base" or (precision, replicas) == ("float32", 1)
]
# A train_step of base started 2,722 kernels while every variable had an update of its own.
MOST_KERNELS: Final = {"base": 1_350, "large": 1_400, "tutorial": 260}
MOST_COPIES: Final = 6
LARGE: Final = 100_000  # bytes
# The configs of trained models, whose precision is full (`tests.gpu.graphs`).
TRAINED: Final = [config for config in CONFIGS if config.endswith(("float32:1", "float64:1"))]

pytestmark = pytest.mark.skipif(
    not tf.sysconfig.get_build_info()["is_cuda_build"], reason="this TensorFlow is no CUDA build: it has no GPU kernels"
)


def audit(configs: list[str]) -> dict[str, dict[str, Audit]]:
    """Returns the audits of configs, by config and graph."""
    process = run_python("-m", "tests.gpu.graphs", *configs, TF_CPP_MIN_LOG_LEVEL="3")
    assert process.returncode == 0, process.stderr
    found: dict[str, dict[str, Audit]] = {}
    for line in process.stdout.splitlines():
        config, graph, values = json.loads(line)
        found.setdefault(config, {})[graph] = Audit.from_json(values)
    return found


@pytest.fixture(scope="module")
def audits() -> dict[str, dict[str, Audit]]:
    """The audits of all configs, made in two processes."""
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        first, second = threads.map(audit, (CONFIGS[::2], CONFIGS[1::2]))
    found = {config: (first | second)[config] for config in CONFIGS}
    if ALL:
        print("\n" + "\n".join(figures(found)))
    return found


def figures(found: dict[str, dict[str, Audit]]) -> list[str]:
    """The lines of a table of all audits."""
    header = [
        "config",
        "graph",
        "kernels",
        "updates",
        "down",
        "kB",
        "up",
        "kB",
        "batch kB",
        "across",
        "cuDNN",
        "no GPU",
    ]
    rows = []
    for config, by_graph in found.items():
        for graph, found_in in by_graph.items():
            batch = [copy for copy in found_in.up if copy.is_batch]
            up = [copy for copy in found_in.up if not copy.is_batch]
            counts = [
                found_in.kernels.total(), found_in.updates.total(), len(found_in.down), kilobytes(found_in.down),
                len(up), kilobytes(up), kilobytes(batch), len(found_in.across), found_in.cudnn.total(),
                found_in.without_gpu_kernel.total(),
            ]  # fmt: skip
            rows.append([config, graph, *(f"{count:,}" for count in counts)])
    return table(header, rows, align="<<" + ">" * (len(header) - 2), width=None)


def kilobytes(copies: list[Copy]) -> float:
    return round(sum(copy.size for copy in copies) / 1000, 1)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_gpu_has_a_kernel_for_every_op_that_is_not_pinned_to_the_host(config, audits) -> None:
    assert {
        graph: found.without_gpu_kernel for graph, found in audits[config].items() if found.without_gpu_kernel
    } == {}


@pytest.mark.parametrize("config", CONFIGS)
def test_each_lstm_layer_is_one_cudnn_op_but_in_the_loop_of_generation_and_in_exports(config, audits) -> None:
    layers = preset(config.partition(":")[0]).layers
    for graph, found in audits[config].items():
        expected = {} if graph.startswith(("decode", "export")) else {"CudnnRNNV3": layers}
        assert found.cudnn == expected, graph


@pytest.mark.parametrize("config", TRAINED)
def test_xla_can_compile_every_op_of_generation_for_a_gpu(config, audits) -> None:
    decoding = {graph: found for graph, found in audits[config].items() if graph.startswith("decode")}
    assert len(decoding) == 2
    assert {graph: found.without_xla_kernel for graph, found in decoding.items() if found.without_xla_kernel} == {}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_train_step_starts_few_kernels(config, audits) -> None:
    found = audits[config]["train_step"]
    assert found.kernels.total() + found.updates.total() <= MOST_KERNELS[config.partition(":")[0]]


@pytest.mark.parametrize("config", CONFIGS)
def test_within_a_train_step_the_host_waits_for_no_gpu(config, audits) -> None:
    assert [copy for copy in audits[config]["train_step"].down if copy.graph] == []


@pytest.mark.parametrize("config", CONFIGS)
def test_little_but_its_batch_is_copied_for_a_train_step(config, audits) -> None:
    copies = [copy for copy in audits[config]["train_step"].up if not copy.is_batch]
    assert sum(copy.size for copy in copies) < LARGE / 100, copies
    assert len(copies) <= MOST_COPIES, copies


@pytest.mark.parametrize("config", CONFIGS)
def test_gpus_exchange_only_sums(config, audits) -> None:
    assert audits[config]["train_step"].across == []


@pytest.mark.parametrize("config", [config for config in CONFIGS if config.endswith(":1")])
def test_a_trained_model_copies_its_inputs_and_little_else(config, audits) -> None:
    for graph, found in audits[config].items():
        if graph.startswith(("score", "primer", "export")):
            copies = [copy for copy in [*found.down, *found.up] if not copy.is_argument]
            assert sum(copy.size for copy in copies) < LARGE, (graph, copies)


def test_tensorflows_own_partitions_of_a_train_step_send_nothing_back_to_the_host() -> None:
    """A send for a dependency alone has no tensor: TensorFlow's loop waits for a train_step before the next."""
    process = run_python("-m", "tests.gpu.partitions", TF_CPP_MIN_LOG_LEVEL="3")
    assert process.returncode == 0, process.stderr
    sends = [(source, tensor) for source, _, tensor in json.loads(process.stdout) if "ControlEdges" not in tensor]
    assert [tensor for source, tensor in sends if source == "CPU:0"]
    assert [tensor for source, tensor in sends if source == "CPU:1" and "while" in tensor] == []
