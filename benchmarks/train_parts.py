"""The measurements of `train.py`; each part runs in its own process."""

import dataclasses
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sostenuto.data.manifest import Manifest
from trainer.checkpoints.async_checkpointer import AsyncCheckpointer
from trainer.checkpoints.manager import CheckpointManager
from trainer.config import Config
from trainer.data.note_table import NoteTable, load_table
from trainer.data.note_tensors import NoteTensors
from trainer.data.windows import Batch, WindowSampler
from trainer.distribution.devices import configure_devices
from trainer.distribution.strategy import create_strategy
from trainer.engine.optimizer import learning_rate
from trainer.engine.train_state import TrainState
from trainer.model.next_note import build_model
from trainer.presets import preset

SAMPLE_SECONDS = 2.0  # duration of a measurement, if a train_step does not take longer
CALL_SECONDS = 0.5  # as in the loop
SAVE_EVERY = 100  # train_steps
STEPS_PER_EXECUTION = 32  # of `fit`, if not 1
MATRIX_SIZES = (8192,) if tf.config.list_physical_devices("GPU") else (2048, 4096)

BASE = preset("base").replace(replicas=1)
LARGE = preset("large").replace(replicas=1)
WIDE = BASE.replace(units=512, batch_size=64)
# The tutorial's model is the smallest, so the overhead of the loop weighs most.
TUTORIAL = preset("tutorial").replace(positions="every", replicas=1)
SMALL = BASE.replace(units=128, layers=1, seq_length=25, batch_size=64)

Measurement = Callable[[], float]


class Row(NamedTuple):
    """A formatted line of the table."""

    what: str
    ours: str
    theirs: str = "–"
    ratio: str = "–"
    goal: str = "–"
    reached: str = "–"


class Ratios(list[float]):
    """A ratio in each round."""

    @classmethod
    def of(cls, ours: list[float], theirs: list[float]) -> "Ratios":
        """Divides our results by theirs, round by round."""
        return cls(one / other for one, other in zip(ours, theirs, strict=True))

    @property
    def median(self) -> float:
        """Returns the median."""
        return statistics.median(self)

    def show(self, form: str) -> str:
        """Formats the median and, in brackets, the range."""
        return f"{self.median:{form}} ({min(self):{form}} – {max(self):{form}})"


def median(values: list[float], form: str = ",.1f") -> str:
    """Formats the median."""
    return f"{statistics.median(values):{form}}"


def at_least(goal: float, ratios: Ratios, form: str) -> tuple[str, str]:
    """Formats the last two columns."""
    return f"≥ {goal:{form}}", "yes" if ratios.median >= goal else "NO"


def alternately(measurements: Mapping[str, Measurement], rounds: int) -> dict[str, list[float]]:
    """Alternates the measurements, forwards and backwards; returns the results of each by round."""
    taken: dict[str, list[float]] = {name: [] for name in measurements}
    for number in range(rounds):
        for name in reversed(taken) if number % 2 else taken:
            taken[name].append(measurements[name]())
            print(f"  round {number + 1}, {name}: {taken[name][-1]:,.4g}", file=sys.stderr, flush=True)
    return taken


def load(dataset: str | None) -> NoteTable:
    """Returns the training split of a dataset, or a million random notes."""
    if dataset is not None:
        return load_table(Manifest.load(dataset), "train")
    random = np.random.default_rng(0)
    ranges = {"pitch": (21, 109), "velocity": (1, 128), "step_us": (0, 400_000), "duration_us": (20_000, 900_000)}
    notes = np.empty(1_000_000, [(field, "i4" if field.endswith("_us") else "u1") for field in ranges])
    for field, (low, high) in ranges.items():
        notes[field] = random.integers(low, high, len(notes))
    return NoteTable(notes, np.arange(0, len(notes) + 1, 4000, dtype=np.int64))


def name_of(config: Config) -> str:
    """Describes a config: heads, layers, and windows and notes of a batch."""
    return f"{config.preset} {config.layers}xLSTM({config.units}) {config.batch_size}x{config.seq_length}"


