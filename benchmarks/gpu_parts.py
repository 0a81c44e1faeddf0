"""The measurements of `gpu.py`; each runs in its own process and returns rows: what, result, expected, ok."""

import hashlib
import itertools
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from compare_checkouts import compare_weights
from train_parts import (
    BASE,
    LARGE,
    MATRIX_SIZES,
    SAMPLE_SECONDS,
    TUTORIAL,
    Ratios,
    Training,
    alternately,
    gflops_of_products,
    load,
    name_of,
)

from sostenuto.data.manifest import SPLITS, Manifest, Shard, Split, Statistics
from sostenuto.data.performance import Performance, encode_performance
from sostenuto.data.tfrecord import write_records
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import Notes
from trainer.config import Config
from trainer.data.windows import WindowSampler
from trainer.distribution.devices import configure_devices, device_name
from trainer.distribution.strategy import create_strategy
from trainer.engine.train_state import TrainState
from trainer.generation.sampler import NoteSampler
from trainer.model.next_note import build_model

REPOSITORY = Path(__file__).resolve().parent.parent
TRAIN_STEPS = 50  # of the comparisons of weights
# Largest relative distance of weights after as many train_steps. On a CPU, two implementations of the LSTM end 1.6e-7
# apart in float32. bfloat16, which has three bits less than TF32, ends 2.7e-3 apart from float32.
LIMITS = {"float64": 1e-9, "float32": 1e-4, "TF32": 3e-3}
SMALL = {"units": 24, "layers": 1, "head_units": 16, "seq_length": 12, "batch_size": 8}
SMALL_SECONDS = 0.2  # of a measurement


class Row(NamedTuple):
    """A line of the table, after its part."""

    what: str
    result: str
    expected: str = "–"
    ok: str = "–"


def describe_machine() -> tuple[int, str]:
    """Returns the number of GPUs, and names of devices, driver and libraries."""
    gpus = tf.config.list_physical_devices("GPU")
    build = tf.sysconfig.get_build_info()
    versions = [f"TensorFlow {tf.__version__}"]
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", ("?", "?"))
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
        versions += [
            f"compute capability {capability[0]}.{capability[1]}",
            f"driver {driver[0] if driver else 'unknown'}",
            f"built for CUDA {build.get('cuda_version')} and cuDNN {build.get('cudnn_version')}",
        ]
    name = device_name([f"GPU:{index}" for index in range(len(gpus))] or ["CPU:0"])
    return len(gpus), "; ".join([name, *versions])


def shrink(config: Config, small: bool) -> Config:
    """Returns the config, or that of a small model."""
    return config.replace(**SMALL) if small else config


def preset_config(preset: str, small: bool) -> Config:
    """Returns a preset's config for a measurement of speed; every position is a target."""
    return shrink({"tutorial": TUTORIAL, "base": BASE, "large": LARGE}[preset], small)


def all_devices(config: Config) -> list[str]:
    """Configures and names all GPUs, or two logical devices of the CPU."""
    count = len(tf.config.list_physical_devices("GPU")) or 2
    return configure_devices(config.replace(replicas=count, batch_size=config.batch_size * count))


# cpu, replicas


class Trained(NamedTuple):
    """Outcome of some train_steps: all weights in one vector, their relative change, and the mean loss."""

    weights: np.ndarray
    moved: float
    loss: float


def train(config: Config, windows: WindowSampler, devices: list[str], *, cudnn: bool) -> Trained:
    """Trains for `TRAIN_STEPS` from the same start."""
    strategy = create_strategy(devices)
    with strategy.scope():
        state = TrainState(config, windows, strategy)
    state.model.cudnn = cudnn

    def weights() -> np.ndarray:
        return np.concatenate([weight.numpy().ravel() for weight in state.model.trainable_variables])

    start = weights()
    state.run(TRAIN_STEPS)
    if problem := state.not_finite():
        raise RuntimeError(f"{config.precision} on {', '.join(devices)}: not finite: {problem}")
    sums = state.pop_sums()
    return Trained(weights(), distance(weights(), start), sums.objective / sums.targets)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the relative distance of two vectors."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def compare(what: str, one: Trained, other: Trained, limit: float) -> Row:
    """Compares two outcomes."""
    apart = distance(one.weights, other.weights)
    losses = f"losses {one.loss:.5f} and {other.loss:.5f}"
    result = f"weights {apart:.1e} apart after {TRAIN_STEPS} train_steps that moved them by {other.moved:.1e}; {losses}"
    return Row(f"{what}: weights", result, f"≤ {limit:g}", "yes" if apart <= limit < other.moved else "NO")


