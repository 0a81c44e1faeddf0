"""Notes to draw, and the pixels of pictures."""

from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.colors import rgb_to_hsv, to_rgb

from sostenuto.music.notes import Notes


def melody(count: int, *, seed: int = 0, velocity: int = 80, gap_us: int = 200_000) -> Notes:
    rng = np.random.default_rng(seed)
    onset_us = np.arange(count) * gap_us
    return Notes.from_onsets(
        pitch=rng.integers(40, 90, count),
        onset_us=onset_us,
        offset_us=onset_us + rng.integers(50_000, 800_000, count),
        velocity=np.full(count, velocity),
    )


def picture(path: Path) -> np.ndarray:
    """Returns the pixels: [height, width, 3], 0..1."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    return matplotlib.image.imread(path)[:, :, :3]


def pixels_of(image: np.ndarray, colour: str) -> int:
    """Returns the number of pixels with the hue of a colour, lighter or darker."""
    hue, saturation, _ = np.moveaxis(rgb_to_hsv(image), 2, 0)
    return int(((np.abs(hue - rgb_to_hsv(to_rgb(colour))[0]) < 0.02) & (saturation > 0.1)).sum())
