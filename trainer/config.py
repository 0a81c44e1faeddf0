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

from sostenuto import storage
from sostenuto.errors import UserError

CONFIG_NAME = "config.json"

# These may differ between the run that began a workdir and the one that resumes it: they say when to stop, what to
# keep and how the work is shared out, not what is computed.
CHANGEABLE_ON_RESUME = frozenset(
    {
        *("steps", "epochs", "max_minutes", "patience", "evaluate_every"),
        *("checkpoint_every", "max_to_keep", "log_every", "replicas"),
    }
)
LENGTH_FIELDS = ("steps", "epochs", "max_minutes")

_AT_LEAST_1 = (
    *("seq_length", "units", "layers", "head_units", "batch_size", "max_to_keep"),
    *("pitch_embedding", "time_embedding", "velocity_embedding", "accumulation_steps"),
)
_AT_LEAST_0 = (
    *("recent_embedding", "head_blocks"),
    *("pitch_weight", "step_weight", "duration_weight", "velocity_weight", "weight_decay", "clip_norm"),
    *("warmup_steps", "patience", "evaluate_every", "replicas", "log_every", "checkpoint_every"),
    *LENGTH_FIELDS,
)


# Groups of fields, as `--help` shows them.
_MODEL = "model"
_LOSSES = "losses"
_DATA = "training data"
_OPTIMIZER = "optimizer"
_LENGTH = "length of training and scores"
_DEVICES = "devices and hosts"
_REPORTS = "reports and checkpoints"


def _field(default: Any, help: str, choices: tuple[str, ...] = (), *, group: str = "training") -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "group": group})


