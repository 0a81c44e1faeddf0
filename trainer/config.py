"""Configuration of a training run: a frozen dataclass whose fields are the trainer's flags."""

import dataclasses
import functools
import json
import math
from typing import Any, Final, NamedTuple

from sostenuto.errors import UserError

CONFIG_NAME: Final = "config.json"

# Fields that a resumed run may change: they decide when to stop, what to keep and how to share the work, not what is
# computed.
CHANGEABLE_ON_RESUME = frozenset((
    "steps", "epochs", "max_minutes", "patience", "evaluate_every", "checkpoint_every", "max_to_keep", "log_every",
    "replicas",
))  # fmt: skip
LENGTH_FIELDS = ("steps", "epochs", "max_minutes")


class Bounds(NamedTuple):
    """The range of a number: `minimum` and `maximum` are inclusive, `above` and `below` exclusive."""

    minimum: float = -math.inf
    above: float = -math.inf
    maximum: float = math.inf
    below: float = math.inf

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, int | float) and self.minimum <= value <= self.maximum and self.above < value < self.below
        )

    def __str__(self) -> str:
        words = ("at least", "above", "at most", "below")
        return " and ".join(
            f"{word} {limit:,}" for word, limit in zip(words, self, strict=True) if math.isfinite(limit)
        )


# Maxima stop a slip of the keyboard before it takes the machine's memory or days; real values are far below them.
MAX_STEPS: Final = 10**9
MAX_NOTES: Final = 100_000  # of a generated sample
MAX_SAMPLES: Final = 10_000
MAX_MINUTES: Final = 525_600  # a year

MAX_LSTM_WEIGHTS: Final = 2**31  # units x units x layers, about an eighth of the weights
MAX_ACTIVATIONS: Final = 2**36  # batch_size x seq_length x units x layers, over all hosts; each takes some 30 bytes

_FRACTION = Bounds(minimum=0, below=1)
_COUNT = Bounds(minimum=0, maximum=MAX_STEPS)
_WIDTH = Bounds(minimum=1, maximum=16_384)
_BATCH = Bounds(minimum=1, maximum=65_536)
_AT_LEAST_0 = Bounds(minimum=0)


def _field(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    *,
    group: str = "training",
    bounds: Bounds = _AT_LEAST_0,
    placeholder: str = "",
) -> Any:
    """Declares a field; `bounds` applies to numbers only, `placeholder` names the value of a text in `--help`."""
    metadata = {"help": help, "choices": choices, "group": group, "bounds": bounds, "placeholder": placeholder}
    return dataclasses.field(default=default, metadata=metadata)


