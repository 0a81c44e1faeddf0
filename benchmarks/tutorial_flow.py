"""The flow of TensorFlow's tutorial "Music generation with an RNN", reimplemented as a reference.

It follows that tutorial where a reader would wish it did not: windows that span performances, batches frozen by the
cache, no validation, raw pitch fed back while generating, one `predict` a note. `python benchmarks/tutorial_flow.py
--corpus=DIR` trains it and prints its losses and speeds; `benchmarks/tutorial.py` compares them with the trainer's.

Three things differ from the tutorial, none of which changes what is learned: windows are cut with NumPy instead of a
chain of tf.data windows, `predict` is silent, and the list of files is sorted before it is cut (a glob has no order).
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import keras
import numpy as np
import pretty_midi
import tensorflow as tf
from numpy.typing import NDArray

PITCHES = 128
SEQ_LENGTH = 25
BATCH_SIZE = 64
LEARNING_RATE = 0.005
LOSS_WEIGHTS = {"pitch": 0.05, "step": 1.0, "duration": 1.0}
PATIENCE = 5
TEMPERATURE = 2.0
# Divides a note (pitch, step, duration) of a training window; the tutorial's generation does not apply it to new notes.
INPUT_SCALE = np.array([PITCHES, 1, 1], np.float32)


class LoadedModel(TypedDict):
    """Results of `train`.

    `losses` are the training losses of the epoch whose weights the model holds: total, pitch, step, duration.
    `targets_per_second` counts one target a window and leaves out the first epoch, which traces and fills the cache.
    """

    losses: dict[str, float]
    epochs: int
    targets_per_second: float
    model: keras.Model


def load_performances(paths: Sequence[Path]) -> list[NDArray[np.float32]]:
    """Reads each file's first instrument as float32 `[notes, 3]`: pitch, step and duration in seconds."""
    return [_read_notes(path) for path in paths]


def load_notes(paths: Sequence[Path]) -> NDArray[np.float32]:
    """Reads the files and concatenates their notes, `[notes, 3]`, as if they were one performance."""
    return np.concatenate(load_performances(paths))


def build_dataset(
    performances: Sequence[NDArray[np.float32]],
    *,
    seed: int,
    seq_length: int = SEQ_LENGTH,
    batch_size: int = BATCH_SIZE,
    within_performance: bool = False,
) -> tf.data.Dataset:
    """Cuts every window of `seq_length` notes and the note that follows it, stride 1.

    Args:
        performances: arrays `[notes, 3]`.
        seed: orders the windows; the cache keeps that order for every epoch.
        seq_length: the notes of an input.
        batch_size: the windows of a batch; what does not fill the last batch is dropped.
        within_performance: False lets windows run from one performance into the next, as the tutorial does.

    Returns:
        Batches of inputs `[batch, seq_length, 3]` and labels {pitch, step, duration}, each `[batch, 1]`.
    """
    pieces = list(performances) if within_performance else [np.concatenate(performances)]
    pieces = [piece for piece in pieces if len(piece) > seq_length]
    windows = np.concatenate([_windows(piece, seq_length + 1) for piece in pieces])
    inputs = windows[:, :-1] / INPUT_SCALE
    # [batch, 1], like the heads: a label of [batch] would broadcast against them to [batch, batch].
    labels = {name: windows[:, -1, column : column + 1] for column, name in enumerate(LOSS_WEIGHTS)}
    buffer = sum(len(piece) - seq_length for piece in pieces)
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels)).shuffle(buffer, seed=seed)
    return dataset.batch(batch_size, drop_remainder=True).cache().prefetch(tf.data.AUTOTUNE)


def mse_with_positive_pressure(labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
    """The squared error plus ten times the part below zero, `[batch, 1]` each; returns `[batch]`."""
    squared_error = tf.square(labels - predictions)
    positive_pressure = 10.0 * tf.maximum(-predictions, 0.0)
    return tf.reduce_mean(squared_error + positive_pressure, axis=-1)


def build_model(*, seq_length: int = SEQ_LENGTH, learning_rate: float = LEARNING_RATE) -> keras.Model:
    """LSTM(128) with three linear heads on its last state, compiled with the tutorial's losses and weights."""
    inputs = keras.Input((seq_length, 3))
    state = keras.layers.LSTM(128)(inputs)
    heads = {
        "pitch": keras.layers.Dense(PITCHES, name="pitch")(state),
        "step": keras.layers.Dense(1, name="step")(state),
        "duration": keras.layers.Dense(1, name="duration")(state),
    }
    model = keras.Model(inputs, heads)
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss={
            "pitch": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "step": mse_with_positive_pressure,
            "duration": mse_with_positive_pressure,
        },
        loss_weights=LOSS_WEIGHTS,
    )
    return model


