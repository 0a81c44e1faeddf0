"""Charts of a study as SVG: parallel coordinates, scores against hyperparameters, learning curves."""

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

from markupsafe import Markup

from sostenuto.html.axes import Axis, continuous
from sostenuto.html.charts import Figure, Plane
from sostenuto.html.elements import disc, element, label, rule, svg
from sostenuto.text import counted
from tuning.report.importance import comparable_scores, outlier_limit, sort_key
from tuning.space import Parameter
from tuning.summary import StudySummary, TrialChain, format_value

_SHADES: Final = 7  # of the score's colour, from s0, the worst, to s6
_WIDTHS: Final = {"broad": 840, "narrow": 320}  # of large drawings; the style sheet shows the one that fits the screen
_SPREAD: Final = 0.5  # fraction of a choice's room on its axis over which the lines through it are spread
_MAX_CHOICES: Final = 9  # labels on an axis of choices


class StudyCharts:
    """The charts of a study that has a score."""

    def __init__(self, study: StudySummary) -> None:
        self._study = study
        self._scored = sorted((chain for chain in study.chains if chain.last_scored), key=_score)
        self._failed = [chain for chain in study.chains if not chain.last_scored and chain.last.status == "failed"]
        self._classes = self._classify()
        self.share, comparable = comparable_scores(study.chains)  # at which share of the length scores are compared
        self._compared = {chain.last.id: score for chain, score in comparable}
        # Configs that were stopped before keep their last score.
        self._scores = {chain.last.id: _score(chain) for chain in self._scored} | self._compared
        self._limit = outlier_limit(list(self._scores.values()))
        # The best is drawn last, above the others.
        self.curved = sorted((chain for chain in study.chains if chain.curve), key=lambda chain: -chain.curve[-1][2])
        self.widths = _WIDTHS
        self.shades = range(_SHADES)
        self.scores = [_score(chain) for chain in self._scored]  # the last ones, best first
        self.has_shorter = any(map(_is_shorter, self._scored))
        self.has_failed = bool(self._failed)
        self.comparable = len(comparable)
        self.earlier = len(self._scored) - self.comparable  # number of configs that were stopped before
        self.above = sum(score > self._limit for score in self._scores.values())  # number of scores above the axis

    def _classify(self) -> dict[str, str]:
        """Returns the class of each config by the id of its last trial: the rank of its score, or its state."""
        study = self._study
        classes = {chain.last.id: "failed" if chain.last.status == "failed" else "open" for chain in study.chains}
        for rank, chain in enumerate(self._scored):
            classes[chain.last.id] = f"s{_SHADES - 1 - rank * (_SHADES - 1) // max(len(self._scored) - 1, 1)}"
        if study.first is not None:
            classes[study.first.last.id] += " first"
        for chain in study.chains:
            if study.best in chain.trials:
                classes[chain.last.id] = "best"
        return classes

    def _path(self, chain: TrialChain, d: str, title: str, kind: str = "{}") -> Markup:
        """Draws a path of a config; the script finds it by the ids of its trials."""
        trials = " ".join(record.id for record in chain.trials)
        classes = kind.format(self._classes[chain.last.id])
        return element("path", element("title", title), d=d, class_=classes, data_trial=trials)

    def _describe(self, chain: TrialChain) -> str:
        """Describes a config in a line, for the pointer."""
        study, record = self._study, chain.last_scored or chain.last
        first = ", the base config" if chain.trials[0] is study.trials[0] else ""
        score = f"{record.score:.3f} nats/note" if record.score is not None else f"{record.status}: {record.reason}"
        length = f" after {record.trained_share:.0%}" if _is_shorter(chain) else ""
        values = ", ".join(
            f"{parameter.field} {format_value(study.value(record, parameter))}" for parameter in study.space.parameters
        )
        return f"trial {record.id}{first}: {score}{length}; {values}"

    def parallel_coordinates(self, kind: str) -> Markup:
        """Draws a line for each config through its values, down to its score, over axes below each other."""
        study, width, margin, top, gap = self._study, _WIDTHS[kind], 22, 26, 52
        parameters = study.space.parameters
        axes = [*(_parameter_axis(study, parameter) for parameter in parameters), _score_axis(self.scores)]
        names = [*(parameter.field for parameter in parameters), "nats/note"]
        ys = [top + gap * index for index in range(len(axes))]

        def x(place: float) -> float:
            return margin + (width - 2 * margin) * min(max(place, 0), 1)

        lines = []
        # The order is over all configs, so that no two lines through the same choices hide each other.
        chains = [*self._scored, *self._failed]
        for rank, chain in enumerate(chains):
            shift = (rank / (len(chains) - 1) - 0.5) * _SPREAD if len(chains) > 1 else 0.0
            values = [study.value(chain.last, parameter) for parameter in parameters]
            if chain.last_scored is not None:
                values.append(_score(chain))
            points = [
                (x(axis.place(value) + shift * axis.room), y) for y, axis, value in zip(ys, axes, values, strict=False)
            ]
            lines.append(self._path(chain, _smooth(points), self._describe(chain)))
        axis_lines, labels = [], []
        for y, axis, name in zip(ys, axes, names, strict=True):
            axis_lines.append(rule(margin, y, width - margin, y, "axis"))
            labels.append(label(margin, y - 9, name, "name"))
            bar = _SPREAD / 2 * axis.room
            for place, text in axis.ticks:
                if bar:
                    labels.append(rule(x(place - bar), y, x(place + bar), y, "choice"))
                else:
                    axis_lines.append(rule(x(place), y - 4, x(place), y + 4, "axis"))
                labels.append(label(x(place), y + 18, text, "tick middle"))
        return svg(
            width,
            ys[-1] + 26,
            f"Parallel coordinates of {counted(len(chains), 'config')} over {', '.join(names[:-1])} and the score.",
            *axis_lines,
            element("g", *reversed(lines), class_="lines"),  # the best on top
            element("g", *labels, class_="over"),
            class_=kind,
        )

    def scatter(self) -> list[Figure]:
        """Draws the score of each config against each hyperparameter."""
        return [self._draw_scatter(parameter) for parameter in self._study.space.parameters]

    def _draw_scatter(self, parameter: Parameter) -> Figure:
        study, plane, scores = self._study, Plane(), self._scores
        along, up = _parameter_axis(study, parameter), _score_axis(list(scores.values()))
        chains = sorted(self._scored, key=lambda chain: -scores[chain.last.id])  # the best last, above the others
        marks = []
        for chain in chains:
            name, score = chain.last.id, scores[chain.last.id]
            x = plane.x(along.place(study.value(chain.last, parameter)))
            y = plane.y(min(up.place(score), 1))
            shape = disc(x, y, 6.5 if study.best in chain.trials else 4.5)
            if score > self._limit:
                shape = f"M{x - 5:.1f} {y + 5:.1f}l5 -9l5 9z"
            kind = "{}" if name in self._compared else "{} hollow"
            marks.append(self._path(chain, shape, f"{score:.3f} here; {self._describe(chain)}", kind))
        log = ", log scale" if parameter.sampling == "log" and parameter.kind != "choice" else ""
        best = chains[-1]
        description = (
            f"Score against {parameter.field}{log}: {counted(len(chains), 'config')}, the lowest score, "
            f"{scores[best.last.id]:.3f} nats/note, at {format_value(study.value(best.last, parameter))}."
        )
        points = element("g", plane.frame(along, up), *marks, class_="points")
        drawing = svg(plane.left + plane.width + 14, plane.bottom + 26, description, points)
        return Figure(parameter.field, f"{parameter.unit}{log}", drawing)

    def learning_curves(self, kind: str) -> Markup:
        """Draws the score of each config over its training."""
        width = _WIDTHS[kind]
        plane = Plane(40, 14, width - 62, 200 + width // 6)
        scores = [score for chain in self.curved for _, _, score in chain.curve]
        up = _score_axis(scores)
        along = Axis(lambda share: share, [(share, f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)])
        lines, marks = [], []
        for chain in self.curved:
            points = [(plane.x(share), plane.y(up.place(score))) for _, share, score in chain.curve]
            d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            lines.append(self._path(chain, d, self._describe(chain)))
            marks += self._curve_marks(chain, points, plane)
        area = f"plot-{kind}"  # cuts the lines above the axis
        clip = element("rect", x=plane.left, y=plane.top, width=plane.width + 22, height=plane.height)
        extent = f"between {max(scores):.3f} and {min(scores):.3f} nats/note"
        return svg(
            width,
            plane.bottom + 50,
            f"Learning curves of {counted(len(self.curved), 'config')}, {extent}.",
            element("clipPath", clip, id=area),
            plane.frame(along, up),
            label(plane.x(0.5), plane.bottom + 40, "share of the full length", "tick middle"),
            element("g", *lines, class_="lines", clip_path=f"url(#{area})"),
            element("g", *marks, class_="points"),
            class_=kind,
        )

    def _curve_marks(self, chain: TrialChain, points: Sequence[tuple[float, float]], plane: Plane) -> list[Markup]:
        """Draws a dot for each score, and a cross at the end of a config that was stopped or failed."""
        marks = []
        for (train_step, share, score), (x, y) in zip(chain.curve, points, strict=True):
            if y >= plane.top:
                title = f"trial {chain.last.id}, train_step {train_step:,} ({share:.0%}): {score:.3f} nats/note"
                marks.append(self._path(chain, disc(x, y, 2.4), title))
        x, y = points[-1]
        if chain.last.status in ("stopped", "failed") and y >= plane.top:
            cross = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"
            marks.append(self._path(chain, cross, self._describe(chain), "cross {}"))
        return marks


def _score(chain: TrialChain) -> float:
    assert chain.last_scored is not None
    assert chain.last_scored.score is not None
    return chain.last_scored.score


def _is_shorter(chain: TrialChain) -> bool:
    return chain.last_scored is not None and chain.last_scored.trained_share < 1


def _score_axis(scores: Sequence[float]) -> Axis:
    low, high = min(scores), outlier_limit(scores)
    margin = max(0.04 * (high - low), 0.005)
    return continuous(low - margin, high + margin)


def _parameter_axis(study: StudySummary, parameter: Parameter) -> Axis:
    used = [study.value(record, parameter) for record in study.trials]
    if parameter.kind == "choice":
        # The base config may have a value outside the space.
        values = sorted({*(parameter.grid or ()), *used}, key=sort_key)
        room = 1 / len(values)

        def place(value: Any) -> float:
            return (bisect.bisect_left(values, sort_key(value), key=sort_key) + 0.5) * room

        labelled = values[:: math.ceil(len(values) / _MAX_CHOICES)]
        return Axis(place, [(place(value), format_value(value)) for value in labelled], room)
    low, high = min(*parameter.bounds, *used), max(*parameter.bounds, *used)
    return continuous(low, high, log=parameter.sampling == "log" and low > 0, inset=0.03)


def _smooth(points: Sequence[tuple[float, float]]) -> str:
    """Returns a path that passes each point vertically."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        middle = (x1 + x2) / 2
        path += f"C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return path
