"""Charts of report.html about form: repetition, structure, and self-similarity pictures."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sostenuto.html.axes import Axis, continuous, percent
from sostenuto.html.charts import Figure, Plane, Series, plot
from sostenuto.html.elements import element, rule, svg
from sostenuto.text import counted
from trainer.evaluation.form_picture import pictured_similarity
from trainer.workdir.evaluation_formats import GenerationEvaluation, LengthComparison, Summary
from trainer.workdir.form_formats import FormPicture, Span
from trainer.workdir.formats import Continuation

_KINDS: Final[dict[Continuation, tuple[str, str]]] = {
    "real": ("real continuations", "real area"),
    "generated": ("generated", "generated"),
}
_LENGTHS: Final[dict[Continuation, tuple[str, str]]] = {
    "real": ("performances", "real area"),
    "generated": ("generated from silence", "generated"),
}
_PICTURED: Final[dict[Continuation, str]] = {"real": "the performer's", "generated": "the model's"}
_SPAN_NAMES: Final[dict[Span, str]] = {"short": "3 to 8 s", "middle": "8 to 15 s", "long": "15 s and more"}
_LEVELS: Final = (0.1, 0.25, 0.45, 0.7)  # similarities from which a point is darker
_TIME_GAPS: Final = (5, 10, 20, 30, 60, 120)  # seconds
_SIDE: Final = 270


def plot_form(generated: GenerationEvaluation) -> list[Figure]:
    """Returns the charts of repetition by distance, of the structure indicators and, if measured, of lengths."""
    repeated, structure = generated.repeated_notes, generated.structure
    whole = [plot_lengths(generated.lengths)] if generated.lengths else []
    return [
        *whole,
        _plot_bars(
            "repetition",
            "share of notes, by the distance back in notes",
            ["1", "32", "128", "512", "2,048"],
            {f"{distance.replace('-', ' to ')} notes back": repeated[distance] for distance in repeated},
            "{:.1%}",
        ),
        _plot_bars(
            "structure",
            "highest fitness, by the segment's length",
            ["3 s", "8 s", "15 s"],
            {f"segments of {_SPAN_NAMES[span]}": structure[span] for span in structure},
            "{:.3f}",
        ),
    ]


def plot_lengths(lengths: LengthComparison) -> Figure:
    """Returns the chart of the lengths of whole pieces."""
    shares = {kind: np.array(lengths.counts[kind]) / max(sum(lengths.counts[kind]), 1) for kind in _LENGTHS}
    filled = np.flatnonzero(sum(shares.values()))
    first, last = int(filled[0]), int(filled[-1]) + 1
    edges = np.array(lengths.edges, float)[first : last + 1]
    along = continuous(float(edges[0]), float(edges[-1]), log=True)
    up = continuous(0, 1.05 * max(float(values.max()) for values in shares.values()))
    up = percent(up)
    at = [f"{low:,.0f} to {high:,.0f} notes" for low, high in itertools.pairwise(edges)]
    middles = np.sqrt(edges[1:] * edges[:-1]).tolist()
    series = [
        Series(
            name,
            classes,
            list(zip(middles, shares[kind][first:last].tolist(), strict=True)),
            at,
            [f"{share:.1%}" for share in shares[kind][first:last]],
            edges.tolist(),
        )
        for kind, (name, classes) in _LENGTHS.items()
    ]
    told = f"generated pieces overlap real ones by {lengths.overlap:.0%}"
    return plot("length", "notes of a whole piece, share", series, along, up, description=f"Lengths: {told}.")


def _plot_bars(
    title: str, unit: str, bounds: Sequence[str], bars: Mapping[str, Mapping[Continuation, Summary]], form: str
) -> Figure:
    """Plots the means of both kinds of continuations over each other; `bounds` are the lower ends of the classes."""
    means = {kind: [summaries[kind].mean for summaries in bars.values()] for kind in _KINDS}
    place = continuous(0, len(bars)).place
    along = Axis(place, [(place(index), text) for index, text in enumerate(bounds)])
    up = continuous(0, 1.05 * max(map(max, means.values())) or 1)
    if "%" in form:
        up = percent(up)
    middles, edges = [index + 0.5 for index in range(len(bars))], range(len(bars) + 1)
    texts = {kind: [form.format(mean) for mean in means[kind]] for kind in _KINDS}
    series = [
        Series(name, classes, list(zip(middles, means[kind], strict=True)), list(bars), texts[kind], edges)
        for kind, (name, classes) in _KINDS.items()
    ]
    told = (
        f"{name}: generated {own}, real {real}"
        for name, own, real in zip(bars, texts["generated"], texts["real"], strict=True)
    )
    return plot(title, unit, series, along, up, description=f"{title.capitalize()}, {unit}: {'; '.join(told)}.")


def draw_pictures(generated: GenerationEvaluation) -> list[Figure]:
    """Returns the self-similarity pictures of one piece, as performed and as continued by the model."""
    return [_draw_picture(generated.pictures[kind], kind) for kind in _PICTURED]


def _draw_picture(picture: FormPicture, kind: Continuation) -> Figure:
    """Draws how alike the music at any two times is, and the runs of equal pitches."""
    similarity = pictured_similarity(picture)
    seconds = len(similarity)
    gap = next((gap for gap in _TIME_GAPS if seconds / gap <= 6), _TIME_GAPS[-1])
    axis = Axis(
        lambda second: second / seconds,
        [(time / seconds, f"{time // 60}:{time % 60:02d}") for time in range(0, seconds, gap)],
    )
    plane = Plane(width=_SIDE, height=_SIDE)
    marks = [_points(similarity, level) for level in _LEVELS]
    seam = picture.primer_seconds
    if seam:
        marks += [rule(seam, 0, seam, seconds, "seam"), rule(0, seam, seconds, seam, "seam")]
    runs = "".join(f"M{a:g} {c:g}L{b:g} {d:g}M{c:g} {a:g}L{d:g} {b:g}" for a, b, c, d in picture.repeats)
    marks.append(element("path", d=runs, class_="repeat") if runs else Markup(""))
    place, scale = f"{plane.left:g} {plane.bottom:g}", _SIDE / seconds
    drawing = svg(
        plane.left + plane.width + 14,
        plane.bottom + 26,
        _describe(picture, kind),
        plane.frame(axis, axis),
        element(
            "g", *marks, class_=f"similarity {kind}", transform=f"translate({place}) scale({scale:.5g} {-scale:.5g})"
        ),
    )
    return Figure(_PICTURED[kind], "self-similarity over time", element("div", drawing, class_="plot"))


def _points(similarity: NDArray[np.float64], level: float) -> Markup:
    """Draws the points of at least a similarity, as lines along the rows."""
    inside = np.pad(similarity >= level, [(0, 0), (1, 1)])
    rows, edges = np.nonzero(np.diff(inside.astype(np.int8), axis=1))
    starts, ends = edges[::2], edges[1::2]
    runs = zip(starts.tolist(), rows[::2].tolist(), (ends - starts).tolist(), strict=True)
    return element("path", d="".join(f"M{start} {row}.5h{length}" for start, row, length in runs))


def _describe(picture: FormPicture, kind: Continuation) -> str:
    """Returns the description for screen readers."""
    longest = max((end - start for start, end, _, _ in picture.repeats), default=0.0)
    farthest = max((start - earlier for start, _, earlier, _ in picture.repeats), default=0.0)
    repeats = (
        f"{counted(len(picture.repeats), 'run')} of pitches {'returns' if len(picture.repeats) == 1 else 'return'}"
    )
    if picture.repeats:
        repeats += f", the longest for {longest:.0f} s, the farthest after {farthest:.0f} s"
    return f"Self-similarity of {_PICTURED[kind]} piece, {len(picture.chroma)} s: {repeats}."
