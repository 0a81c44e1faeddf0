"""The settings that a player changes while playing."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sostenuto.errors import UserError
from trainer.config_fields import Bounds
from trainer.generation.arguments import check_number
from trainer.generation.composers import composer_ids
from trainer.generation.controls import Controls
from trainer.generation.sampling_flags import DEFAULT_TEMPERATURE

if TYPE_CHECKING:
    from trainer.generation.decoding import LoopOptions
    from trainer.generation.live import LiveSampler

MODES: Final = ("answer", "together", "listen")
HAND_OVERS: Final = ("pause", "pedal")
BOUNDS: Final[Mapping[str, Bounds]] = {
    "pause": Bounds(minimum=0.2, maximum=5),
    "temperature": Bounds(minimum=0.1, maximum=2),
    "top_p": Bounds(minimum=0.05, maximum=1),
    "density": Bounds(minimum=0, maximum=30),
    # Numbers of JavaScript are exact up to here.
    "seed": Bounds(minimum=0, maximum=2**53 - 1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a player.

    Attributes:
        mode: "answer": the model plays after a pause and listens when the player plays. "together": it plays on.
            "listen": it plays only when it is asked.
        pause: seconds without a key, after which the model plays.
        hand_over: "pause", or "pedal": instead of a pause, pressing the sustain pedal hands over to the model.
        temperature: factor of the temperatures of `sostenuto generate`.
        top_p: as for `NoteSampler.sample`, of all fields.
        density: notes per second to approach; 0 leaves them to the model.
        key: key of the model's pitches, as for `Controls`; "" for any pitch.
        composer: composer in whose style the model plays; "" for none in particular.
        seed: of the random numbers.

    Raises:
        UserError: a value is of a wrong type or out of its range.
    """

    mode: str = "answer"
    pause: float = 0.5
    hand_over: str = "pause"
    temperature: float = 1.0
    top_p: float = 1.0
    density: float = 0.0
    key: str = ""
    composer: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("mode", MODES), ("hand_over", HAND_OVERS)):
            if getattr(self, name) not in choices:
                raise UserError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        for name, bounds in BOUNDS.items():
            check_number(name, getattr(self, name), bounds, int if name == "seed" else float)
        for name in ("key", "composer"):
            if not isinstance(getattr(self, name), str):
                raise UserError(f"{name}: got {getattr(self, name)!r}, expected a text")
        Controls(key=self.key or None)

    def change(self, changes: Mapping[str, Any]) -> "Settings":
        """Returns the settings with some changed; raises UserError for an unknown name or a wrong value."""
        if unknown := [name for name in changes if name not in NAMES]:
            raise UserError(f"settings: got {unknown[0]!r}, expected names among {', '.join(NAMES)}")
        return dataclasses.replace(self, **changes)

    def check_composer(self, sampler: "LiveSampler") -> None:
        """Raises UserError if the model does not know the composer."""
        composer_ids(self.composer, 1, sampler.composers)

    def make_options(self, sampler: "LiveSampler") -> "LoopOptions":
        """Returns the options of sampling; raises UserError if key or density do not suit the model."""
        temperature = {field: self.temperature * value for field, value in DEFAULT_TEMPERATURE.items()}
        return sampler.make_options(temperature, self.top_p, Controls(key=self.key or None, density=self.density))


NAMES: Final = tuple(field.name for field in dataclasses.fields(Settings))
