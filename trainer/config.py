"""Configuration of a training run: a frozen dataclass whose fields are the trainer's flags."""

import dataclasses
import functools
import json
import math
from typing import Any, Final

from sostenuto.errors import UserError
from trainer.config_fields import BATCH, COUNT, FRACTION, MAX_MINUTES, Bounds, check_field, declare
from trainer.model_config import SHAPE_FIELDS, ModelConfig

CONFIG_NAME: Final = "config.json"

# Fields that a resumed run may change: they decide when to stop, what to keep and how to share the work, not what is
# computed.
CHANGEABLE_ON_RESUME = frozenset((
    "steps", "epochs", "max_minutes", "patience", "evaluate_every", "checkpoint_every", "max_to_keep", "log_every",
    "replicas",
))  # fmt: skip
LENGTH_FIELDS = ("steps", "epochs", "max_minutes")

MAX_LSTM_WEIGHTS: Final = 2**31  # units x units x layers, about an eighth of the weights
MAX_ACTIVATIONS: Final = 2**36  # batch_size x seq_length x units x layers, over all hosts; each takes some 30 bytes

# Groups of fields in `--help`.
_start = functools.partial(declare, group="initial weights")
_loss = functools.partial(declare, group="losses")
_data = functools.partial(declare, group="training data")
_optimizer = functools.partial(declare, group="optimizer")
_length = functools.partial(declare, group="length of training and scores")
_device = functools.partial(declare, group="devices and hosts")
_report = functools.partial(declare, group="reports and checkpoints")


@dataclasses.dataclass(frozen=True)
class Config(ModelConfig):
    """All settings of a training run. The help of each field is the help of its flag.

    A new field gets its flag from `trainer.__main__`. `CHANGEABLE_ON_RESUME` lists the fields that do not change what
    is computed. tests/trainer/test_config.py lists valid and invalid values of each field.

    Raises:
        UserError: a field is out of its bounds, or fields contradict each other; the message names them.
    """

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
        bounds=FRACTION,
    )

    composer_pieces: float = _data(
        10.0,
        "Number of pieces of a composer at which half of the training windows hide the name, so that the model also "
        "plays without one and does not learn pieces by heart. With n pieces, N / (N + n) of the windows do.",
        bounds=Bounds(minimum=0, maximum=1_000_000),
    )

    batch_size: int = _optimizer(32, "Windows in a global batch, over all replicas of all hosts.", bounds=BATCH)
    accumulation_steps: int = _optimizer(
        1,
        "Global batches whose gradients are summed for one train_step, for batches larger than the memory.",
        bounds=BATCH,
    )
    optimizer: str = _optimizer("adamw", "Optimizer.", ("adam", "adamw"))
    learning_rate: float = _optimizer(2e-3, "Peak learning rate.", bounds=Bounds(above=0))
    schedule: str = _optimizer(
        "cosine",
        "Learning rate after warm-up: constant, or a cosine down to a hundredth of the peak.",
        ("constant", "cosine"),
    )
    warmup_steps: int = _optimizer(
        100, "train_steps over which the learning rate rises from zero; 0 disables warm-up.", bounds=COUNT
    )
    weight_decay: float = _optimizer(
        0.01, "Decoupled weight decay (adamw) of the matrices of LSTM and dense layers; 0 disables it."
    )
    clip_norm: float = _optimizer(1.0, "Maximum global gradient norm; 0 disables clipping.")
    ema: float = _optimizer(
        0.0,
        "Decay of a moving average of the weights, which is scored, kept as the best and exported; 0 disables it.",
        bounds=FRACTION,
    )

    steps: int = _length(0, "Train for this many train_steps; 0 disables this limit.", bounds=COUNT)
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
        bounds=COUNT,
    )
    patience: int = _length(
        0, "Stop after this many scores of `monitor` without a better one; 0 never stops early.", bounds=COUNT
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
        50, "train_steps between reports to metrics.jsonl and TensorBoard; 0 reports once an epoch.", bounds=COUNT
    )
    checkpoint_every: int = _report(250, "train_steps between checkpoints; 0 saves once an epoch.", bounds=COUNT)
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
    def has_ending(self) -> bool:
        """Returns whether the model predicts the end of a performance."""
        return self.model == "density" and self.positions == "every" and self.end_weight > 0

    @property
    def windows_per_train_step(self) -> int:
        """Returns the number of windows of one optimizer update."""
        return self.batch_size * self.accumulation_steps

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
