"""Charts as SVG: curves and histograms that show their values, and the frame that all charts share."""

import dataclasses
import json
from collections.abc import Sequence

from markupsafe import Markup

from sostenuto.html.axes import Axis
from sostenuto.html.elements import disc, element, label, rule, svg


@dataclasses.dataclass(frozen=True)
class Plane:
    """The rectangle of a chart that its axes span, in units of the drawing."""

    left: float = 48
    top: float = 12
    width: float = 270
    height: float = 170

    @property
    def bottom(self) -> float:
        """The y of the horizontal axis."""
        return self.top + self.height

    def x(self, place: float) -> float:
        """Returns the x of a position on the horizontal axis."""
        return self.left + self.width * place

    def y(self, place: float) -> float:
        """Returns the y of a position on the vertical axis."""
        return self.bottom - self.height * place

    def frame(self, along: Axis, up: Axis) -> Markup:
        """Draws the grid, the horizontal axis and the tick labels."""
        right = self.left + self.width
        marks = []
        for place, text in up.ticks:
            y = self.y(place)
            marks += [rule(self.left, y, right, y, "grid"), label(self.left - 7, y + 4, text, "tick end")]
        for place, text in along.ticks:
            x = self.x(place)
            marks.append(rule(x, self.bottom, x, self.bottom + 4, "axis"))
            marks.append(label(x, self.bottom + 18, text, "tick middle"))
        marks.append(rule(self.left, self.bottom, right, self.bottom, "axis"))
        return Markup("").join(marks)


@dataclasses.dataclass(frozen=True)
class Series:
    """One curve or histogram of a chart.

    Attributes:
        name: its name in the legend.
        kind: its classes, which give it a colour; `area` fills the plane below it, `dots` marks each point;
            a single one has a mark anyway.
        points: (x, y) by x; the middles of a histogram's bins.
        at: description of each x.
        values: description of each y.
        edges: the `len(points) + 1` edges of a histogram's bins; None for a curve.
    """

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    at: Sequence[str]
    values: Sequence[str]
    edges: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing with its caption."""

    title: str
    unit: str
    drawing: Markup


def plot(title: str, unit: str, series: Sequence[Series], along: Axis, up: Axis, *, description: str) -> Figure:
    """Draws curves, or histograms over each other, the last on top; cuts what is beyond the axes.

    `unit` follows the title; `description` is for screen readers.
    """
    plane = Plane()
    paths, values = [], []
    for curve in series:
        corners = [(plane.x(along.place(x)), plane.y(_limit(up.place(y), -0.2, 1.2))) for x, y in curve.points]
        paths += _paths(curve, corners, plane, along)
        values.append(
            {
                "name": curve.name,
                "kind": curve.kind,
                "x": [round(x, 1) for x, _ in corners],
                "y": [round(_limit(y, plane.top, plane.bottom), 1) for _, y in corners],
                "at": list(curve.at),
                "values": list(curve.values),
            }
        )
    # An inner drawing cuts what is beyond the axes without an id, which two charts could share.
    inner = element(
        "svg",
        element("g", *paths, transform=f"translate({-plane.left:g} {-plane.top:g})"),
        x=plane.left,
        y=plane.top,
        width=plane.width + 4,
        height=plane.height + 1,
        class_="plane",
    )
    drawing = svg(
        plane.left + plane.width + 14,
        plane.bottom + 26,
        description,
        plane.frame(along, up),
        inner,
        class_="chart",
        tabindex=0,
        data_series=json.dumps(values, separators=(",", ":")),
    )
    return Figure(title, unit, element("div", drawing, class_="plot"))


def _limit(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _paths(series: Series, corners: Sequence[tuple[float, float]], plane: Plane, along: Axis) -> list[Markup]:
    """Draws the area, the line and the dots of a series."""
    outline = list(corners)
    if series.edges is not None:
        edges = [plane.x(along.place(edge)) for edge in series.edges]
        outline = [(edges[index + end], y) for index, (_, y) in enumerate(corners) for end in (0, 1)]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in outline)
    paths = []
    if "area" in series.kind:
        area = f"{line}V{plane.bottom:g}H{outline[0][0]:.1f}z"
        paths.append(element("path", d=area, class_=f"{series.kind} filled", aria_hidden="true"))
    paths.append(element("path", d=line, class_=series.kind))
    if "dots" in series.kind or (len(corners) == 1 and series.edges is None):  # A line of one point is invisible.
        paths += [element("path", d=disc(*corner, 2.6), class_=f"{series.kind} dot") for corner in corners]
    return paths
