"""benchmarks/gpu.py, on the CPU with small models."""

import json
from types import ModuleType

import pytest

from tests.processes import REPOSITORY, run_python


@pytest.fixture
def gpu(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return __import__("gpu")


def test_every_measurement_runs_on_a_cpu():
    found, machine, empty, head, _, *lines = run_python(
        "-m", "tests.benchmarks.gpu_run", check=True
    ).stdout.splitlines()
    assert json.loads(found) == {"LSTM_elementWise_fp": True, "gemm_kernel": False}
    assert "CPU" in machine
    assert "TensorFlow" in machine
    assert not empty
    assert head == "| part | what | result | expected | ok |"
    rows = [line.strip("| ").split(" | ") for line in lines]
    assert [part for part, *_ in rows] == [
        *("cpu", "cpu", "replicas", "resume", "speed", "speed", "batch", "scaling", "generation"),
    ]
    for part, _, result, _, ok in rows:
        assert ok == ("yes" if part in ("cpu", "replicas", "resume") else "–")
        assert any(digit in result for digit in "123456789")


def test_a_failure_is_a_line_of_the_table(gpu, capsys):
    failing = gpu.Job("speed", "large, float32", "json.loads", {"s": "{"})
    working = gpu.Job("batch", "base", "builtins.dict", {})
    assert gpu.run_jobs(iter([working]))
    assert not gpu.run_jobs(iter([failing, working]))
    (row,) = capsys.readouterr().out.splitlines()
    assert row.startswith("| speed | large, float32 | failed: JSONDecodeError: Expecting property name")
    assert row.endswith(" | – | NO |")


def test_the_memory_is_reckoned_from_the_tensors_that_tensorflow_keeps():
    sizes = json.loads(run_python("-m", "tests.benchmarks.saved_tensors", check=True).stdout)
    assert sizes["reckoned"] == pytest.approx(sizes["saved"], rel=0.15)
    assert sizes["held"] < sizes["vectors"] < 2 * sizes["held"]


def test_the_page_has_the_reckoned_memory():
    table = run_python("benchmarks/gpu_memory.py", check=True).stdout
    assert table in (REPOSITORY / "docs" / "gpu.md").read_text()


@pytest.mark.parametrize(
    ("function", "arguments", "error"),
    [
        ("os._exit", {"status": 3}, "ended with status 3"),
        ("subprocess.run", {"args": ["sleep", "60"]}, "no result within 5 seconds"),
        ("gpu_parts_of_no_file.x", {}, "ModuleNotFoundError: No module named 'gpu_parts_of_no_file'"),
    ],
)
def test_a_process_that_ends_or_hangs_does_not_end_the_others(gpu, function, arguments, error):
    with pytest.raises(RuntimeError, match=error):
        gpu.run_isolated(function, arguments, timeout=5)