class Training:
    """A run that advances like the loop: train_steps in calls of about half a second.

    Args:
        config: the run.
        windows: what it trains on.
        devices: one a replica.
        by_keras: whether Keras runs the LSTM layers; by default as the trainer has it.
        seconds: how long a measurement takes, if a train_step does not take longer.

    Attributes:
        sample: how many train_steps make a measurement.
    """

    def __init__(
        self,
        config: Config,
        windows: WindowSampler,
        devices: list[str],
        *,
        by_keras: bool | None = None,
        seconds: float = SAMPLE_SECONDS,
    ) -> None:
        self.config = config
        strategy = create_strategy(devices)
        with strategy.scope():
            self.state = TrainState(config, windows, strategy)
        if by_keras is not None:
            self.state.model.cudnn = by_keras
        self._call(1)  # compiles
        train_steps, taken = 1, self._call(1)
        while taken < min(CALL_SECONDS, seconds) / 4:
            train_steps *= 4
            taken = self._call(train_steps)
        self._per_call = max(int(CALL_SECONDS * train_steps / taken), 1)
        self.sample = max(round(seconds * train_steps / taken), 1)

    def _call(self, train_steps: int) -> float:
        started = time.perf_counter()
        self.state.run(train_steps)
        if self.state.not_finite():
            raise SystemExit(f"{name_of(self.config)}, {self.config.precision}: the loss is not finite")
        return time.perf_counter() - started

    def advance(self, train_steps: int) -> None:
        """Runs the given number of train_steps."""
        for done in range(0, train_steps, self._per_call):
            self._call(min(self._per_call, train_steps - done))

    def train_steps_per_second(self, train_steps: int | None = None) -> float:
        """Measures the given number of train_steps, or the default time."""
        train_steps = train_steps or self.sample
        started = time.perf_counter()
        self.advance(train_steps)
        return train_steps / (time.perf_counter() - started)

    def notes_per_second(self) -> float:
        """Measures targets per second."""
        config = self.config
        positions = config.seq_length if config.positions == "every" else 1
        return self.train_steps_per_second() * config.windows_per_train_step * positions

    @property
    def flops(self) -> float:
        """Floating-point operations of a train_step's matrix products.

        2·m·n·k for each product: every matrix of LSTM and heads meets every note once forward, and twice that backward,
        for the gradients of its input and of itself. Embeddings are looked up and count nothing.
        """
        weights = sum(
            int(np.prod(variable.shape))
            for variable in self.state.model.trainable_variables
            if "kernel" in variable.name
        )
        return 3 * 2 * weights * self.config.windows_per_train_step * self.config.seq_length


# input


def measure_input(dataset: str | None, rounds: int) -> list[Row]:
    """Compares sampled with consumed windows, and windows gathered in the train_step with tf.data."""
    table = load(dataset)
    devices = configure_devices(BASE)
    rows = []
    for config in (TUTORIAL, BASE, LARGE):
        windows = WindowSampler(table, config)
        training = Training(config, windows, devices)
        taken = alternately(
            {"alone": windows_alone(windows, config), "training": training.train_steps_per_second}, rounds
        )
        alone, consumed = taken["alone"], [rate * config.batch_size for rate in taken["training"]]
        ratios = Ratios.of(alone, consumed)
        rows.append(
            Row(
                f"{name_of(config)}: windows/s made alone, trained on",
                median(alone),
                median(consumed),
                ratios.show(",.0f"),
                *at_least(20, ratios, ".0f"),
            )
        )
    for config in (TUTORIAL, BASE):
        gathered = Training(config, WindowSampler(table, config), devices)
        fed = Training(config, FedWindows(table, config), devices)
        taken = alternately({"gathered": gathered.train_steps_per_second, "fed": fed.train_steps_per_second}, rounds)
        rows.append(
            Row(
                f"{name_of(config)}: train_steps/s",
                f"{median(taken['gathered'])} (gathered inside)",
                f"{median(taken['fed'])} (through tf.data)",
                Ratios.of(taken["gathered"], taken["fed"]).show(".2f"),
            )
        )
    return rows


