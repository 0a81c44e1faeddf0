"""The part of a config that determines the model: its fields decide which variables there are."""

import dataclasses
import functools
from typing import Any

from trainer.config_fields import FRACTION, WIDTH, Bounds, declare

_model = functools.partial(declare, group="model")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model of a training run; `trainer.config.Config` has the other fields, and checks these too."""

    preset: str = declare("base", "Preset that this config started from.")

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
    seq_length: int = _model(128, "Notes in a training window.", bounds=WIDTH)
    units: int = _model(256, "Units of each LSTM layer.", bounds=WIDTH)
    layers: int = _model(2, "LSTM layers.", bounds=Bounds(minimum=1, maximum=64))
    pitch_embedding: int = _model(96, "Size of the pitch embedding (density).", bounds=WIDTH)
    time_embedding: int = _model(48, "Size of the step and of the duration embedding (density).", bounds=WIDTH)
    velocity_embedding: int = _model(32, "Size of the velocity embedding (density).", bounds=WIDTH)
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
    head_units: int = _model(128, "Hidden units of each head (density).", bounds=WIDTH)
    head_blocks: int = _model(
        1, "Residual blocks of each head (density); 0 leaves one hidden layer.", bounds=Bounds(minimum=0, maximum=64)
    )
    dropout: float = _model(
        0.0,
        "Fraction of the activations dropped after each LSTM layer in training; 0 disables dropout.",
        bounds=FRACTION,
    )

    @property
    def has_memory(self) -> bool:
        """Returns whether the model has a memory."""
        return self.model == "density" and self.memory_units > 0

    @property
    def has_composers(self) -> bool:
        """Returns whether the model knows composers, if its dataset names them."""
        return self.model == "density" and self.composer_embedding > 0

    @property
    def shape(self) -> dict[str, Any]:
        """Returns the fields that determine the shapes of the weights."""
        names = SHAPE_FIELDS if self.model == "density" else ("model", "units", "layers")
        return {name: getattr(self, name) for name in names}


# They determine the shapes of the weights, those besides model, units and layers only with model=density.
SHAPE_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(ModelConfig)
    if field.name not in ("preset", "positions", "seq_length", "dropout")
)
