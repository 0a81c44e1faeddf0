"""Training runs as processes, and what they leave."""

import json
import pathlib
import subprocess
import sys

import numpy as np

# A process of its own for each run: devices and determinism are settings of a whole TensorFlow process.
TRAIN = [sys.executable, "-m", "trainer"]

TINY = {
    "base": ["--preset=base", "--units=16", "--head_units=16", "--seq_length=16", "--batch_size=8", "--warmup_steps=5"],
    "seed": ["--preset=seed", "--units=16", "--seq_length=8", "--batch_size=8"],
}


def train(data, workdir, *flags, **options):
    command = [*TRAIN, f"--data={data}", f"--workdir={workdir}", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def weights(workdir) -> dict[str, np.ndarray]:
    """The model's weights in the newest checkpoint."""
    import tensorflow as tf

    newest = max((pathlib.Path(workdir) / "checkpoints").iterdir(), key=lambda path: path.name)
    reader = tf.train.load_checkpoint(str(newest / "variables"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith(("model/", "optimizer/"))
    }


def metrics(workdir) -> list[dict]:
    lines = [json.loads(line) for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["notes_per_second"]
    return lines
