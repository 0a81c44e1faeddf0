"""Runs the parts of benchmarks/transformer.py with small models, and prints what they found as JSON.

A process of its own, as the benchmark's are. Without KerasHub, a stand-in has the two layers that it uses.
Usage: python -m tests.benchmarks.transformer_run DATASET
"""

import json
import sys
import types

from tests.processes import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import trainer  # noqa: F401  # isort: skip  First, so that TensorFlow loads without messages.
import keras
import numpy as np
import tensorflow as tf


class Rotary(keras.layers.Layer):
    """KerasHub's RotaryEmbedding, with positions."""

    def call(self, inputs: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        half = inputs.shape[-1] // 2
        angles = positions[..., tf.newaxis, tf.newaxis] * 10_000 ** (-tf.range(half, dtype=tf.float32) / half)
        first, second = tf.split(inputs, 2, axis=-1)
        cos, sin = tf.cos(angles), tf.sin(angles)
        return tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)


def main() -> None:
    try:
        import keras_hub  # noqa: F401
    except ImportError:
        layers = types.SimpleNamespace(CachedMultiHeadAttention=keras.layers.MultiHeadAttention, RotaryEmbedding=Rotary)
        sys.modules["keras_hub"] = types.SimpleNamespace(layers=layers)  # type: ignore[assignment]
    import transformer_parts as parts

    from sostenuto.data.manifest import Manifest
    from trainer.data.note_table import load_table
    from trainer.evaluation.scorer import Scorer
    from trainer.model.next_note import build_model
    from trainer.presets import preset

    small = {"units": 48, "head_units": 8, "seq_length": 8, "batch_size": 4, "evaluate_every": 4, "steps": 8}
    config, shape = preset("base").replace(**small), parts.Shape(2, 16, 2)
    model = parts.build_transformer(config, (21, 108), (), shape=shape)
    table = load_table(Manifest.load(sys.argv[1]), "validation")

    def pitches(window: int, chunk: int) -> np.ndarray:
        model.window = window
        return Scorer(model, chunk=chunk).score(table).pitch

    in_one = pitches(8, 256)
    found = {
        "weights": [parts.weights_of(model), parts.weights_of(build_model(config))],
        "by_note": float(np.max(np.abs(pitches(8, 1) - in_one))),
        "by_chunk": float(np.max(np.abs(pitches(8, 5) - in_one))),
        "of_all": float(np.max(np.abs(pitches(64, 256) - in_one))),
        "base": parts.measure(sys.argv[1], {**small, "memory_units": 0}, [5], 1),
        # A primer that is read in two parts.
        "transformer": parts.measure(sys.argv[1], {**small, "shape": shape}, [600], 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