# Groups of fields in `--help`.
_model = functools.partial(_field, group="model")
_start = functools.partial(_field, group="fine-tuning")
_loss = functools.partial(_field, group="losses")
_data = functools.partial(_field, group="training data")
_optimizer = functools.partial(_field, group="optimizer")
_length = functools.partial(_field, group="length of training and scores")
_device = functools.partial(_field, group="devices and hosts")
_report = functools.partial(_field, group="reports and checkpoints")


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a training run. The help of each field is the help of its flag.

    A new field gets its flag from `trainer.__main__`. `CHANGEABLE_ON_RESUME` lists the fields that do not change what
    is computed. tests/trainer/test_config.py lists valid and invalid values of each field.

    Raises:
        UserError: a field is out of its bounds, or fields contradict each other; the message names them.
    """

    preset: str = _field("base", "Preset that this config started from.")

    model: str = _model(
        "density",
        "Density predicts distributions of pitch, step, duration and velocity, each given the fields before it. "
        "Regression predicts pitch logits and the conditional mean of step and duration.",
        ("density", "regression"),
    )
    positions: str = _model(
        "every",
        "Targets of a window: every note, of windows that do not overlap; or only the note after the last one, of "
        "windows that start at every note.",
        ("every", "last"),
    )
    seq_length: int = _model(128, "Notes in a training window.", bounds=_WIDTH)
    units: int = _model(256, "Units of each LSTM layer.", bounds=_WIDTH)
    layers: int = _model(2, "LSTM layers.", bounds=Bounds(minimum=1, maximum=64))
    pitch_embedding: int = _model(96, "Size of the pitch embedding (density).", bounds=_WIDTH)
    time_embedding: int = _model(48, "Size of the step and of the duration embedding (density).", bounds=_WIDTH)
    velocity_embedding: int = _model(32, "Size of the velocity embedding (density).", bounds=_WIDTH)
    recent_embedding: int = _model(
        64,
        "Size of the embedding of the last 32 notes: their keys, and when they end (density); 0 disables it.",
        bounds=Bounds(minimum=0, maximum=16_384),
    )
    memory_units: int = _model(
        32,
        "Hidden units of the memory: what followed the newest notes where they occurred before in the performance "
        "(density); 0 disables it.",
        bounds=Bounds(minimum=0, maximum=16_384),
    )
    composer_embedding: int = _model(
        16,
        "Size of the composer embedding, for a dataset that names composers (density); 0 disables it.",
        bounds=Bounds(minimum=0, maximum=16_384),
    )
    head_units: int = _model(128, "Hidden units of each head (density).", bounds=_WIDTH)
    head_blocks: int = _model(
        1, "Residual blocks of each head (density); 0 leaves one hidden layer.", bounds=Bounds(minimum=0, maximum=64)
    )
    dropout: float = _model(
        0.0,
        "Fraction of the activations dropped after each LSTM layer in training; 0 disables dropout.",
        bounds=_FRACTION,
    )
    init_from: str = _start(
        "",
        "Start with the best weights of this workdir or export. A new run takes the source's model, and its preset "
        "unless --preset or --config is given.",
        placeholder="DIR",
    )
    freeze: str = _start(
        "",
        "Parts of the model that keep the weights of init_from, such as embedding,lstm_0.",
        placeholder="NAME,...",
    )
    pitch_weight: float = _loss(1.0, "Weight of the pitch loss.")
    step_weight: float = _loss(1.0, "Weight of the step loss.")
    duration_weight: float = _loss(1.0, "Weight of the duration loss.")
    velocity_weight: float = _loss(1.0, "Weight of the velocity loss (density).")
    end_weight: float = _loss(
        1.0,
        "Weight of the loss of the end of a performance (density, positions=every); 0 disables its prediction.",
    )

    train_fraction: float = _data(
        1.0, "Fraction of the training performances to use, always the same ones.", bounds=Bounds(above=0, maximum=1)
    )
    transpose: int = _data(
        6,
        "Transpose training windows up or down by at most this many semitones; 0 disables it.",
        bounds=Bounds(minimum=0, maximum=24),
    )
    stretch: float = _data(
        0.0,
        "Play training windows faster or slower by at most this fraction, such as 0.05; 0 disables it.",
        bounds=_FRACTION,
    )

    composer_dropout: float = _data(
        0.1,
        "Fraction of the training windows whose composer is hidden, so that the model also plays without one.",
        bounds=_FRACTION,
    )

    batch_size: int = _optimizer(32, "Windows in a global batch, over all replicas of all hosts.", bounds=_BATCH)
    accumulation_steps: int = _optimizer(
        1,
        "Global batches whose gradients are summed for one train_step, for batches larger than the memory.",
        bounds=_BATCH,
    )
    optimizer: str = _optimizer("adamw", "Optimizer.", ("adam", "adamw"))
    learning_rate: float = _optimizer(2e-3, "Peak learning rate.", bounds=Bounds(above=0))
    schedule: str = _optimizer(
        "cosine",
        "Learning rate after warm-up: constant, or a cosine down to a hundredth of the peak.",
        ("constant", "cosine"),
    )
    warmup_steps: int = _optimizer(
        100, "train_steps over which the learning rate rises from zero; 0 disables warm-up.", bounds=_COUNT
    )
    weight_decay: float = _optimizer(
        0.01, "Decoupled weight decay (adamw) of the matrices of LSTM and dense layers; 0 disables it."
    )
    clip_norm: float = _optimizer(1.0, "Maximum global gradient norm; 0 disables clipping.")
    ema: float = _optimizer(
        0.0,
        "Decay of a moving average of the weights, which is scored, kept as the best and exported; 0 disables it.",
        bounds=_FRACTION,
    )

    steps: int = _length(0, "Train for this many train_steps; 0 disables this limit.", bounds=_COUNT)
    epochs: int = _length(
        0, "Train for this many epochs; 0 disables this limit.", bounds=Bounds(minimum=0, maximum=1_000_000)
    )
    max_minutes: float = _length(
        25.0,
        "Train as many train_steps as fit into this many minutes, start-up included; 0 disables this limit.",
        bounds=Bounds(minimum=0, maximum=MAX_MINUTES),
    )
    monitor: str = _length(
        "val_nats",
        "Score that decides which weights are best: nats/note on the validation split, or the training loss.",
        ("val_nats", "loss"),
    )
    evaluate_every: int = _length(
        500,
        "train_steps between scores of the validation split, at most. With max_minutes there are more scores where "
        "they are cheap. 0 disables them.",
        bounds=_COUNT,
    )
    patience: int = _length(
        0, "Stop after this many scores of `monitor` without a better one; 0 never stops early.", bounds=_COUNT
    )

    precision: str = _device(
        "float32",
        "Arithmetic of LSTM and hidden layers. Logits, losses and optimizer use float32, or float64 with float64.",
        ("float32", "mixed_bfloat16", "mixed_float16", "float64"),
    )
    replicas: int = _device(
        0,
        "Model copies on a host, one a device; 0 uses all visible GPUs, or else one on the CPU.",
        bounds=Bounds(minimum=0, maximum=1_024),
    )
    seed: int = _data(
        0, "Seed of initial weights, windows, augmentation and dropout.", bounds=Bounds(minimum=0, maximum=2**31 - 1)
    )
    deterministic: bool = _device(
        True, "Use only deterministic kernels, so that equal runs give equal weights bit for bit."
    )

    log_every: int = _report(
        50, "train_steps between reports to metrics.jsonl and TensorBoard; 0 reports once an epoch.", bounds=_COUNT
    )
    checkpoint_every: int = _report(250, "train_steps between checkpoints; 0 saves once an epoch.", bounds=_COUNT)
    max_to_keep: int = _report(
        3, "Checkpoints to keep, besides the best one.", bounds=Bounds(minimum=1, maximum=10_000)
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_field(field, getattr(self, field.name))
        if self.pitch_weight + self.step_weight + self.duration_weight == 0:
            raise UserError(
                "config: pitch_weight, step_weight and duration_weight are all 0. Give at least one of them above 0"
            )
        if self.freeze and not self.init_from:
            raise UserError(
                f"config: freeze={self.freeze!r} needs init_from, since new weights must be trained. Give init_from too"
            )
        _check_product(self, ("units", "units", "layers"), MAX_LSTM_WEIGHTS)
        _check_product(self, ("batch_size", "seq_length", "units", "layers"), MAX_ACTIVATIONS)
        lengths = {name: getattr(self, name) for name in LENGTH_FIELDS}
        if sum(length > 0 for length in lengths.values()) != 1:
            raise UserError(f"config: expected exactly one of steps, epochs and max_minutes above 0, got {lengths}")
        if self.monitor == "val_nats" and self.patience and not self.evaluate_every:
            raise UserError("config: patience with monitor=val_nats needs evaluate_every above 0")
        if self.model == "regression" and self.evaluate_every:
            raise UserError(
                "config: evaluate_every needs model=density: a regression model has no densities to score. "
                "Give evaluate_every=0 and score it with sostenuto evaluate"
            )

    @property
    def full_precision(self) -> str:
        """Returns the type of the weights, and of all that `precision` does not lower."""
        return "float64" if self.precision == "float64" else "float32"

    @property
    def has_memory(self) -> bool:
        """Returns whether the model has a memory."""
        return self.model == "density" and self.memory_units > 0

    @property
    def has_composers(self) -> bool:
        """Returns whether the model knows composers, if its dataset names them."""
        return self.model == "density" and self.composer_embedding > 0

    @property
    def has_ending(self) -> bool:
        """Returns whether the model predicts the end of a performance."""
        return self.model == "density" and self.positions == "every" and self.end_weight > 0

    @property
    def windows_per_train_step(self) -> int:
        """Returns the number of windows of one optimizer update."""
        return self.batch_size * self.accumulation_steps

    @property
    def shape(self) -> dict[str, Any]:
        """Returns the fields that determine the shapes of the weights."""
        names = SHAPE_FIELDS if self.model == "density" else ("model", "units", "layers")
        return {name: getattr(self, name) for name in names}

    def with_model_of(self, source: "Config") -> "Config":
        """Returns a copy with the model of another config, and the windows for which that was trained."""
        return self.replace(**{name: getattr(source, name) for name in (*SHAPE_FIELDS, "positions", "seq_length")})

    def replace(self, **changes: Any) -> "Config":
        """Returns a copy with some fields changed; setting one of steps, epochs and max_minutes unsets the others."""
        unset = dict.fromkeys(LENGTH_FIELDS, 0) if any(changes.get(name) for name in LENGTH_FIELDS) else {}
        return dataclasses.replace(self, **{**unset, **changes})

    def to_json(self) -> str:
        """Returns the text of a config file."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def fixed(self) -> dict[str, Any]:
        """Returns the fields that a resumed run must share with the run that it resumes."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in CHANGEABLE_ON_RESUME}


def _check_product(config: Config, names: tuple[str, ...], maximum: int) -> None:
    """Raises UserError if the product of some fields, which sizes memory, is above its maximum."""
    if (product := math.prod(getattr(config, name) for name in names)) > maximum:
        values = ", ".join(f"{name}={getattr(config, name)}" for name in dict.fromkeys(names))
        raise UserError(
            f"config: {values}: {' x '.join(names)} is {product:,}, expected at most {maximum:,}. Lower one of them"
        )


FIELDS: Final = {field.name: field for field in dataclasses.fields(Config)}
# They determine the shapes of the weights, those besides model, units and layers only with model=density.
SHAPE_FIELDS: Final = tuple(
    name
    for name, field in FIELDS.items()
    if field.metadata["group"] == "model" and name not in ("positions", "seq_length", "dropout")
)


def check_field(field: dataclasses.Field, value: Any) -> None:
    """Checks type, choices and bounds of a field."""
    expected: Any = field.type
    types = (int, float) if expected is float else (expected,)
    if not isinstance(value, types) or (isinstance(value, bool) and expected is not bool):
        raise UserError(f"config: {field.name}={value!r}: expected {expected.__name__}, got {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config: {field.name}={value}: expected a finite number")
    choices, bounds = field.metadata["choices"], field.metadata["bounds"]
    if choices and value not in choices:
        raise UserError(f"config: {field.name}={value!r}: expected one of {', '.join(choices)}")
    if expected in (int, float) and value not in bounds:
        raise UserError(f"config: {field.name}={value}: expected {bounds}")
