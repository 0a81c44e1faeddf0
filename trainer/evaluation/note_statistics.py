"""Simple statistics of music, such as notes per second, by composer (NumPy only)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from sostenuto.music.notes import Notes
from trainer.evaluation.distributions import polyphony
from trainer.evaluation.generation_metrics import pitch_class_entropy
from trainer.workdir.evaluation_formats import ComposerStatistics
from trainer.workdir.formats import CONTINUATIONS, Continuation

_CHORD_US: Final = 35_000  # Notes that are this near were meant together.

STATISTICS: Final[Mapping[str, Callable[[Notes], float]]] = {
    "pitch": lambda notes: notes.pitch.mean(),
    "spread of pitch": lambda notes: notes.pitch.std(),
    "notes/s": lambda notes: 1e6 / max(notes.step_us[1:].mean(), 1),
    "spread of steps": lambda notes: np.log1p(notes.step_us[1:] / 1e4).std(),
    "duration, s": lambda notes: np.exp(np.log(notes.duration_us / 1e6).mean()),
    "spread of durations": lambda notes: np.log(notes.duration_us).std(),
    "velocity": lambda notes: notes.velocity.mean(),
    "spread of velocity": lambda notes: notes.velocity.std(),
    "sounding notes": lambda notes: polyphony(notes).mean(),
    "in chords": lambda notes: (notes.step_us[1:] < _CHORD_US).mean(),
    "interval": lambda notes: np.abs(np.diff(notes.pitch.astype(int))).mean(),
    "repeated pitch": lambda notes: (np.diff(notes.pitch.astype(int)) == 0).mean(),
    "pitch-class entropy": pitch_class_entropy,
}
"""Each statistic by its title: a number for two notes or more. Spreads of times are those of their logarithms."""


def measure(notes: Notes) -> dict[str, float]:
    """Returns `STATISTICS` of two notes or more."""
    return {title: float(statistic(notes)) for title, statistic in STATISTICS.items()}


def measure_composers(
    generated: Sequence[Notes], real: Sequence[Notes], composers: Sequence[str]
) -> dict[str, ComposerStatistics] | None:
    """Returns the statistics of each composer's continuations, the composer with the most of them first.

    Args:
        generated: generated continuations.
        real: the performers' own.
        composers: whose music each is; "" is left out.

    Returns:
        The statistics by the composer's name; None if no composer is named, or a continuation has a single note.
    """
    if not any(composers) or min(map(len, generated)) < 2:
        return None
    music = dict(zip(CONTINUATIONS, (generated, real), strict=True))
    measured: dict[Continuation, list[dict[str, float]]] = {
        kind: [measure(notes) for notes in parts] for kind, parts in music.items()
    }
    by_composer: dict[str, ComposerStatistics] = {}
    for name in sorted({*composers} - {""}, key=lambda name: (-composers.count(name), name)):
        indices = [index for index, composer in enumerate(composers) if composer == name]
        means = {
            title: {kind: float(np.mean([rows[index][title] for index in indices])) for kind, rows in measured.items()}
            for title in STATISTICS
        }
        by_composer[name] = ComposerStatistics(len(indices), means)
    return by_composer
