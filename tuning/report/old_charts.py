"""Charts as SVG elements: what they are made of, curves and histograms that tell their values, and piano rolls.

A chart is complete without a script. With `HOVER_SCRIPT` in its page, a chart shows the values under the pointer, or
under the arrow keys once it has the focus.
"""

import dataclasses
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tuning.report.old_elements import element
from sostenuto.music.notes import Notes, note_name

LOUDNESSES: Final = 4  # classes of velocity in a piano roll, `v0` the softest

_LEFT, _TOP, _WIDTH, _HEIGHT = 48, 12, 270, 170  # of a chart's plane
_BLACK_KEYS: Final = (1, 3, 6, 8, 10)  # semitones above C
_ROLL_UNIT_US: Final = 10_000  # of a piano roll's time axis
_KEY: Final = 10  # units of a piano roll's pitch axis for a semitone
_TIME_GAPS: Final = (1, 2, 5, 10, 15, 30, 60)  # seconds


@dataclasses.dataclass(frozen=True)
class Axis:
    """Where values lie between 0 and 1.

    Attributes:
        place: of a value.
        ticks: (place, text).
        room: what a value has to itself; 0 on a continuous axis.
    """

    place: Callable[[Any], float]
    ticks: list[tuple[float, str]]
    room: float = 0.0


def continuous(low: float, high: float, *, log: bool = False, inset: float = 0.0, count: int = 5) -> Axis:
    """An axis of numbers.

    Args:
        low: the lowest value.
        high: the highest.
        log: whether equal ratios have equal lengths; of numbers above 0.
        inset: the share of the axis that is left free at either end.
        count: about how many ticks there are to be.
    """
    if low == high:
        return Axis(lambda value: 0.5, [(0.5, f"{low:g}")])
    turn: Callable[[float], float] = math.log if log else float
    bottom, span = turn(low), turn(high) - turn(low)

    def place(value: float) -> float:
        return inset + (1 - 2 * inset) * (turn(value) - bottom) / span

    ticks = _log_ticks(low, high) if log else _linear_ticks(low, high, count)
    return Axis(place, [(place(value), f"{value:,g}" if value < 1e6 else f"{value:.3g}") for value in ticks])


def _linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    exact = (high - low) / count
    power = 10 ** math.floor(math.log10(exact))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= exact * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{step * index:.10g}") for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [float(f"{factor * 10.0**decade:.6g}") for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 7)]
    return _linear_ticks(low, high)


def svg(width: float, height: float, told: str, *content: ET.Element, **attributes: Any) -> ET.Element:
    """A drawing, with what it shows in words."""
    return element(
        "svg", *content, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=told, **attributes,
    )  # fmt: skip


def rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> ET.Element:
    """A straight line of a class."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def label(x: float, y: float, text: str, kind: str) -> ET.Element:
    """Text of a class."""
    return element("text", text, x=x, y=y, class_=kind)


def disc(x: float, y: float, radius: float) -> str:
    """The path of a circle."""
    half = f"a{radius:g} {radius:g} 0 1 0"
    return f"M{x - radius:.1f} {y:.1f}{half} {2 * radius:g} 0{half} {-2 * radius:g} 0z"


@dataclasses.dataclass(frozen=True)
class Series:
    """What a chart shows of one kind of thing.

    Attributes:
        name: as the legend has it.
        kind: its class, which gives it a colour; with `area` also the plane beneath it is filled, with `dots` each
            point is marked.
        points: (x, y), by x; of a histogram the bins' middles.
        at: what each x is, for who points at it.
        values: what each y is.
        edges: of a histogram its bins' `len(points) + 1` ends; None for a curve.
    """

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    at: Sequence[str]
    values: Sequence[str]
    edges: Sequence[float] | None = None


def plot(title: str, unit: str, series: Sequence[Series], along: Axis, up: Axis, *, told: str) -> ET.Element:
    """A chart: curves, or histograms over each other; what is beyond the axes is cut.

    Args:
        title: of the chart.
        unit: of y, or what else is to be said beside the title.
        series: what it shows; later ones lie above.
        along: the axis of x.
        up: the axis of y.
        told: what there is to see, in words.

    Returns:
        A figure.
    """

    def x(value: float) -> float:
        return _LEFT + _WIDTH * along.place(value)

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (1 - min(max(up.place(value), -0.2), 1.2))

    bottom = _TOP + _HEIGHT
    marks = []
    for place, text in up.ticks:
        height = bottom - _HEIGHT * place
        marks += [rule(_LEFT, height, _LEFT + _WIDTH, height, "grid"), label(_LEFT - 7, height + 4, text, "end")]
    for place, text in along.ticks:
        across = _LEFT + _WIDTH * place
        marks += [rule(across, bottom, across, bottom + 4, "axis"), label(across, bottom + 18, text, "middle")]
    marks.append(rule(_LEFT, bottom, _LEFT + _WIDTH, bottom, "axis"))
    drawn, read = [], []
    for one in series:
        corners = [(x(across), y(value)) for across, value in one.points]
        path = corners if one.edges is None else _stairs([x(edge) for edge in one.edges], corners)
        line = "M" + "L".join(f"{across:.1f} {height:.1f}" for across, height in path)
        if "area" in one.kind:
            drawn.append(
                element("path", d=f"{line}V{bottom}H{path[0][0]:.1f}z", class_=f"{one.kind} filled", aria_hidden="true")
            )
        drawn.append(element("path", d=line, class_=one.kind))
        if "dots" in one.kind:
            drawn += [element("path", d=disc(*corner, 2.6), class_=f"{one.kind} dot") for corner in corners]
        read.append(
            {
                "name": one.name,
                "kind": one.kind,
                "x": [round(across, 1) for across, _ in corners],
                "y": [round(min(max(height, _TOP), bottom), 1) for _, height in corners],
                "at": list(one.at),
                "values": list(one.values),
            }
        )
    # A drawing of its own inside the drawing cuts what is beyond the axes, and needs no name that two could share.
    plane = element(
        "svg", element("g", *drawn, transform=f"translate({-_LEFT} {-_TOP})"),
        x=_LEFT, y=_TOP, width=_WIDTH + 4, height=_HEIGHT + 1, class_="plane",
    )  # fmt: skip
    drawing = svg(
        _LEFT + _WIDTH + 14, bottom + 26, told, *marks, plane,
        class_="chart", tabindex=0, data_series=json.dumps(read, separators=(",", ":")),
    )  # fmt: skip
    caption = element("figcaption", element("b", title), f" {unit}")
    return element("figure", caption, element("div", drawing, class_="plot"))


def _stairs(edges: Sequence[float], corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(edges[index + end], height) for index, (_, height) in enumerate(corners) for end in (0, 1)]


def legend(*series: tuple[str, str]) -> ET.Element:
    """What the colours mean: (kind, name) of each."""
    return element(
        "p",
        *(element("span", element("i", class_=f"key {kind}"), name) for kind, name in series),
        class_="legend",
    )


def piano_roll(notes: Notes, primer_notes: int, *, told: str) -> ET.Element:
    """Notes as bars over time, the louder the stronger, on a keyboard whose black keys are shaded.

    It is as wide as there is room, and as high as the style sheet says; its labels are text beside the drawing, which
    is stretched.

    Args:
        notes: what to draw, at least one.
        primer_notes: so many at the start are of the class `primer`, the others of the class `played`.
        told: what there is to see, in words.
    """
    seconds = notes.seconds
    low, high = _octaves(notes)
    width, height = max(round(seconds * 1e6 / _ROLL_UNIT_US), 1), (high - low) * _KEY
    rows = [
        element("path", d=f"M0 {(high - 1 - pitch) * _KEY}h{width}v{_KEY}h-{width}z", class_="black")
        for pitch in range(low, high)
        if pitch % 12 in _BLACK_KEYS
    ]
    seam = notes.onset_us[primer_notes] // _ROLL_UNIT_US if 0 < primer_notes < len(notes) else None
    drawing = element(
        "svg",
        *rows,
        *(rule(0, (high - pitch) * _KEY, width, (high - pitch) * _KEY, "octave") for pitch in range(low, high, 12)),
        *_bars(notes[:primer_notes], np.zeros(primer_notes, np.int64) + notes.onset_us[:primer_notes], high, "primer"),
        *_bars(notes[primer_notes:], notes.onset_us[primer_notes:], high, "played"),
        rule(int(seam), 0, int(seam), height, "seam") if seam is not None else None,
        viewBox=f"0 0 {width} {height}", preserveAspectRatio="none", role="img", aria_label=told,
    )  # fmt: skip
    names = [
        element("span", note_name(pitch), style=f"bottom:{100 * (pitch - low) / (high - low):.1f}%")
        for pitch in range(low, high, 12)
    ]
    gap = next((gap for gap in _TIME_GAPS if seconds / gap <= 7), _TIME_GAPS[-1])
    times = [
        element("span", f"{second // 60}:{second % 60:02d}", style=f"left:{100 * second / seconds:.2f}%")
        for second in range(0, math.ceil(seconds), gap)
        if second < 0.97 * seconds
    ]
    return element(
        "div",
        element("div", *names, class_="keys", aria_hidden="true"),
        element(
            "div",
            drawing,
            element("i", class_="head"),
            class_="sheet",
            data_low=low,
            data_high=high,
            data_seconds=f"{seconds:.3f}",
        ),
        element("div", *times, class_="times", aria_hidden="true"),
        class_="roll",
    )


def _octaves(notes: Notes) -> tuple[int, int]:
    """The C at or below the lowest note, and one above the highest; never less than two octaves."""
    low = int(notes.pitch.min()) // 12 * 12
    high = -(-(int(notes.pitch.max()) + 1) // 12) * 12
    return (low, high) if high - low >= 24 else (max(low - 12, 0), max(high, low + 12))


def _bars(notes: Notes, onset_us: NDArray[np.int64], high: int, kind: str) -> list[ET.Element]:
    """A path of all bars of one loudness, softest first, so that the loud are on top."""
    loudness = np.minimum(notes.velocity.astype(np.int64) * LOUDNESSES // 128, LOUDNESSES - 1)
    starts = onset_us // _ROLL_UNIT_US
    # The shortest are drawn a little longer than they sound: they would not be seen.
    lengths = np.maximum(notes.duration_us // _ROLL_UNIT_US, 6)
    paths = []
    for level in range(LOUDNESSES):
        inside = loudness == level
        bars = zip(starts[inside].tolist(), notes.pitch[inside].tolist(), lengths[inside].tolist(), strict=True)
        d = "".join(f"M{start} {(high - 1 - pitch) * _KEY}h{long}v{_KEY}h-{long}z" for start, pitch, long in bars)
        if d:
            paths.append(element("path", d=d, class_=f"{kind} v{level}"))
    return paths


STYLE: Final = """
.plot{position:relative} .chart{cursor:crosshair;touch-action:pan-y;overflow:visible}
.plane path{fill:none;stroke:var(--colour);stroke-width:1.7;stroke-linejoin:round}
.plane path.dot{fill:var(--colour);stroke:var(--card);stroke-width:1}
.plane path.filled{fill:var(--colour);stroke:none;opacity:.28} .plane path.area:not(.filled){stroke-width:1;opacity:.6}
.plane path.thin{stroke-width:1.3}
.cursor{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3} .spot{fill:var(--colour);stroke:var(--card)}
.tip{position:absolute;top:0;pointer-events:none;background:var(--card);color:var(--ink);border:1px solid var(--edge);
 border-radius:8px;padding:.3rem .55rem;font-size:.78rem;line-height:1.4;white-space:nowrap;z-index:1;
 box-shadow:0 2px 8px rgb(0 0 0/.15);font-variant-numeric:tabular-nums} .tip b{display:block;font-weight:600}
