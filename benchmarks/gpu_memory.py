"""Reckoned GPU memory of a train_step, from the shapes of its tensors.

    python benchmarks/gpu_memory.py

Nothing here was measured on a GPU. The counts of tensors come from the traced graphs; tests compare them with those.
"""

import sys
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import trainer  # noqa: F401, E402  # isort: skip  First, so that TensorFlow loads without messages.
from sostenuto.music.notes import PITCHES  # noqa: E402
from trainer.config import Config  # noqa: E402
from trainer.data.recall import CANDIDATES  # noqa: E402
from trainer.model.next_note import build_model  # noqa: E402
from trainer.model.time_bins import BINS  # noqa: E402
from trainer.presets import preset  # noqa: E402

# Tensors that the backward pass of `density` reads, each of as many columns for every note.
LAYER_TENSORS = 10  # of an LSTM layer's units: its normalization, input, output, dropout and residual
HEAD_TENSORS = 32  # of the heads' hidden units, in all four heads
RESERVE_TENSORS = 6  # of a layer's units in cuDNN's reserve space: four gates, cell and output
LOGITS, LOGITS_TENSORS = 2 * PITCHES + 2 * BINS, 5  # pitch, step, duration, velocity; and their losses
HISTORY, HISTORY_TENSORS = 3 * PITCHES + BINS, 2  # features of the last notes
CANDIDATE_TENSORS = 6  # of the memory's units, for each candidate
RECALL = 2 * CANDIDATES**2 + 860  # which candidates name the same pitch; times of matches
VECTORS = 7  # as long as all weights: they, their flat copy, two moments, the gradient and two results of arithmetic


class Memory(NamedTuple):
    """Bytes on one GPU."""

    vectors: int  # weights, optimizer, average, gradient
    activations: int  # what the backward pass reads
    reserve: int  # the part of `activations` in cuDNN's reserve space


def reckon(config: Config, replicas: int = 1) -> Memory:
    """Returns the memory of a train_step of a density model in float32."""
    parameters = sum(variable.value.shape.num_elements() for variable in build_model(config).trainable_variables)
    notes = config.batch_size // replicas * config.seq_length
    columns = (
        LAYER_TENSORS * config.layers * config.units
        + HEAD_TENSORS * config.head_units
        + LOGITS_TENSORS * LOGITS
        + HISTORY_TENSORS * HISTORY
    )
    if config.has_memory:
        columns += CANDIDATE_TENSORS * CANDIDATES * config.memory_units + RECALL
    reserve = 4 * notes * RESERVE_TENSORS * config.layers * config.units
    return Memory(4 * parameters * (VECTORS + (config.ema > 0)), 4 * notes * columns + reserve, reserve)


def main() -> None:
    """Prints a table of the presets that need a GPU."""
    print("| config | windows on a GPU | weights, optimizer, average | activations | cuDNN's reserve space in them |")
    print("|---|---|---|---|---|")
    for name, factor in (("base", 1), ("large", 1), ("large", 4)):
        config = preset(name)
        config = config.replace(batch_size=factor * config.batch_size)
        sizes = [f"{size / 2**30:.2f} GiB" for size in reckon(config)]
        print(f"| `{name}` | {config.batch_size} × {config.seq_length} notes | {' | '.join(sizes)} |")


if __name__ == "__main__":
    main()
