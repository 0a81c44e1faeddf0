"""Distributions of held-out, real and generated music as charts."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sostenuto.html.axes import Axis, continuous
from sostenuto.html.charts import Figure, Series, plot
from sostenuto.music.notes import TICK_US, note_name
from trainer.evaluation.distributions import DISTRIBUTIONS
from trainer.workdir.formats import GenerationEvaluation, MusicKind

_MUSIC: Final[dict[MusicKind, tuple[str, str]]] = {
    "held_out": ("held-out music", "held area"),
    "real": ("real continuations", "real thin"),
    "generated": ("generated", "generated"),
}
"""Name and classes of each kind of music, from the lowest layer to the highest."""
_TIMES: Final = ("step", "duration")
_TAIL: Final = 0.004  # fraction of each distribution beyond either end of the axis
_TIME_TICKS: Final = (0.0035, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)  # seconds; the first one stands for 0


def plot_distributions(generated: GenerationEvaluation) -> list[Figure]:
    """Returns a chart for each distribution."""
    return [_plot_distribution(name, generated) for name in DISTRIBUTIONS]


def _plot_distribution(name: str, generated: GenerationEvaluation) -> Figure:
    """Plots three histograms over each other; times on a logarithmic axis, per octave."""
    distribution = DISTRIBUTIONS[name]
    counts = {music: np.array(generated.counts[music][name], float) for music in _MUSIC}
    shares = {music: values / max(values.sum(), 1) for music, values in counts.items()}
    first, last = _visible_bins(shares)
    edges, middles, heights = _scale(name, shares)
    along = continuous(float(edges[first]), float(edges[last]), log=name in _TIMES)
    if ticks := _named_ticks(name, int(distribution.edges[first]), int(distribution.edges[last])):
        along = Axis(along.place, [(along.place(value), text) for value, text in ticks])
    up = continuous(0, 1.05 * max(float(values[first:last].max()) for values in heights.values()))
    percent = Axis(up.place, [(place, f"{100 * float(text):g}%") for place, text in up.ticks])
    series = [
        Series(
            label,
            kind,
            list(zip(middles[first:last].tolist(), heights[music][first:last].tolist(), strict=True)),
            [_describe_bin(name, distribution.edges, index) for index in range(first, last)],
            [f"{share:.1%}" for share in shares[music][first:last]],
            edges[first : last + 1].tolist(),
        )
        for music, (label, kind) in _MUSIC.items()
    ]
    distances = generated.distributions[name]
    title, _, unit = distribution.title.partition(", ")
    description = (
        f"Distribution of {title}: generated music overlaps {distances['generated'].overlap:.0%} with held-out "
        f"music, real continuations {distances['real'].overlap:.0%}."
    )
    unit = f"{unit + ', ' if unit else ''}{'share per octave' if name in _TIMES else 'share'}"
    return plot(title, unit, series, along, percent, description=description)


def _visible_bins(shares: Mapping[MusicKind, NDArray[np.floating]]) -> tuple[int, int]:
    """Returns the first bin and the one after the last, without the tails of all distributions."""
    tails = [np.minimum(np.cumsum(values), np.cumsum(values[::-1])[::-1]) for values in shares.values()]
    inside = np.flatnonzero(np.max(tails, axis=0) > _TAIL)
    return int(inside[0]), int(inside[-1]) + 1


def _scale(
    name: str, shares: Mapping[MusicKind, NDArray[np.floating]]
) -> tuple[NDArray[np.floating], NDArray[np.floating], Mapping[MusicKind, NDArray[np.floating]]]:
    """Returns edges and middles of the bins on the axis, and the heights of the bars."""
    edges: NDArray[np.floating]
    if name in _TIMES:
        # Tick 0, all times below 5 ms, is drawn as the octave below 5 ms.
        edges = np.append(0.25, DISTRIBUTIONS[name].edges[1:] - 0.5) * TICK_US / 1e6
        octaves = np.log2(edges[1:] / edges[:-1])
        return edges, np.sqrt(edges[1:] * edges[:-1]), {music: values / octaves for music, values in shares.items()}
    edges = DISTRIBUTIONS[name].edges - (0.0 if name == "notes_per_second" else 0.5)
    return edges, (edges[1:] + edges[:-1]) / 2, shares


def _named_ticks(name: str, low: int, high: int) -> list[tuple[float, str]]:
    """Returns the ticks of an axis in a musician's terms; none where plain numbers suffice."""
    octaves = range(-(-low // 12) * 12, high, 12)
    if name == "pitch":
        return [(pitch, note_name(pitch)) for pitch in octaves]
    if name == "pitch_class":
        return [(pitch_class, note_name(60 + pitch_class)[:-1]) for pitch_class in range(low, high)]
    if name == "interval":
        return [(semitones, f"{semitones:+d}" if semitones else "0") for semitones in octaves]
    if name in _TIMES:
        start, end = (max(edge - 0.5, 0.25) * TICK_US / 1e6 for edge in (low, high))
        return [(time, f"{time:g}" if time > 0.005 else "0") for time in _TIME_TICKS if start <= time <= end]
    return []


def _describe_bin(name: str, edges: NDArray[np.integer], index: int) -> str:
    low, high = int(edges[index]), int(edges[index + 1])
    if name == "pitch":
        return note_name(low)
    if name == "pitch_class":
        return note_name(60 + low)[:-1]
    unit = {"step": " ms", "duration": " ms", "interval": " semitones"}.get(name, "")
    scale = 10 if unit == " ms" else 1
    if high - low == 1 and name != "notes_per_second":
        return f"{low * scale}{unit}"
    return f"{low * scale} to {(high - (name != 'notes_per_second')) * scale}{unit}"
