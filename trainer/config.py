"""What a training run is: one frozen dataclass, its presets, and the file it is kept in.

A preset is a config and a config is a file: `workdir/config.json` holds every field, and `--config` takes it back.
"""

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from notes import storage
from notes.errors import UserError

CONFIG_NAME = "config.json"

# These may differ between the run that began a workdir and the one that resumes it: they say when to stop, what to
# keep and how the work is shared out, not what is computed.
CHANGEABLE_ON_RESUME = frozenset(
    {
        *("steps", "epochs", "max_minutes", "patience", "evaluate_every"),
        *("checkpoint_every", "keep", "log_every", "replicas"),
    }
)
LENGTH_FIELDS = ("steps", "epochs", "max_minutes")

_AT_LEAST_1 = (
    *("seq_length", "units", "layers", "head_units", "batch_size", "keep"),
    *("pitch_embedding", "time_embedding", "velocity_embedding", "accumulate"),
)
_AT_LEAST_0 = (
    *("recent_embedding", "head_blocks"),
    *("pitch_weight", "step_weight", "duration_weight", "velocity_weight", "weight_decay", "clip_norm"),
    *("warmup_steps", "patience", "evaluate_every", "replicas", "log_every", "checkpoint_every"),
    *LENGTH_FIELDS,
)


