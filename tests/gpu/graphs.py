"""The product's graphs as a machine with GPUs would trace them, audited without one.

A process of its own, because devices are a setting of a whole TensorFlow process: logical devices of the CPU stand for
GPUs (`tests.gpu.graph_audit`), and TensorFlow is made to say that it sees GPUs. The gradients of two replicas are
summed by NCCL's collectives, as on GPUs.
Usage: python -m tests.gpu.graphs PRESET:PRECISION:REPLICAS ...; prints one line of JSON for each graph.
"""

import dataclasses
import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute import collective_util, cross_device_ops, cross_device_utils
from tensorflow.python.eager import context

from sostenuto.music.notes import FIELDS
from tests.gpu.graph_audit import Audit, audit
from trainer.checkpoints.manager import CheckpointManager, model_variables
from trainer.config import Config
from trainer.data.note_table import NoteTable
from trainer.data.note_tensors import NoteTensors
from trainer.data.recall import NO_RECALL, Recall, empty_recall
from trainer.data.windows import WindowSampler
from trainer.engine.train_state import TrainState
from trainer.evaluation.scorer import Scorer
from trainer.export import export_model
from trainer.generation.decoding import LoopOptions, RandomNumbers
from trainer.generation.ending import make_ending, no_progress
from trainer.generation.sampler import NoteSampler
from trainer.generation.steering import Steering, SteeringState
from trainer.model.heads import UNIFORMS_PER_NOTE
from trainer.model.memory import empty_memory
from trainer.model.next_note import NextNoteModel, build_model
from trainer.presets import preset
from trainer.workdir.layout import BEST_NAME, CONFIG_NAME, RUN_NAME

MOST_REPLICAS = 2

# Sizes of the audited batches: those of `Scorer`, and of one call of `NoteSampler`.
_PERFORMANCES, _NOTES, _WINDOWS, _SAMPLES = 64, 256, 1024, 8


def fake_gpus() -> None:
    """Makes logical devices of the CPU that stand for GPUs, and makes TensorFlow list GPUs."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * (MOST_REPLICAS + 1))
    gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{index}", "GPU") for index in range(MOST_REPLICAS)]
    for name in ("list_physical_devices", "list_logical_devices"):
        listed = getattr(tf.config, name)
        setattr(tf.config, name, lambda kind=None, listed=listed: gpus if kind == "GPU" else listed(kind))
    tf.config.experimental.enable_op_determinism()


def strategy(replicas: int) -> tf.distribute.Strategy:
    """Returns what the trainer uses for GPUs."""
    devices = [f"CPU:{index + 1}" for index in range(replicas)]
    sums = cross_device_ops.CollectiveAllReduce(
        devices=[f"/job:localhost/replica:0/task:0/device:{device}" for device in devices],
        group_size=replicas,
        options=collective_util.Options(implementation=collective_util.CommunicationImplementation.NCCL),
        collective_keys=cross_device_utils.CollectiveKeys(),
    )
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=sums)


@functools.cache
def table() -> NoteTable:
    """Returns a table of random notes, long enough for every preset."""
    random, notes = np.random.default_rng(0), 5000
    columns = np.empty(notes, [("pitch", "u1"), ("velocity", "u1"), ("step_us", "<i4"), ("duration_us", "<i4")])
    for field, low, high in (
        ("pitch", 21, 109), ("velocity", 1, 128), ("step_us", 0, 500_000), ("duration_us", 1_000, 900_000)
    ):  # fmt: skip
        columns[field] = random.integers(low, high, notes)
    return NoteTable(columns, np.linspace(0, notes, 8).astype(np.int64), (*"AABBCC", ""))


def train_step(config: Config, replicas: int) -> Audit:
    """Audits a call of train_steps; its loop's body is a train_step."""
    distribution = strategy(replicas)
    with distribution.scope():
        state = TrainState(config, WindowSampler(table(), config), distribution)
    # Ops without a device run where the trainer calls the graph.
    graph, called = state.graph, []
    state.graph = lambda *arguments: called.append((arguments, context.context().device_name))
    state.run(1)
    ((arguments, device),) = called
    return audit(graph.get_concrete_function(*arguments), called_on=int(device.rpartition("CPU:")[2]))