def train(
    paths: Sequence[Path], *, seed: int, workdir: Path, epochs: int = 50, within_performance: bool = False
) -> LoadedModel:
    """Trains on the files with `fit`, early stopping on the training loss, weights saved in `workdir` each epoch.

    Raises:
        ValueError: fewer than two epochs, which leaves none to time after the first.
    """
    if epochs < 2:
        raise ValueError(f"epochs={epochs}: at least 2 are needed, the first one is not timed")
    keras.utils.set_random_seed(seed)
    dataset = build_dataset(load_performances(paths), seed=seed, within_performance=within_performance)
    model = build_model()
    clock = _EpochClock()
    history = model.fit(
        dataset,
        epochs=epochs,
        verbose=0,
        shuffle=False,  # the dataset shuffles itself; Keras would warn that it cannot
        callbacks=[
            keras.callbacks.ModelCheckpoint(str(workdir / "ckpt_{epoch:02d}.weights.h5"), save_weights_only=True),
            keras.callbacks.EarlyStopping(monitor="loss", patience=PATIENCE, restore_best_weights=True),
            clock,
        ],
    ).history
    best = int(np.argmin(history["loss"]))
    losses = {"total": history["loss"][best]} | {name: history[f"{name}_loss"][best] for name in LOSS_WEIGHTS}
    targets = BATCH_SIZE * int(dataset.cardinality())
    timed = clock.seconds[1:]
    return LoadedModel(
        losses=losses,
        epochs=len(clock.seconds),
        targets_per_second=targets * len(timed) / sum(timed),
        model=model,
    )


def generate(
    model: keras.Model,
    primer: NDArray[np.float32],
    num_notes: int,
    temperature: float = TEMPERATURE,
    *,
    seq_length: int = SEQ_LENGTH,
) -> float:
    """Continues `primer` `[at least seq_length notes, 3]` by `num_notes` and returns the notes per second.

    The time of the first `predict`, which compiles, is left out.
    """
    window = primer[:seq_length] / INPUT_SCALE
    _next_note(model, window, temperature)
    start = time.perf_counter()
    for _ in range(num_notes):
        note = _next_note(model, window, temperature)
        window = np.concatenate([window[1:], note[np.newaxis]])
    return num_notes / (time.perf_counter() - start)


def _read_notes(path: Path) -> NDArray[np.float32]:
    midi = pretty_midi.PrettyMIDI(str(path))
    notes = sorted(midi.instruments[0].notes, key=lambda note: note.start)
    starts = np.array([note.start for note in notes])
    durations = np.array([note.end - note.start for note in notes])
    pitches = np.array([note.pitch for note in notes])
    return np.stack([pitches, np.diff(starts, prepend=starts[:1]), durations], axis=1).astype(np.float32)


def _windows(notes: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Returns every run of `length` notes: `[notes - length + 1, length, 3]`."""
    return np.lib.stride_tricks.sliding_window_view(notes, length, axis=0).swapaxes(1, 2)


def _next_note(model: keras.Model, window: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Samples a note after `window` `[seq_length, 3]`; its pitch is not divided by 128, as in the tutorial."""
    predictions = model.predict(window[np.newaxis], verbose=0)
    pitch = tf.random.categorical(predictions["pitch"] / temperature, num_samples=1)[0, 0]
    step, duration = (max(0.0, float(predictions[name][0, 0])) for name in ("step", "duration"))
    return np.array([int(pitch), step, duration], np.float32)


class _EpochClock(keras.callbacks.Callback):
    """Records the wall-clock seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def main() -> None:
    """Trains on the first files of a corpus, generates, and prints the losses and speeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="directory of MIDI files, searched recursively")
    parser.add_argument("--files", type=int, default=5, help="how many of them, in sorted order (default: 5)")
    parser.add_argument("--epochs", type=int, default=50, help="maximum epochs, at least 2 (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and window order (default: 0)")
    parser.add_argument("--num_notes", type=int, default=120, help="notes to generate (default: 120)")
    flags = parser.parse_args()
    paths = sorted(path for path in flags.corpus.rglob("*") if path.suffix.lower() in (".mid", ".midi"))[: flags.files]
    if not paths:
        parser.error(f"--corpus={flags.corpus}: no .mid or .midi file found there")
    if flags.epochs < 2:
        parser.error(f"--epochs={flags.epochs}: at least 2 are needed, the first one is not timed")
    with tempfile.TemporaryDirectory() as workdir:
        trained = train(paths, seed=flags.seed, epochs=flags.epochs, workdir=Path(workdir))
    notes_per_second = generate(trained["model"], load_notes(paths[:1]), flags.num_notes)
    print(f"files {len(paths)}  seed {flags.seed}  epochs {trained['epochs']}")
    print("losses of the best epoch  " + "  ".join(f"{name} {loss:.4f}" for name, loss in trained["losses"].items()))
    print(f"training   {trained['targets_per_second']:,.0f} targets/s (first epoch left out)")
    print(f"generating {notes_per_second:,.1f} notes/s, one voice (first call left out)")


if __name__ == "__main__":
    main()