.tip span{display:block} .tip .key{width:.7rem}
.roll{display:grid;grid-template-columns:2.1rem 1fr;grid-template-rows:var(--roll,9.5rem) 1.2rem;font-size:.7rem;
 color:var(--soft);font-variant-numeric:tabular-nums}
.keys,.times{position:relative} .keys span{position:absolute;right:.35rem;transform:translateY(50%)}
.times{grid-column:2} .times span{position:absolute;transform:translateX(-50%)} .times span:first-child{transform:none}
.sheet{position:relative;border:1px solid var(--edge);border-radius:4px;overflow:hidden;cursor:pointer}
.sheet svg{position:absolute;inset:0;width:100%;height:100%}
.sheet .black{fill:var(--black)} .sheet line{vector-effect:non-scaling-stroke} .octave{stroke:var(--edge)}
.seam{stroke:var(--soft);stroke-dasharray:3 3}
.sheet .primer{fill:var(--primer)} .sheet .played{fill:var(--played)}
.v0{opacity:.5} .v1{opacity:.68} .v2{opacity:.84}
.head{position:absolute;top:0;bottom:0;left:0;width:2px;margin-left:-1px;background:var(--ink);display:none}
@media print{.tip,.cursor,.spot,.head{display:none!important}
 .sheet,.plane path{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
"""How charts and piano rolls look; a page defines `--colour` for each kind, `--primer`, `--played` and `--black`."""

HOVER_SCRIPT: Final = """
for (const chart of document.querySelectorAll(".chart")) {
  const series = JSON.parse(chart.dataset.series), frame = chart.parentNode;
  const tip = document.createElement("div");
  tip.className = "tip"; tip.hidden = true; tip.setAttribute("role", "status");
  frame.append(tip);
  const make = (name, kind) => {
    const node = document.createElementNS(chart.namespaceURI, name);
    node.setAttribute("class", kind);
    return node;
  };
  const marks = make("g", "marks");
  chart.append(marks);
  const stops = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
  let stop = stops.length;
  const near = (xs, x) => xs.reduce((best, each, at) => Math.abs(each - x) < Math.abs(xs[best] - x) ? at : best, 0);
  const show = (x) => {
    stop = near(stops, x);
    const across = stops[stop], shown = [];
    marks.replaceChildren();
    const line = make("line", "cursor");
    for (const [name, value] of [["x1", across], ["x2", across], ["y1", 12], ["y2", 182]]) {
      line.setAttribute(name, value);
    }
    marks.append(line);
    for (const one of series) {
      const at = near(one.x, across);
      if (Math.abs(one.x[at] - across) > 12) continue;
      const spot = make("circle", "spot " + one.kind);
      for (const [name, value] of [["cx", one.x[at]], ["cy", one.y[at]], ["r", 3.6]]) spot.setAttribute(name, value);
      marks.append(spot);
      shown.push([one, at]);
    }
    const head = document.createElement("b");
    head.textContent = shown[0][0].at[shown[0][1]];
    tip.replaceChildren(head, ...shown.map(([one, at]) => {
      const row = document.createElement("span"), key = document.createElement("i");
      key.className = "key " + one.kind;
      row.append(key, one.name + " " + one.values[at]);
      return row;
    }));
    tip.hidden = false;
    const scale = chart.clientWidth / chart.viewBox.baseVal.width, place = across * scale;
    const room = frame.clientWidth - tip.offsetWidth;
    const left = place > frame.clientWidth / 2 ? place - tip.offsetWidth - 10 : place + 10;
    tip.style.left = Math.max(0, Math.min(left, room)) + "px";
  };
  const hide = () => { tip.hidden = true; marks.replaceChildren(); };
  const move = (event) => {
    const box = chart.getBoundingClientRect();
    show((event.clientX - box.left) * chart.viewBox.baseVal.width / box.width);
  };
  chart.addEventListener("pointermove", move);
  chart.addEventListener("pointerdown", move);
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -stops.length, End: stops.length }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    show(stops[Math.max(0, Math.min(stops.length - 1, stop + by))]);
  });
}
"""
"""What lets charts tell their values."""
