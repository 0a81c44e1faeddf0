"""Stands in for a program that a documented command calls: notes the call and, where a test may, runs it in small.

Bash finds nothing else on its PATH while it runs a block of a page, so that no command escapes. What is noted is read
by tests/test_documentation.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from sostenuto.cli.main import COMMANDS

REPOSITORY = Path(__file__).resolve().parent.parent

# Environment variables, set by the test that runs the block.
CALLS = "DOCUMENTED_CALLS"  # the file that notes the calls, one JSON list a line
DONE = "DOCUMENTED_DONE"  # the file of the calls that have succeeded and need not be repeated; empty: run nothing
REAL_PATH = "DOCUMENTED_PATH"  # PATH outside

PROGRAMS = (
    *("sostenuto", "python", "pip", "uv", "make", "tensorboard", "kubectl"),
    *("gcloud", "kind", "srun", "sbatch", "squeue", "scancel", "tail", "taskset", "checkov", "nvidia-smi"),
)

# A model of a few hundred weights, and hardly any training.
_TINY = {"units": 8, "layers": 1, "head_units": 8, "seq_length": 16, "batch_size": 4}

# Further flags of the commands, so that they end within seconds: the last value of a flag counts.
SMALLER = {
    "trainer": ["--steps=2", "--samples=0", *(f"--{name}={value}" for name, value in _TINY.items())],
    "trainer.generate": ["--num_notes=20", "--num_samples=1"],
    "tuning": ["--max_trials=1", "--train_steps=2", *(f"--fix={name}={value}" for name, value in _TINY.items())],
}
# Of these the trainer takes only one.
_LENGTHS = ("--steps=", "--epochs=", "--max_minutes=")

OURS = (
    "beam_preprocess",
    "sostenuto.inspect",
    "trainer",
    "trainer.evaluate",
    "trainer.generate",
    "trainer.report",
    "tuning",
    "play",
)


def in_small(program: str, arguments: list[str]) -> list[str]:
    """Returns the command to run for a documented one.

    Raises:
        ValueError: none can be run here.
    """
    match program, arguments:
        case "sostenuto", ["completion" | "help", _] | ["--help" | "--version"]:
            return [sys.executable, "-m", "sostenuto.cli.main", *arguments]
        case "sostenuto", [name, *given]:
            return in_small("python", ["-m", COMMANDS[name].module, *given])
        case "python", ["-m", "play", *given]:
            return [sys.executable, "-m", "tests.play.started", *given]
        case "python", ["-m", module, *given] if module in OURS or module.startswith("trainer."):
            kept = [flag for flag in given if module != "trainer" or not flag.startswith(_LENGTHS)]
            before, separator, after = _cut(kept)
            return [sys.executable, "-m", module, *before, *SMALLER.get(module, ()), *separator, *after]
        case "tensorboard", _:
            # What it would show, instead of a server that shows it.
            return [sys.executable, "-m", "tensorboard.main", *arguments, "--inspect"]
        case "make", _:
            return ["make", "--dry-run", f"--directory={REPOSITORY}", *arguments]
        case "kubectl", ["kustomize", *_]:
            return ["kubectl", *arguments]
    raise ValueError(f"{' '.join([program, *arguments])}: no test can run it, so its block must say what it needs")


def _cut(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Cuts arguments at the first `--`."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at : at + 1], arguments[at + 1 :]


def main() -> int:
    """Notes the call and runs it; returns its status."""
    program, *arguments = sys.argv[1:]
    with open(os.environ[CALLS], "a", encoding="utf-8") as file:
        file.write(json.dumps([program, *arguments]) + "\n")
    if not os.environ[DONE]:
        return 0
    try:
        command = in_small(program, arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    done = Path(os.environ[DONE])
    line = json.dumps(command)
    if line in done.read_text(encoding="utf-8").splitlines():
        return 0
    status = subprocess.run(command, env={**os.environ, "PATH": os.environ[REAL_PATH]}, check=False).returncode
    if not status:
        with done.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
