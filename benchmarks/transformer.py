"""Compares the LSTM layers of `base` with a Transformer, each with memory and without.

    python benchmarks/transformer.py --data=DATASET [--minutes=10]

Each model is trained for the same minutes by the trainer's loop on the same dataset, with the preset `base`, and has
about as many weights. The Transformer has the same inputs, heads and losses; its layers are causal and see how far back
a note is by rotary positions. Its attention and its positions are KerasHub's, which is no dependency of the project.

A line of the table has nats/note on the validation split, notes per second in training, and those with which one
voice continues a primer of 100, 1,000 and 10,000 notes. The Transformer keeps the keys and values of the last notes.
Each of its layers attends to as many as score best on validation: 1, 2, 4 or 8 times those of a training window. A
second line tells how fast it plays if it attends to all notes.
"""

import argparse
import importlib.util
import itertools
from pathlib import Path
from typing import Any

from model_processes import FIELDS, fresh_processes, require_dataset, show
from train import machine

HISTORIES = (100, 1_000, 10_000)
BATCH_NOTES = 4_096  # of `base`, in windows of any length
MISSING = "KerasHub is missing. Install it into a copy of this environment: python -m pip install keras-hub"


def measure(*arguments: Any) -> list[tuple[str, ...]]:
    """Trains and measures a model in this process; returns its lines."""
    import trainer  # noqa: F401  # isort: skip  First, so that TensorFlow loads without messages.
    import transformer_parts

    return transformer_parts.measure(*arguments)


def main() -> None:
    """Measures all models, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a dataset of beam_preprocess")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each training (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each model plays (default: 5)")
    parser.add_argument("--layers", type=int, default=2, help="of the Transformer (default: 2)")
    parser.add_argument("--width", type=int, default=256, help="of the Transformer (default: 256)")
    parser.add_argument("--heads", type=int, default=4, help="of the Transformer's attention (default: 4)")
    parser.add_argument("--seq_length", type=int, default=128, help="its training windows' notes (default: 128)")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="its learning rate (default: 0.002)")
    flags = parser.parse_args()
    require_dataset(parser, flags.data)
    if importlib.util.find_spec("keras_hub") is None:
        parser.error(MISSING)
    print(f"{machine()}; {flags.data}; {flags.minutes:g} minutes each\n")
    show(("model", "weights", *FIELDS, "trained", *(f"after {notes:,}" for notes in HISTORIES)))
    show(("---", *["---:"] * (len(FIELDS) + 2 + len(HISTORIES))))
    transformer = {
        "shape": (flags.layers, flags.width, flags.heads),
        "seq_length": flags.seq_length,
        "batch_size": max(BATCH_NOTES // flags.seq_length, 1),
        "learning_rate": flags.learning_rate,
    }
    with fresh_processes() as processes:
        for body, memory in itertools.product(({}, transformer), ({"memory_units": 0}, {})):
            options = {"max_minutes": flags.minutes, **body, **memory}
            dataset = str(flags.data.resolve())
            for cells in processes.submit(measure, dataset, options, HISTORIES, flags.rounds).result():
                show(cells)


if __name__ == "__main__":
    main()