def windows_alone(windows: WindowSampler, config: Config) -> Measurement:
    """Measures windows per second, batch after batch in one graph that does nothing else."""

    @tf.function(autograph=False, input_signature=(tf.TensorSpec([], tf.int64),))
    def make(count: tf.Tensor) -> tf.Tensor:
        def one(number: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = windows.batch(number * config.batch_size, config.batch_size)
            # Every field is used, so that the graph optimizer removes none.
            parts = [tf.reduce_sum(tf.cast(field, tf.int32)) for field in tf.nest.flatten(batch)]
            return number + 1, total + tf.add_n(parts)

        return tf.while_loop(lambda number, _: number < count, one, (tf.constant(0, tf.int64), 0))[1]

    def seconds(count: int) -> float:
        started = time.perf_counter()
        make(tf.constant(count, tf.int64)).numpy()
        return time.perf_counter() - started

    seconds(1)
    count = max(int(SAMPLE_SECONDS / seconds(100) * 100), 1)
    return lambda: count * config.batch_size / seconds(count)


def batches(windows: WindowSampler, config: Config) -> tf.data.Dataset:
    """Returns the batches of all train_steps, prefetched by tf.data."""
    examples = tf.data.Dataset.range(0, config.batch_size * 2**32, config.batch_size)
    return examples.map(
        lambda index: windows.batch(index, config.batch_size), num_parallel_calls=tf.data.AUTOTUNE
    ).prefetch(tf.data.AUTOTUNE)


class FedWindows(WindowSampler):
    """The same windows, prepared by tf.data ahead of their train_step."""

    def __init__(self, table: NoteTable, config: Config) -> None:
        super().__init__(table, config)
        with tf.device("CPU:0"):
            self._batches = iter(batches(WindowSampler(table, config), config))

    def batch(self, first_example: tf.Tensor, windows: int) -> Batch:
        """Returns the next batch; train_steps request them in order."""
        with tf.device("CPU:0"):
            return self._batches.get_next()


# fit


class PlainModel(keras.Model):
    """The same model as `fit` trains it: Keras' own LSTM layers, and one loss."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self._model = build_model(config)
        self._model.cudnn = True  # Keras runs its layers on any device

    def build(self, *_: Any) -> None:
        """Does nothing: all variables exist."""

    def call(self, inputs: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """Returns the input of the heads."""
        return self._model.forward(NoteTensors(*inputs))[0]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """Returns the mean over all targets of the weighted sum of the losses; `sample_weight` is the mask."""
        losses = self._model.heads.losses(y_pred, NoteTensors(*y))
        weighted = [getattr(self._config, f"{field}_weight") * loss for field, loss in losses.items()]
        total = tf.reduce_sum(tf.where(sample_weight, tf.add_n(weighted), 0))
        return total / tf.reduce_sum(tf.cast(sample_weight, total.dtype))


class EpochTimer(keras.callbacks.Callback):
    """Times an epoch, without the work of `fit` before its first train_step."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops."""
        self.seconds = time.perf_counter() - self._started


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The trainer's learning rate."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate after `step` updates."""
        return learning_rate(self._config, step, 0.0, 1e9)


class Fit:
    """The same training by `Model.fit`."""

    def __init__(self, config: Config, windows: WindowSampler, *, jit_compile: bool, steps_per_execution: int) -> None:
        self._model = PlainModel(config)
        schedule, clip = Schedule(config), config.clip_norm or None
        if config.optimizer == "adamw":
            optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, global_clipnorm=clip)
            optimizer.exclude_from_weight_decay(
                [variable for variable in self._model.trainable_variables if "kernel" not in variable.name]
            )
        else:
            optimizer = keras.optimizers.Adam(schedule, global_clipnorm=clip)
        self._model.compile(optimizer, jit_compile=jit_compile, steps_per_execution=steps_per_execution)
        self._batches = batches(windows, config).map(
            lambda batch: (tuple(batch.inputs), tuple(batch.targets), batch.mask)
        )

    def train_steps_per_second(self, train_steps: int) -> float:
        """Measures the given number of train_steps, without start-up."""
        timer = EpochTimer()
        self._model.fit(
            self._batches, steps_per_epoch=train_steps, epochs=1, verbose=0, shuffle=False, callbacks=[timer]
        )
        return train_steps / timer.seconds


