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
    result = json.loads(run_python("-m", "tests.benchmarks.gpu_run", check=True).stdout)
    assert result["parts"].keys() == {"cpu", "replicas", "speed", "batch", "scaling", "generation"}
    for part, rows in result["parts"].items():
        for _, figures, _, ok in rows:
            assert ok == ("yes" if part in ("cpu", "replicas") else "–"), (part, rows)
            assert any(digit in figures for digit in "123456789"), (part, rows)
    gpus, machine = result["machine"]
    assert gpus == 0
    assert "TensorFlow" in machine
    assert result["uses_cudnn"] == {"LSTM_elementWise_fp": True, "gemm_kernel": False}


def test_the_command_kills_and_resumes_a_run_and_prints_a_table():
    process = run_python("benchmarks/gpu.py", "--part=resume", check=True)
    machine, empty, head, _, row = process.stdout.splitlines()
    assert "CPU" in machine
    assert not empty
    assert head == "| part | what | result | expected | ok |"
    assert row.startswith("| resume | tutorial")
    assert row.endswith(" 0 differ | all bits equal | yes |")


def test_a_failure_is_a_line_of_the_table(gpu, capsys):
    failing = gpu.Job("speed", "large, float32", "json.loads", {"s": "{"})
    working = gpu.Job("batch", "base", "builtins.dict", {})
    assert gpu.run_jobs(iter([working]))
    assert not gpu.run_jobs(iter([failing, working]))
    (row,) = capsys.readouterr().out.splitlines()
    assert row.startswith("| speed | large, float32 | failed: JSONDecodeError: Expecting property name")
    assert row.endswith(" | – | NO |")


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