def _field(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Config:
    """Every choice of a training run. The help of each field is the help of its flag.

    Raises:
        UserError: on construction, when a field is out of its range; the message names the field.
    """

    preset: str = _field("base", "the preset that this config started from")

    model: str = _field(
        "density",
        "density: distributions of pitch, step, duration and velocity, each given the fields before it; "
        "regression: pitch logits and the conditional mean of step and duration",
        ("density", "regression"),
    )
    positions: str = _field(
        "every",
        "every: each note of a window is a target, windows do not overlap; last: only the note after the window is, "
        "windows start at every note",
        ("every", "last"),
    )
    seq_length: int = _field(128, "notes in a training window")
    units: int = _field(256, "units of each LSTM layer")
    layers: int = _field(2, "LSTM layers")
    pitch_embedding: int = _field(96, "size of the pitch embedding (density)")
    time_embedding: int = _field(48, "size of the step and of the duration embedding (density)")
    velocity_embedding: int = _field(32, "size of the velocity embedding (density)")
    recent_embedding: int = _field(
        64, "size of the vector of what the last 32 notes left at the keys, and when they end (density); 0: none"
    )
    head_units: int = _field(128, "hidden units of each head (density)")
    head_blocks: int = _field(1, "residual blocks of each head; 0: one hidden layer (density)")
    time_distribution: str = _field(
        "bins",
        "how step and duration are distributed over ticks of 10 ms (density): bins: a softmax over logarithmic "
        "bins; logistics: a mixture of logistic distributions of the time's logarithm",
        ("bins", "logistics"),
    )
    mixtures: int = _field(10, "components of the mixture of a time (logistics)")
    dropout: float = _field(0.0, "share of the activations dropped after each LSTM layer while training")
    pitch_weight: float = _field(1.0, "weight of the pitch loss")
    step_weight: float = _field(1.0, "weight of the step loss")
    duration_weight: float = _field(1.0, "weight of the duration loss")
    velocity_weight: float = _field(1.0, "weight of the velocity loss (density)")

    corpus_share: float = _field(1.0, "share of the training performances that are used, always the same ones")
    transpose: int = _field(6, "training windows are transposed by up to so many semitones, up or down")
    stretch: float = _field(0.0, "training windows are played up to this share faster or slower, such as 0.05")

    batch_size: int = _field(32, "windows in a global batch, over all replicas of all hosts")
    accumulate: int = _field(
        1, "global batches whose gradients are summed for one train_step: the batch of so many times more memory"
    )
    optimizer: str = _field("adamw", "the optimizer", ("adam", "adamw"))
    learning_rate: float = _field(2e-3, "peak learning rate")
    schedule: str = _field(
        "cosine",
        "what the learning rate does after warm-up: constant, or cosine down to a hundredth",
        ("constant", "cosine"),
    )
    warmup_steps: int = _field(100, "train_steps over which the learning rate rises from zero")
    weight_decay: float = _field(0.01, "decoupled weight decay (adamw), on matrices of the LSTM and of dense layers")
    clip_norm: float = _field(1.0, "gradients are scaled down to this global norm; 0: never")

    ema: float = _field(
        0.0, "decay of a moving average of the weights, which is then scored, kept as the best and exported; 0: none"
    )

    steps: int = _field(0, "train for so many train_steps")
    epochs: int = _field(0, "train for so many epochs")
    max_minutes: float = _field(25.0, "train as many train_steps as fit into this time, start-up included")
    monitor: str = _field(
        "val_nats", "what decides the best weights: nats/note on validation, or the training loss", ("val_nats", "loss")
    )
    evaluate_every: int = _field(500, "score the validation split each so many train_steps (and at the end); 0: never")
    patience: int = _field(0, "stop after so many measurements of `monitor` without a better one; 0: never")

    precision: str = _field(
        "float32",
        "arithmetic of LSTM and hidden layers; logits, losses and optimizer stay in float32 (float64: everywhere)",
        ("float32", "mixed_bfloat16", "mixed_float16", "float64"),
    )
    replicas: int = _field(0, "model copies on a host, one a device; 0: one per visible GPU, or one on the CPU")
    seed: int = _field(0, "seed of initial weights, windows, augmentation and dropout")
    deterministic: bool = _field(
        True, "use only deterministic kernels, so that equal runs give equal weights bit for bit"
    )

    log_every: int = _field(50, "report to metrics.jsonl and TensorBoard each so many train_steps; 0: once an epoch")
    checkpoint_every: int = _field(250, "save a checkpoint each so many train_steps; 0: once an epoch")
    keep: int = _field(3, "checkpoints kept, besides the best one")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field, getattr(self, field.name))
        for name in _AT_LEAST_1:
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in _AT_LEAST_0:
            self._require(getattr(self, name) >= 0, name, "at least 0")
        self._require(1 <= self.mixtures <= 100, "mixtures", "1 to 100")
        self._require(0 <= self.dropout < 1, "dropout", "at least 0 and below 1")
        self._require(0 <= self.transpose <= 24, "transpose", "0 to 24")
        self._require(0 <= self.stretch < 1, "stretch", "at least 0 and below 1")
        self._require(0 < self.corpus_share <= 1, "corpus_share", "above 0 and at most 1")
        self._require(0 <= self.ema < 1, "ema", "at least 0 and below 1")
        self._require(self.learning_rate > 0, "learning_rate", "above 0")
        self._require(0 <= self.seed < 2**31, "seed", "0 to 2147483647")
        if self.pitch_weight + self.step_weight + self.duration_weight == 0:
            raise UserError("config: pitch_weight, step_weight and duration_weight are all 0: nothing would be learned")
        if sum(getattr(self, name) > 0 for name in LENGTH_FIELDS) != 1:
            given = {name: getattr(self, name) for name in LENGTH_FIELDS}
            raise UserError(f"config: expected exactly one of steps, epochs and max_minutes above 0, got {given}")
        if self.monitor == "val_nats" and self.patience and not self.evaluate_every:
            raise UserError("config: patience with monitor=val_nats needs evaluate_every above 0")
        if self.model == "regression" and self.evaluate_every:
            raise UserError(
                "config: evaluate_every needs model=density, since a regression model has no densities to score: "
                "give evaluate_every=0 and score it with trainer.evaluate"
            )

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise UserError(f"config: {name}={getattr(self, name)}: expected {expected}")

    @property
    def full_precision(self) -> str:
        """The type of the weights, and of all that `precision` does not compute in less."""
        return "float64" if self.precision == "float64" else "float32"

    @property
    def windows_per_train_step(self) -> int:
        """The windows of one optimizer update."""
        return self.batch_size * self.accumulate

    def replace(self, **changes: Any) -> "Config":
        """A copy with some fields changed; naming one of steps, epochs and max_minutes unsets the other two."""
        if any(changes.get(name) for name in LENGTH_FIELDS):
            changes = {**dict.fromkeys(LENGTH_FIELDS, 0), **changes}
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """The text of a config file."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @staticmethod
    def from_json(text: str, name: str) -> "Config":
        """Reads a config file's text; fields left out are those of the preset it names, `base` by default.

        Args:
            text: what the file holds.
            name: how messages call it.

        Raises:
            UserError: it is no JSON object, or a field is unknown or out of its range.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{name}: expected a JSON object of config fields, got no JSON ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f"{name}: expected a JSON object of config fields, got {type(values).__name__}")
        known = {field.name: field for field in dataclasses.fields(Config)}
        for key, value in values.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                raise UserError(f"{name}: unknown field {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
            if known[key].type is float and isinstance(value, int) and not isinstance(value, bool):
                values[key] = float(value)
        return preset(values.get("preset", "base")).replace(**values)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Config":
        """Reads a config file.

        Raises:
            UserError: no such file, or what `from_json` raises.
        """
        if not storage.exists(path):
            raise UserError(f"{os.fspath(path)}: no such config file")
        return Config.from_json(storage.read_bytes(path).decode("utf-8", "replace"), os.fspath(path))

    def fixed(self) -> dict[str, Any]:
        """Returns the fields that a resumed run must have in common with the run that it resumes."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in CHANGEABLE_ON_RESUME}


def _check_type(field: dataclasses.Field, value: Any) -> None:
    expected: Any = field.type
    kinds = (int, float) if expected is float else (expected,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and expected is not bool):
        raise UserError(f"config: {field.name}={value!r}: expected {expected.__name__}, got {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config: {field.name}={value}: expected a finite number")
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise UserError(f"config: {field.name}={value!r}: expected one of {', '.join(choices)}")


PRESETS: Mapping[str, Config] = {
    # A first model for real use: every position a target, a density for every field.
    "base": Config(),
    # As large as one GPU trains well on a corpus of MAESTRO's size; at home on a CPU only for measuring.
    "large": Config(
        preset="large",
        seq_length=256,
        units=512,
        layers=3,
        head_units=256,
        dropout=0.3,
        stretch=0.1,
        batch_size=64,
        learning_rate=1e-3,
        warmup_steps=500,
        weight_decay=0.1,
        ema=0.999,
        epochs=40,
        max_minutes=0.0,
    ),
    # The well-known tutorial's model and training, for comparison; only windows that stay within a performance and a
    # fresh shuffle each epoch are ours.
    "seed": Config(
        preset="seed",
        model="regression",
        positions="last",
        seq_length=25,
        units=128,
        layers=1,
        pitch_weight=0.05,
        transpose=0,
        batch_size=64,
        optimizer="adam",
        learning_rate=0.005,
        schedule="constant",
        warmup_steps=0,
        weight_decay=0.0,
        clip_norm=0.0,
        epochs=50,
        max_minutes=0.0,
        monitor="loss",
        patience=5,
        evaluate_every=0,
        log_every=0,
        checkpoint_every=0,
        keep=50,
    ),
}


def preset(name: str) -> Config:
    """The preset of that name.

    Raises:
        UserError: there is none; the message lists those that are.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise UserError(f"preset {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
