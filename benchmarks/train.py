"""Compares the training loop with the machine's peak and with `Model.fit`.

    python benchmarks/train.py [--data=DATASET | --corpus=DIR] [--part=input ...] [--rounds=5]

input: windows sampled per second against windows that training consumes; windows gathered inside the train_step against
windows from tf.data. fit: train_steps per second of this loop and of `Model.fit` on the same model, in the best setting
of `fit`. peak: the fraction of the measured peak of matrix products that training reaches. replicas: one against two.
checkpoint: the cost of a save every 100 train_steps. pytorch: train_steps per second of this loop and of PyTorch's
nn.LSTM with the same losses and optimizer on the CPU. `benchmarks/gpu.py` has what only a GPU can show.

Each part runs in its own process, and alternates what it compares, because the speed of a shared machine varies. A
ratio is the median over the rounds, its range in brackets. A model is described by the preset of its heads, its layers,
and the windows x notes of its batch; every position is a target. Without a dataset, random notes are used: the speed
does not depend on them.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from model_processes import fresh_processes, require_dataset

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
PARTS = ("input", "fit", "peak", "replicas", "checkpoint", "pytorch")
COLUMNS = ("what", "ours", "theirs", "ratio", "goal", "reached")
WIDTHS = (64, 30, 32, 24, 6, 7)


def measure(part: str, dataset: str | None, rounds: int) -> list[tuple[str, ...]]:
    """Measures a part in this process; returns its lines, in `COLUMNS`."""
    import trainer  # noqa: F401  # isort: skip  First, so that TensorFlow loads without messages.
    import train_parts

    return [tuple(row) for row in train_parts.PARTS[part](dataset, rounds)]


def preprocess(corpus: Path, directory: Path) -> Path:
    """Preprocesses a corpus."""
    dataset = directory / "dataset"
    command = [sys.executable, "-m", "beam_preprocess", f"--input={corpus.resolve()}", f"--output={dataset}", "--quiet"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    return dataset


def machine() -> str:
    """Describes the processor and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def show(cells: tuple[str, ...]) -> None:
    """Prints a line of the table."""
    print("| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True)) + " |", flush=True)


def main() -> None:
    """Runs the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, help="a dataset of beam_preprocess (default: random notes)")
    source.add_argument("--corpus", type=Path, help="a directory of MIDI files, to be preprocessed first")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be given several times")
    parser.add_argument("--rounds", type=int, default=5, help="times that all is measured in turn (default: 5)")
    parser.add_argument("--torch_python", default=sys.executable, help="a Python that has PyTorch (default: this one)")
    flags = parser.parse_args()
    os.environ["TORCH_PYTHON"] = flags.torch_python
    if flags.data:
        require_dataset(parser, flags.data)
    if flags.rounds < 1:
        parser.error(f"--rounds={flags.rounds}: expected at least 1")
    with tempfile.TemporaryDirectory() as name, fresh_processes() as processes:
        dataset = flags.data.resolve() if flags.data else None
        if flags.corpus:
            dataset = preprocess(flags.corpus, Path(name))
        print(f"{machine()}; {'random notes' if dataset is None else dataset}; {flags.rounds} rounds")
        show(COLUMNS)
        show(tuple("-" * width for width in WIDTHS))
        for part in flags.part or PARTS:
            for cells in processes.submit(measure, part, dataset and str(dataset), flags.rounds).result():
                show(cells)


if __name__ == "__main__":
    main()