@dataclasses.dataclass(frozen=True)
class Config:
    """Every choice of a training run. The help of each field is the help of its flag.

    Raises:
        UserError: on construction, when a field is out of its range; the message names the field.
    """

    preset: str = _field("base", "Preset that this config started from.")

    model: str = _field(
        "density",
        "Density predicts distributions of pitch, step, duration and velocity, each given the fields before it. "
        "Regression predicts pitch logits and the conditional mean of step and duration.",
        ("density", "regression"),
        group=_MODEL,
    )
    positions: str = _field(
        "every",
        "Targets of a window: every note, of windows that do not overlap; or only the note after the last one, of "
        "windows that start at every note.",
        ("every", "last"),
        group=_MODEL,
    )
    seq_length: int = _field(128, "Notes in a training window.", group=_MODEL)
    units: int = _field(256, "Units of each LSTM layer.", group=_MODEL)
    layers: int = _field(2, "LSTM layers.", group=_MODEL)
    pitch_embedding: int = _field(96, "Size of the pitch embedding (density).", group=_MODEL)
    time_embedding: int = _field(48, "Size of the step and of the duration embedding (density).", group=_MODEL)
    velocity_embedding: int = _field(32, "Size of the velocity embedding (density).", group=_MODEL)
    recent_embedding: int = _field(
        64,
        "Size of the embedding of the last 32 notes: their keys, and when they end (density); 0 disables it.",
        group=_MODEL,
    )
    head_units: int = _field(128, "Hidden units of each head (density).", group=_MODEL)
    head_blocks: int = _field(1, "Residual blocks of each head (density); 0 leaves one hidden layer.", group=_MODEL)
    time_distribution: str = _field(
        "bins",
        "Distribution of step and duration over ticks of 10 ms (density): a softmax over logarithmic bins, or a "
        "mixture of logistic distributions of the time's logarithm.",
        ("bins", "logistics"),
        group=_MODEL,
    )
    mixtures: int = _field(10, "Components of the mixture of a time (logistics).", group=_MODEL)
    dropout: float = _field(
        0.0, "Fraction of the activations dropped after each LSTM layer in training; 0 disables dropout.", group=_MODEL
    )
    pitch_weight: float = _field(1.0, "Weight of the pitch loss.", group=_LOSSES)
    step_weight: float = _field(1.0, "Weight of the step loss.", group=_LOSSES)
    duration_weight: float = _field(1.0, "Weight of the duration loss.", group=_LOSSES)
    velocity_weight: float = _field(1.0, "Weight of the velocity loss (density).", group=_LOSSES)

    train_fraction: float = _field(
        1.0, "Fraction of the training performances to use, always the same ones.", group=_DATA
    )
    transpose: int = _field(
        6, "Transpose training windows up or down by at most this many semitones; 0 disables it.", group=_DATA
    )
    stretch: float = _field(
        0.0,
        "Play training windows faster or slower by at most this fraction, such as 0.05; 0 disables it.",
        group=_DATA,
    )

    batch_size: int = _field(32, "Windows in a global batch, over all replicas of all hosts.", group=_OPTIMIZER)
    accumulation_steps: int = _field(
        1,
        "Global batches whose gradients are summed for one train_step, for batches larger than the memory.",
        group=_OPTIMIZER,
    )
    optimizer: str = _field("adamw", "Optimizer.", ("adam", "adamw"), group=_OPTIMIZER)
    learning_rate: float = _field(2e-3, "Peak learning rate.", group=_OPTIMIZER)
    schedule: str = _field(
        "cosine",
        "Learning rate after warm-up: constant, or a cosine down to a hundredth of the peak.",
        ("constant", "cosine"),
        group=_OPTIMIZER,
    )
    warmup_steps: int = _field(
        100, "train_steps over which the learning rate rises from zero; 0 disables warm-up.", group=_OPTIMIZER
    )
    weight_decay: float = _field(
        0.01,
        "Decoupled weight decay (adamw) of the matrices of LSTM and dense layers; 0 disables it.",
        group=_OPTIMIZER,
    )
    clip_norm: float = _field(1.0, "Maximum global gradient norm; 0 disables clipping.", group=_OPTIMIZER)

    ema: float = _field(
        0.0,
        "Decay of a moving average of the weights, which is scored, kept as the best and exported; 0 disables it.",
        group=_OPTIMIZER,
    )

    steps: int = _field(0, "Train for this many train_steps; 0 disables this limit.", group=_LENGTH)
    epochs: int = _field(0, "Train for this many epochs; 0 disables this limit.", group=_LENGTH)
    max_minutes: float = _field(
        25.0,
        "Train as many train_steps as fit into this many minutes, start-up included; 0 disables this limit.",
        group=_LENGTH,
    )
    monitor: str = _field(
        "val_nats",
        "Score that decides which weights are best: nats/note on the validation split, or the training loss.",
        ("val_nats", "loss"),
        group=_LENGTH,
    )
    evaluate_every: int = _field(
        500,
        "train_steps between scores of the validation split, at most. With max_minutes there are more scores where "
        "they are cheap. 0 disables them.",
        group=_LENGTH,
    )
    patience: int = _field(
        0, "Stop after this many scores of `monitor` without a better one; 0 never stops early.", group=_LENGTH
    )

    precision: str = _field(
        "float32",
        "Arithmetic of LSTM and hidden layers. Logits, losses and optimizer use float32, or float64 with float64.",
        ("float32", "mixed_bfloat16", "mixed_float16", "float64"),
        group=_DEVICES,
    )
    replicas: int = _field(
        0, "Model copies on a host, one a device; 0 uses all visible GPUs, or else one on the CPU.", group=_DEVICES
    )
    seed: int = _field(0, "Seed of initial weights, windows, augmentation and dropout.", group=_DATA)
    deterministic: bool = _field(
        True, "Use only deterministic kernels, so that equal runs give equal weights bit for bit.", group=_DEVICES
    )

    log_every: int = _field(
        50, "train_steps between reports to metrics.jsonl and TensorBoard; 0 reports once an epoch.", group=_REPORTS
    )
    checkpoint_every: int = _field(250, "train_steps between checkpoints; 0 saves once an epoch.", group=_REPORTS)
    max_to_keep: int = _field(3, "Checkpoints to keep, besides the best one.", group=_REPORTS)

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
        self._require(0 < self.train_fraction <= 1, "train_fraction", "above 0 and at most 1")
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
                "give evaluate_every=0 and score it with sostenuto evaluate"
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
        return self.batch_size * self.accumulation_steps

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
    "tutorial": Config(
        preset="tutorial",
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
        max_to_keep=50,
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