def measure_fit(dataset: str | None, rounds: int) -> list[Row]:
    """Compares this loop with `Model.fit` in its best setting, and both with the LSTM layer of `fit`."""
    table = load(dataset)
    # For both, because users of `fit` seldom enable deterministic kernels.
    devices = configure_devices(BASE.replace(deterministic=False))
    rows = []
    for config, goal in ((TUTORIAL, 1.2), (SMALL, 1.2), (WIDE.replace(layers=1), 1.0)):
        windows = WindowSampler(table, config)
        ours, same_layer = (Training(config, windows, devices, by_keras=by_keras) for by_keras in (None, True))
        many = min(max(ours.sample, 4), STEPS_PER_EXECUTION)
        # `fit` always completes a call.
        train_steps = -(-ours.sample // many) * many
        setting, fit = best_fit(config, windows, many, train_steps)
        taken = alternately(
            {
                name: functools.partial(contender.train_steps_per_second, train_steps)
                for name, contender in (("this loop", ours), ("this loop, Keras' layer", same_layer), ("fit", fit))
            },
            rounds,
        )
        theirs = f"{median(taken['fit'])} (fit, {setting})"
        for name, its_goal in (("this loop", goal), ("this loop, Keras' layer", None)):
            ratios = Ratios.of(taken[name], taken["fit"])
            rows.append(
                Row(
                    f"{name_of(config)}: train_steps/s",
                    f"{median(taken[name])} ({name})",
                    theirs,
                    ratios.show(".2f"),
                    *(at_least(its_goal, ratios, ".1f") if its_goal else ()),
                )
            )
    return rows


def best_fit(config: Config, windows: WindowSampler, many: int, train_steps: int) -> tuple[str, Fit]:
    """Returns the fastest setting of `fit`, one train_step or many per call, and its training."""
    # XLA cannot compile cuDNN's RNN.
    compilers = {"no XLA": False} if tf.config.list_physical_devices("GPU") else {"no XLA": False, "XLA": True}
    settings = {
        f"{compiler}, {steps} a call": Fit(config, windows, jit_compile=compiles, steps_per_execution=steps)
        for compiler, compiles in compilers.items()
        for steps in (1, many)
    }
    for fit in settings.values():
        fit.train_steps_per_second(many)  # compiles
    taken = alternately(
        {name: functools.partial(fit.train_steps_per_second, train_steps) for name, fit in settings.items()}, rounds=2
    )
    best = max(taken, key=lambda name: max(taken[name]))
    return best, settings[best]


# peak


def measure_peak(dataset: str | None, rounds: int) -> list[Row]:
    """Prints the fraction of the peak of matrix products that training reaches."""
    table = load(dataset)
    devices = configure_devices(LARGE)
    rows = []
    for config, goal in ((BASE, None), (WIDE, 0.5), (LARGE, 0.5)):
        reached, peaks = measure_with_peak(Training(config, WindowSampler(table, config), devices), tf.float32, rounds)
        shares = Ratios.of(reached, peaks)
        rows.append(
            Row(
                f"{name_of(config)}: GFLOP/s trained, matrix peak",
                median(reached, ",.0f"),
                median(peaks, ",.0f"),
                shares.show(".0%"),
                *(at_least(goal, shares, ".0%") if goal else ()),
            )
        )
    return rows


def measure_with_peak(training: Training, dtype: tf.DType, rounds: int) -> tuple[list[float], list[float]]:
    """Returns GFLOP/s of training, and the peak of square matrix products, by round."""
    products = {f"products of {size}": gflops_of_products(size, dtype) for size in MATRIX_SIZES}
    taken = alternately({"training": training.train_steps_per_second, **products}, rounds)
    reached = [rate * training.flops / 1e9 for rate in taken.pop("training")]
    return reached, [max(rates) for rates in zip(*taken.values(), strict=True)]


def gflops_of_products(size: int, dtype: tf.DType, seconds_per_series: float = SAMPLE_SECONDS / 3) -> Measurement:
    """Measures GFLOP/s of consecutive products of square matrices: the best of three series."""
    # Scaled, so that repeated products keep their magnitude.
    matrix = tf.cast(np.random.default_rng(0).standard_normal([size, size]) / size**0.5, dtype)

    @tf.function(autograph=False, input_signature=(tf.TensorSpec([], tf.int32),))
    def multiply(count: tf.Tensor) -> tf.Tensor:
        product = tf.while_loop(
            lambda number, _: number < count,
            lambda number, product: (number + 1, tf.matmul(matrix, product)),
            (0, matrix),
        )[1]
        return tf.reduce_sum(tf.cast(product, tf.float32))

    def seconds(count: int) -> float:
        started = time.perf_counter()
        multiply(tf.constant(count)).numpy()
        return time.perf_counter() - started

    seconds(1)
    count = max(round(seconds_per_series / seconds(1)), 1)
    return lambda: count * 2 * size**3 / min(seconds(count) for _ in range(3)) / 1e9


# replicas


def measure_replicas(dataset: str | None, rounds: int) -> list[Row]:
    """Compares one replica with two that share the same global batch."""
    if len(tf.config.list_physical_devices("GPU")) == 1:
        return [Row("1 against 2 replicas", "not measured: a single GPU")]
    table = load(dataset)
    devices = configure_devices(BASE.replace(replicas=2))
    one, two = (Training(BASE, WindowSampler(table, BASE), devices[:replicas]) for replicas in (1, 2))
    taken = alternately({"one": one.train_steps_per_second, "two": two.train_steps_per_second}, rounds)
    notes = {name: [rate * BASE.batch_size * BASE.seq_length for rate in rates] for name, rates in taken.items()}
    return [
        Row(
            f"{name_of(BASE)}: notes/s on {', '.join(devices)}; on the first",
            median(notes["two"], ",.0f"),
            median(notes["one"], ",.0f"),
            Ratios.of(notes["two"], notes["one"]).show(".2f"),
        )
    ]


# checkpoint


def measure_checkpoint(dataset: str | None, rounds: int) -> list[Row]:
    """Measures the cost of a background save every 100 train_steps."""
    table = load(dataset)
    devices = configure_devices(BASE)
    rows = []
    for config in (TUTORIAL, SMALL):
        training = Training(config, WindowSampler(table, config), devices)
        saves = max(round(4 * training.sample / SAVE_EVERY), 1)
        train_steps = saves * SAVE_EVERY
        with tempfile.TemporaryDirectory() as directory, AsyncCheckpointer() as saver:
            saved = functools.partial(
                rate_with_saves, training, CheckpointManager(directory, max_to_keep=3), saver, saves
            )
            saved()  # The first save also imports modules.
            taken = alternately(
                {
                    "saving": saved,
                    "not saving": functools.partial(training.train_steps_per_second, train_steps),
                },
                rounds,
            )
        costs = Ratios(slower - 1 for slower in Ratios.of(taken["not saving"], taken["saving"]))
        rows.append(
            Row(
                f"{name_of(config)}: train_steps/s saving, not saving",
                median(taken["saving"]),
                median(taken["not saving"]),
                costs.show(".1%"),
                "≤ 2 %",
                "yes" if costs.median <= 0.02 else "NO",
            )
        )
    return rows


def rate_with_saves(training: Training, checkpoints: CheckpointManager, saver: AsyncCheckpointer, saves: int) -> float:
    """Returns train_steps per second with the given number of saves; it waits for the last write."""
    extra = {"config": dataclasses.asdict(training.config)}
    started = time.perf_counter()
    for _ in range(saves):
        saver.save(checkpoints, int(training.state.train_step.numpy()), training.state.variables(), extra)
        training.advance(SAVE_EVERY)
    saver.wait()
    return saves * SAVE_EVERY / (time.perf_counter() - started)


# pytorch


INSTALL_TORCH = (
    "not measured: no PyTorch. Run python -m venv build/torch && build/torch/bin/pip install torch, then pass "
    "--torch_python=build/torch/bin/python"
)


class Torch:
    """The same training by PyTorch's nn.LSTM, in a process of its own: its packages may differ from the locked ones.

    Attributes:
        setting: its version and fastest setting.
    """

    def __init__(self, config: Config) -> None:
        sizes = (config.units, config.layers, config.batch_size, config.seq_length, config.precision)
        command = [os.environ["TORCH_PYTHON"], str(Path(__file__).with_name("torch_lstm.py")), *map(str, sizes)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.setting = self._read()

    def train_steps_per_second(self, train_steps: int) -> float:
        """Measures the given number of train_steps."""
        assert self._process.stdin is not None
        print(train_steps, file=self._process.stdin, flush=True)
        return train_steps / float(self._read())

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line.strip()
        raise SystemExit(f"benchmarks/torch_lstm.py ended with status {self._process.wait()}")


def measure_pytorch(dataset: str | None, rounds: int) -> list[Row]:
    """Compares train_steps on the CPU with PyTorch's: LSTM layers, the tutorial's losses and Adam, on equal batches."""
    tf.config.set_visible_devices([], "GPU")
    if subprocess.run([os.environ["TORCH_PYTHON"], "-c", "import torch"], check=False, capture_output=True).returncode:
        return [Row("nn.LSTM of PyTorch", INSTALL_TORCH)]
    table, rows = load(dataset), []
    for units, windows in ((256, 32), (512, 64)):
        for precision in ("float32", "mixed_bfloat16"):
            config = TUTORIAL.replace(
                units=units, layers=2, batch_size=windows, seq_length=128, precision=precision, deterministic=False
            )
            training = Training(config, WindowSampler(table, config), configure_devices(config))
            torch = Torch(config)
            taken = alternately(
                {
                    "ours": training.train_steps_per_second,
                    "PyTorch": functools.partial(torch.train_steps_per_second, training.sample),
                },
                rounds,
            )
            torch.close()
            ratios = Ratios.of(taken["ours"], taken["PyTorch"])
            rows.append(
                Row(
                    f"{name_of(config)}, {precision}: train_steps/s",
                    median(taken["ours"], ",.2f"),
                    f"{median(taken['PyTorch'], ',.2f')} ({torch.setting})",
                    ratios.show(".2f"),
                    *at_least(1, ratios, ".1f"),
                )
            )
    return rows


PARTS: Mapping[str, Callable[[str | None, int], list[Row]]] = {
    "input": measure_input,
    "fit": measure_fit,
    "peak": measure_peak,
    "replicas": measure_replicas,
    "checkpoint": measure_checkpoint,
    "pytorch": measure_pytorch,
}