def score(config: Config) -> Audit:
    """Audits the scoring of a training run: a full batch of performances, or of windows."""
    model = build_model(config)
    scorer = Scorer(model, chunk=_NOTES, lanes=_PERFORMANCES, windows=_WINDOWS)
    # With sizes instead of None, the sizes of all copies are known.
    if config.positions == "last":
        inputs, targets = _notes(_WINDOWS, config.seq_length), _notes(_WINDOWS)
        recall = _recall(model, _WINDOWS, config.seq_length)
        state = _specs(model.initial_state(_WINDOWS))
        arguments = inputs, tf.TensorSpec([_WINDOWS], tf.int32), targets, recall, state
        return audit(_trace(scorer._read_window_batch.python_function, *arguments))
    notes = _notes(_PERFORMANCES, _NOTES)
    state = _specs(model.initial_state(_PERFORMANCES))
    recall = _recall(model, _PERFORMANCES, _NOTES)
    ends = tf.TensorSpec([_PERFORMANCES, _NOTES], tf.bool)
    return audit(_trace(scorer._read_chunk.python_function, notes, notes, ends, recall, state))


def generate(config: Config) -> Iterator[tuple[str, Audit]]:
    """Audits the reading of primers and the compiled loop, with top_p and without."""
    model = build_model(config.replace(precision=config.full_precision))  # as `load_model`
    sampler = NoteSampler(model)
    state, recall = _specs(model.initial_state(_SAMPLES)), _recall(model, _SAMPLES, _NOTES)
    primer = _trace(sampler._forward.python_function, _notes(_SAMPLES, _NOTES), state, recall.pitches)
    yield "primer", audit(primer)
    head_input, state = primer.structured_outputs
    dtype = config.full_precision  # also that of the layers' state while notes are decoded
    if model.has_memory:
        state = state._replace(memory=_specs(empty_memory(_SAMPLES)))
    prefix = (
        tf.nest.map_structure(lambda part: tf.TensorSpec([_SAMPLES, *part.shape[2:]], part.dtype), head_input),
        _specs(state)._replace(
            layers=tf.nest.map_structure(lambda part: tf.TensorSpec(part.shape, dtype), state.layers)
        ),
        SteeringState(),
    )
    number = tf.TensorSpec([_NOTES, _SAMPLES], tf.float32)
    numbers = RandomNumbers(tf.TensorSpec([_NOTES, _SAMPLES, UNIFORMS_PER_NOTE], tf.float32), number, number)
    progress, ending = _specs(no_progress(_SAMPLES)), _specs(make_ending(1.0, 60.0))
    for name, top_p in (("decode", None), ("decode, top_p", tf.TensorSpec([], dtype))):
        temperature = tf.TensorSpec([len(FIELDS)], dtype)
        options = LoopOptions(model.decode_weights(), temperature, (top_p,) * len(FIELDS), ending, Steering())
        arguments = tf.TensorSpec([], tf.int32), prefix, progress, options, numbers
        yield name, audit(_trace(_decode_with(sampler), *arguments))


def export(config: Config) -> Iterator[tuple[str, Audit]]:
    """Audits the signatures of an export that is written and loaded."""
    model = build_model(config)
    with tempfile.TemporaryDirectory() as directory:
        workdir = Path(directory)
        (workdir / CONFIG_NAME).write_text(config.to_json())
        (workdir / RUN_NAME).write_text(json.dumps({"pitch_range": model.heads.pitch_range}))
        extra = {"config": dataclasses.asdict(config)}
        CheckpointManager(str(workdir / BEST_NAME), max_to_keep=1).save(1, model_variables(model), extra)
        loaded = tf.saved_model.load(export_model(directory))
        for name, signature in loaded.signatures.items():
            yield f"export, {name}", audit(signature, unknown=_SAMPLES)


def _decode_with(sampler: NoteSampler) -> Callable[..., Any]:
    """Returns the compiled loop with all its arguments by position."""
    decode = sampler._decode.python_function
    return lambda *arguments: decode(*arguments[:-1], numbers=arguments[-1])


def _trace(function: Callable[..., Any], *arguments: Any) -> tf.types.experimental.ConcreteFunction:
    return tf.function(function, autograph=False).get_concrete_function(*arguments)


def _recall(model: NextNoteModel, *shape: int) -> Recall:
    return Recall(*_specs(empty_recall(tf.constant(shape)))) if model.has_memory else NO_RECALL


def _notes(*shape: int) -> NoteTensors:
    return NoteTensors(*[tf.TensorSpec(shape, tf.int32)] * len(NoteTensors._fields))


def _specs(tensors: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), tensors)


def main(names: list[str]) -> None:
    """Prints the audits of configs.

    A trained model does not depend on the number of replicas, and it generates and is exported in full precision.
    """
    fake_gpus()
    for name in names:
        preset_name, precision, replicas = name.split(":")
        config = preset(preset_name).replace(precision=precision)
        with tf.device("CPU:1"):
            audits = [("train_step", train_step(config, int(replicas)))]
            if replicas == "1":
                audits.append(("score", score(config)))
            if replicas == "1" and precision == config.full_precision:
                audits += [*generate(config), *export(config)]
        for graph, found in audits:
            print(json.dumps([name, graph, found.to_json()]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