def checked_config(small: bool, devices: int) -> Config:
    """Returns the config whose weights are compared: with all that is random."""
    config = shrink(TUTORIAL if small else BASE, small).replace(dropout=0.3, stretch=0.1, transpose=5, warmup_steps=5)
    return config.replace(batch_size=-(-config.batch_size // devices) * devices)


def check_cpu(small: bool) -> list[Row]:
    """Compares a GPU with the CPU; without a GPU, Keras' LSTM layer with the trainer's own."""
    config, table = checked_config(small, 1), load(None)
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    devices = configure_devices(config)
    rows = []
    for arithmetic in LIMITS if has_gpu else ("float64", "float32"):
        config = config.replace(precision="float64" if arithmetic == "float64" else "float32")
        windows = WindowSampler(table, config)
        tf.config.experimental.enable_tensor_float_32_execution(arithmetic == "TF32")
        one = train(config, windows, devices, cudnn=True)
        other = train(config, windows, ["CPU:0"], cudnn=False)
        pair = "GPU and CPU" if has_gpu else "Keras' LSTM layer and the trainer's"
        rows.append(compare(f"{name_of(config)}, {arithmetic}, {pair}", one, other, LIMITS[arithmetic]))
    return rows


def check_replicas(small: bool) -> list[Row]:
    """Compares one device with all of them."""
    if len(tf.config.list_physical_devices("GPU")) == 1:
        return [Row("1 and N GPUs: weights", "not measured: a single GPU")]
    devices = all_devices(checked_config(small, 1))
    config = checked_config(small, len(devices)).replace(precision="float64")
    windows, cudnn = WindowSampler(load(None), config), devices[0].startswith("GPU")
    one, all_of_them = (train(config, windows, some, cudnn=cudnn) for some in (devices[:1], devices))
    what = f"{name_of(config)}, float64, {devices[0]} and {len(devices)} devices"
    return [compare(what, all_of_them, one, LIMITS["float64"])]


# resume


def check_resume(small: bool) -> list[Row]:
    """Compares a run that is killed and resumed with one that is not, bit for bit, in processes of the trainer."""
    devices = max(len(tf.config.list_physical_devices("GPU")), 1)
    config = checked_config(small, devices)
    steps = 40 if small else 800
    config = config.replace(
        replicas=0, steps=steps, evaluate_every=0, checkpoint_every=steps // 4, log_every=steps // 8, monitor="loss"
    )
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_dataset(directory / "dataset")
        (directory / "config.json").write_text(config.to_json())
        command = [sys.executable, "-m", "trainer", f"--data={directory / 'dataset'}", "--samples=0", "--quiet"]
        command.append(f"--config={directory / 'config.json'}")
        whole, killed = ([*command, f"--workdir={directory / name}"] for name in ("whole", "killed"))
        with subprocess.Popen(whole, cwd=REPOSITORY) as other:
            with subprocess.Popen(killed, cwd=REPOSITORY) as process:
                at = kill_after(process, directory / "killed", steps * 3 // 8)
            subprocess.run(killed, cwd=REPOSITORY, check=True)
        if other.returncode:
            raise RuntimeError(f"the run that is not killed ended with status {other.returncode}")
        same, detail = compare_weights(directory / "whole", directory / "killed")
    what = f"{name_of(config)}, {devices} device{'s' * (devices > 1)}, killed at train_step {at} of {steps}: variables"
    return [Row(what, detail, "all bits equal", "yes" if same else "NO")]


def kill_after(process: subprocess.Popen, workdir: Path, train_step: int) -> int:
    """Kills a run once it has reported a train_step and has a checkpoint; returns the last reported train_step."""
    metrics, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"
    while process.poll() is None:
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        reported = max((json.loads(line)["train_step"] for line in lines if line.endswith("\n")), default=0)
        if (
            reported >= train_step
            and checkpoints.exists()
            and any(path.name.isdigit() for path in checkpoints.iterdir())
        ):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return reported
        time.sleep(0.005)
    raise RuntimeError(f"the run that was to be killed ended first, with status {process.returncode}")


def to_notes(table: np.ndarray) -> Notes:
    """Returns the notes of a table's rows."""
    columns = {field: table[field].astype(np.int64) for field in table.dtype.names or ()}
    columns["step_us"][0] = 0  # time starts with the first note
    return Notes(**columns)


def write_dataset(directory: Path) -> None:
    """Writes a dataset of random notes."""
    directory.mkdir()
    table = load(None).notes[:200_000]
    splits, distributions = {}, {}
    for split in SPLITS:
        parts = np.array_split(table, 50)
        music = [to_notes(part) for part in parts]
        path = directory / f"{split}-00000-of-00001.tfrecord"
        with path.open("wb") as file:
            write_records(
                file,
                (
                    encode_performance(Performance(f"{split}/{index}.mid", f"{split}-{index}", split, "", "", 0, notes))
                    for index, notes in enumerate(music)
                ),
            )
        data = path.read_bytes()
        shard = Shard(path.name, len(music), len(data), hashlib.sha256(data).hexdigest())
        splits[split] = Split(len(music), len(table), sum(notes.seconds for notes in music), (shard,))
        distributions[split] = Statistics(histograms=sum(map(Histograms.from_notes, music), Histograms.zeros()))
    Manifest({"files": len(SPLITS)}, {}, splits, {}, distributions).save(directory)


# speed


def measure_speed(small: bool, rounds: int, preset: str, precision: str, deterministic: bool = True) -> list[Row]:
    """Measures a preset on one device: notes per second, fraction of the peak, memory and kernels."""
    config = preset_config(preset, small).replace(precision=precision, deterministic=deterministic)
    devices = configure_devices(config)
    training = Training(config, WindowSampler(load(None), config), devices, seconds=sample_seconds(small))
    what = f"{name_of(config)}, {precision}{'' if deterministic else ', not deterministic'}"
    facts = []
    if has_gpu := devices[0].startswith("GPU"):
        kernels = profile(training)
        memory = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        facts = [f"{memory / 2**30:.2f} GiB", f"{len(kernels) / 3:,.0f} kernels a train_step"]
    dtype = tf.as_dtype(precision.removeprefix("mixed_"))
    sizes = (256,) if small else MATRIX_SIZES
    products = {f"products of {size}": gflops_of_products(size, dtype, sample_seconds(small) / 3) for size in sizes}
    taken = alternately({"training": training.train_steps_per_second, **products}, rounds)
    rates = taken.pop("training")
    peaks = [max(series) for series in zip(*taken.values(), strict=True)]
    fractions = Ratios.of([rate * training.flops / 1e9 for rate in rates], peaks)
    rate = statistics.median(rates)
    result = [
        f"{rate * config.batch_size * config.seq_length:,.0f} notes/s",
        f"{1000 / rate:.1f} ms a train_step",
        f"{fractions.median:.1%} of {statistics.median(peaks) / 1000:,.2f} TFLOP/s",
        *facts,
    ]
    if not has_gpu:
        return [Row(what, ", ".join(result))]
    return [Row(what, ", ".join(result), "cuDNN's RNN runs", "yes" if uses_cudnn(kernels) else "NO")]


def sample_seconds(small: bool) -> float:
    """Returns how long a measurement takes."""
    return SMALL_SECONDS if small else SAMPLE_SECONDS


Kernel = tuple[str, list[str]]  # a kernel's name, and the texts among its statistics


def profile(training: Training) -> list[Kernel]:
    """Returns the kernels of three train_steps."""
    with tempfile.TemporaryDirectory() as directory:
        tf.profiler.experimental.start(directory)
        training.advance(3)
        tf.profiler.experimental.stop()
        kernels = list(kernels_in_profile(Path(directory)))
    if not kernels:
        raise RuntimeError("the profile has no GPU kernel. Install nvidia-cuda-cupti-cu12 of the locked version")
    return kernels


def uses_cudnn(kernels: list[Kernel]) -> bool:
    """Returns whether kernels of cuDNN's RNN are among them."""
    # The name of a cuDNN kernel, or of the operation that launched it, contains cuDNN's. Layer names prove nothing: the
    # fallback's operations contain them too.
    return any(
        re.search("rnn|lstm", kernel, re.IGNORECASE) or any("CudnnRNN" in text for text in texts)
        for kernel, texts in kernels
    )


def kernels_in_profile(directory: Path) -> Iterator[Kernel]:
    """Yields each GPU kernel in a profile."""
    # No public module reads the profiler's files.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    for path in directory.rglob("*.xplane.pb"):
        for plane in xplane_pb2.XSpace.FromString(path.read_bytes()).planes:
            on_gpu = plane.name.startswith("/device:GPU")
            streams = [line for line in plane.lines if on_gpu and line.name.startswith("Stream")]
            for event in itertools.chain.from_iterable(line.events for line in streams):
                texts = [stat.str_value or plane.stat_metadata[stat.ref_value].name for stat in event.stats]
                yield plane.event_metadata[event.metadata_id].name, texts


# batch, scaling


def measure_batch(small: bool, rounds: int, preset: str) -> list[Row]:
    """Measures batches of several sizes on one device."""
    config = preset_config(preset, small)
    devices, table = configure_devices(config), load(None)
    rates = {}
    for factor in (1, 2) if small else (1, 2, 4, 8):
        larger = config.replace(batch_size=factor * config.batch_size)
        training = Training(larger, WindowSampler(table, larger), devices, seconds=sample_seconds(small))
        rates[larger.batch_size] = statistics.median(training.train_steps_per_second() for _ in range(rounds))
    series = [
        f"{size}: {1000 / rate:.1f} ms ({rate * size * config.seq_length:,.0f} notes/s)" for size, rate in rates.items()
    ]
    return [Row(f"{name_of(config)}, float32: ms a train_step by batch size", ", ".join(series))]


def measure_scaling(small: bool, rounds: int, preset: str) -> list[Row]:
    """Measures as many windows a device on more and more devices."""
    if len(tf.config.list_physical_devices("GPU")) == 1:
        return [Row(f"{preset}: 1 → N GPUs", "not measured: a single GPU")]
    config = preset_config(preset, small)
    devices, table = all_devices(config), load(None)
    counts = sorted({count for count in (1, 2, 4, 8, 16) if count < len(devices)} | {len(devices)})
    trainings = {}
    for count in counts:
        larger = config.replace(batch_size=count * config.batch_size)
        windows = WindowSampler(table, larger)
        trainings[count] = Training(larger, windows, devices[:count], seconds=sample_seconds(small))
    measured = alternately({str(count): training.notes_per_second for count, training in trainings.items()}, rounds)
    notes = {count: statistics.median(measured[str(count)]) for count in counts}
    series = [f"{count}: {rate:,.0f} ({rate / count / notes[1]:.0%})" for count, rate in notes.items()]
    what = f"{name_of(config)} on each {devices[0][:3]}, float32: notes/s by devices (of the ideal)"
    return [Row(what, ", ".join(series))]


# generation


def measure_generation(small: bool, rounds: int, preset: str) -> list[Row]:
    """Measures the sampler, with weights as they are before training."""
    config = preset_config(preset, small)
    configure_devices(config)
    sampler = NoteSampler(build_model(config))
    primer = to_notes(load(None).notes[:1])
    series = []
    for samples in (2,) if small else (1, 8, 64):
        rates = []
        for _ in range(rounds):
            made = sampler.sample(
                primer, num_notes=64 if small else 512, num_samples=samples, temperature=1.0, seed=0, end_odds=0.0
            )
            rates.append(made.notes_per_second)
        rate = statistics.median(rates)
        series.append(f"{samples}: {rate:,.0f} ({1000 * samples / rate:.2f} ms a note)")
    return [Row(f"{name_of(config)}: generated notes/s by samples", ", ".join(series))]
