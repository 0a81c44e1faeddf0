"""Trains `base` without parts of its memory, to tell what each is worth.

    python benchmarks/memory.py --data=DATASET [--steps=600]

All models are trained for as many train_steps by the trainer's loop on the same dataset. A line of the table has
nats/note on the validation split. What a model lacks is removed from what it recalls, in training and in scoring.
"""

import argparse
from pathlib import Path
from typing import Any

from model_processes import FIELDS, fresh_processes, require_dataset, show
from train import machine


def names() -> list[str]:
    """Returns the names of the models, in a process of its own that loads TensorFlow."""
    import trainer  # noqa: F401  # isort: skip  First, so that TensorFlow loads without messages.
    import memory_parts

    return list(memory_parts.ABLATIONS)


def measure(*arguments: Any) -> tuple[str, ...]:
    """Trains and scores a model in this process; returns its line."""
    import trainer  # noqa: F401  # isort: skip  First, so that TensorFlow loads without messages.
    import memory_parts

    return memory_parts.measure(*arguments)


def main() -> None:
    """Measures all models, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a dataset of beam_preprocess")
    parser.add_argument("--steps", type=int, default=600, help="train_steps of each model (default: 600)")
    flags = parser.parse_args()
    require_dataset(parser, flags.data)
    options = {"max_minutes": 0.0, "steps": flags.steps, "evaluate_every": flags.steps}
    print(f"{machine()}; {flags.data}; {flags.steps:,} train_steps each\n")
    show(("memory", *FIELDS))
    show(("---", *["---:"] * len(FIELDS)))
    with fresh_processes() as processes:
        for ablation in processes.submit(names).result():
            show(processes.submit(measure, str(flags.data.resolve()), ablation, options).result())


if __name__ == "__main__":
    main()
