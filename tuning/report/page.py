"""A study as one HTML page, as `sostenuto.html.elements` says; charts are inline SVG."""

import bisect
import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from sostenuto.html.charts import Axis, continuous, disc, label, rule, svg
from sostenuto.html.elements import command, document, element, scrolling, section, tiles
from tuning.importance import (
    FEWEST_CONFIGS,
    SHUFFLES,
    Importance,
    ceiling,
    compared,
    importance,
    is_number,
    order_of,
)
from tuning.report.style import SCRIPT, SHADES, STYLE
from tuning.space import Parameter, notes_per_train_step
from tuning.summary import (
    BEST_CONFIG_NAME,
    StudySummary,
    TrialChain,
    duration,
    format_summary,
    percent,
    ranked,
    shown,
    trained,
)

_SPREAD = 0.5  # of the room that a choice has on its axis, over which lines through it are spread
_WIDTHS = {840: "broad", 320: "narrow"}  # of the drawings, of which a screen shows the one that it has room for
_MARKS = {"completed": "✓", "stopped": "■", "failed": "✗", "running": "▶", "queued": "·"}


def page(standing: StudySummary) -> str:
    """A study's report.

    Args:
        standing: the study, as far as it is.

    Returns:
        The text of an HTML file.
    """
    matters = importance(standing)
    sections = [_summary(standing, matters), _best(standing)]
    if any(chain.judged for chain in standing.chains):
        sections += [_parallel(standing), _importance(standing, matters), _scatter(standing), _curves(standing)]
    sections.append(_table(standing))
    return document(_title(standing), *(part for part in sections if part is not None), style=STYLE, script=SCRIPT)


# Words


def _title(standing: StudySummary) -> str:
    best = standing.best
    return f"Hyperparameter search: {f'{best.score:.3f} nats/note' if best else 'no trial has completed'}"


def _summary(standing: StudySummary, matters: Importance | None) -> ET.Element:
    settings, first = standing.settings, standing.space.start(standing.start)
    judged = standing.first.judged if standing.first else None
    best = standing.best
    states = [record.state for record in standing.trials]
    notes = settings.train_steps * notes_per_train_step(first)
    return element(
        "header",
        element("p", "Sostenuto", class_="eyebrow"),
        element("h1", "Hyperparameter search"),
        element("p", " ".join([*format_summary(standing), *_what_mattered(standing, matters)]), class_="lead"),
        tiles(
            ("best score", f"{best.score:.3f}" if best else "–", "nats/note, less is better"),
            ("start config", f"{judged.score:.3f}" if judged else "–", "nats/note, trial 0000"),
            ("trials", str(len(states)), f"of them failed: {states.count('failed')}"),
            ("spent", duration(sum(record.seconds for record in standing.trials)), "h:mm:ss, all workers together"),
        ),
        element(
            "p",
            f"The {settings.tuner} tuner, seed {settings.seed}, up to {settings.max_trials} "
            f"{'configs' if settings.tuner == 'hyperband' else 'trials'}. The full length of a trial is the "
            f"{notes:,} notes that the start config reads in {settings.train_steps:,} train_steps. The score is the "
            "mean over the notes of the validation split of the negative log-likelihood of a note's pitch, step and "
            "duration, in nats; it depends on no loss weight and no length of windows, and less is better.",
            class_="small",
        ),
    )


def _what_mattered(standing: StudySummary, matters: Importance | None) -> list[str]:
    if len(standing.space.parameters) < 2:
        return []
    if matters is None:
        return ["There are too few scores to rank the hyperparameters."] if standing.trials else []
    first, *others = matters.means
    if not matters.is_predictive or matters.means[first] <= 0:
        return ["No hyperparameter stands out: these trials do not predict the score."]
    said = f"Of the hyperparameters, {first} mattered most"
    if matters.means[others[0]] > 0.5 * matters.means[first]:
        said += f", then {others[0]}"
    return [f"{said}."]


def _best(standing: StudySummary) -> ET.Element | None:
    best = standing.best
    if best is None:
        return None
    first = standing.space.start(standing.start)
    rows = []
    for parameter in standing.space.parameters:
        mine, theirs = standing.value(best, parameter), getattr(first, parameter.field)
        rows.append((parameter.field, mine, theirs, parameter.unit))
    rows += [(field, value, getattr(standing.start, field), "fixed") for field, value in standing.space.fixed.items()]
    body = [
        element(
            "tr",
            element("th", field, scope="row"),
            element("td", shown(mine), class_="number changed" if mine != theirs else "number"),
            element("td", shown(theirs), class_="number"),
            element("td", unit, class_="unit"),
        )
        for field, mine, theirs, unit in rows
    ]
    heads = (("hyperparameter", None), ("best", "number"), ("start", "number"), ("unit", "unit"))
    return section(
        "The best config",
        f"The values of trial {best.id} and of the start config. Differences are in bold.",
        scrolling(
            "The best config",
            element(
                "table",
                element("caption", "Values of the best trial beside the start config's", class_="hidden"),
                element(
                    "thead", element("tr", *(element("th", name, scope="col", class_=kind) for name, kind in heads))
                ),
                element("tbody", *body),
                class_="compact",
            ),
        ),
        element(
            "p", "It is in ", element("code", BEST_CONFIG_NAME), ", ready to be trained at full length:", class_="small"
        ),
        element(
            "pre",
            command(f"sostenuto train --config={BEST_CONFIG_NAME} --data=DIRECTORY --workdir=NEW_DIRECTORY"),
        ),
    )


# Charts


def _parallel(standing: StudySummary) -> ET.Element:
    """Parallel coordinates: a line a config through its values, down to its score."""
    chains = [chain for chain in standing.chains if chain.judged or chain.last.state == "failed"]
    told = "Each line is a config, from its values down to its score: the further left it ends, the better."
    if any(map(_is_shorter, chains)):
        told += " A config that was stopped has its last score."
    if any(chain.judged is None for chain in chains):
        told += " Dashed ones failed."
    drawings = [_parallel_drawing(standing, chains, width, kind) for width, kind in _WIDTHS.items()]
    return section("All configs at a glance", told, _legend(standing), *drawings)


def _parallel_drawing(standing: StudySummary, chains: Sequence[TrialChain], width: int, kind: str) -> ET.Element:
    """Returns the drawing, an axis under another, in a width."""
    parameters = standing.space.parameters
    left, right, top, gap = 22, 22, 26, 52
    axes = [_parameter_axis(standing, parameter) for parameter in parameters]
    scores = _score_axis([_score(chain) for chain in chains if chain.judged])
    ys = [top + gap * index for index in range(len(parameters) + 1)]
    shades = _shades(standing)

    def x(place: float) -> float:
        return left + (width - left - right) * min(max(place, 0), 1)

    lines = []
    # The order is over all configs, so that no two lines through the same choices hide each other.
    order = sorted(chains, key=lambda chain: math.inf if chain.judged is None else _score(chain))
    for rank, chain in enumerate(order):
        shift = (rank / (len(order) - 1) - 0.5) * _SPREAD if len(order) > 1 else 0.0
        points = [
            (x(axis.place(standing.value(chain.last, parameter)) + shift * axis.room), y)
            for y, axis, parameter in zip(ys, axes, parameters, strict=False)
        ]
        if chain.judged is not None:
            points.append((x(scores.place(_score(chain))), ys[-1]))
        title = element("title", _told(standing, chain))
        lines.append(element("path", title, d=_smooth(points), class_=shades[chain.last.id], **_is(chain)))
    lines.reverse()  # the best on top
    axis_lines, marks = [], []
    for y, axis, name in zip(ys, [*axes, scores], [*(each.field for each in parameters), "nats/note"], strict=True):
        axis_lines.append(rule(left, y, width - right, y, "axis"))
        marks.append(label(left, y - 9, name, "name"))
        for place, text in axis.ticks:
            axis_lines.append(rule(x(place), y - 4, x(place), y + 4, "axis"))
            marks.append(label(x(place), y + 18, text, "tick middle"))
    fields = ", ".join(parameter.field for parameter in parameters)
    return svg(
        width,
        ys[-1] + 26,
        f"Parallel coordinates of {len(chains)} configs over {fields} and the score.",
        *axis_lines,
        element("g", *lines, class_="lines"),
        element("g", *marks, class_="over"),
        class_=kind,
    )


def _scatter(standing: StudySummary) -> ET.Element:
    """A small chart a hyperparameter: the score of each config against it."""
    share, there = compared(standing.chains)
    # The others stopped before, and have what they had then.
    shorter = {chain.last.id: _score(chain) for chain in standing.chains if chain.judged}
    scores = {**shorter, **{chain.last.id: score for chain, score in there}}
    full = {chain.last.id for chain, _ in there}
    # Worst first, so that the best lies on top.
    chains = sorted(
        (chain for chain in standing.chains if chain.last.id in scores), key=lambda chain: -scores[chain.last.id]
    )
    left, top, width, height = 48, 12, 270, 170
    axis, limit = _score_axis(list(scores.values())), ceiling(list(scores.values()))
    shades = _shades(standing)
    figures = []
    for parameter in standing.space.parameters:
        along = _parameter_axis(standing, parameter)
        marks = []
        for place, text in axis.ticks:
            y = top + height * (1 - place)
            marks += [rule(left, y, left + width, y, "grid"), label(left - 7, y + 4, text, "tick end")]
        for place, text in along.ticks:
            x = left + width * place
            marks += [
                rule(x, top + height, x, top + height + 4, "axis"),
                label(x, top + height + 18, text, "tick middle"),
            ]
        marks.append(rule(left, top + height, left + width, top + height, "axis"))
        for chain in chains:
            name, score = chain.last.id, scores[chain.last.id]
            x = left + width * along.place(standing.value(chain.last, parameter))
            y = top + height * (1 - min(axis.place(score), 1))
            circle = disc(x, y, 6.5 if standing.best in chain.trials else 4.5)
            tip = element("title", f"{score:.3f} here; {_told(standing, chain)}")
            kind = shades[name] if name in full else f"{shades[name]} hollow"
            shape = circle if score <= limit else f"M{x - 5:.1f} {y + 5:.1f}l5 -9l5 9z"
            marks.append(element("path", tip, d=shape, class_=kind, **_is(chain)))
        log = ", log scale" if parameter.sampling == "log" and parameter.kind != "choice" else ""
        best = chains[-1]
        described = (
            f"Score against {parameter.field}{log}: {len(chains)} configs, the lowest score, "
            f"{scores[best.last.id]:.3f} nats/note, at {shown(standing.value(best.last, parameter))}."
        )
        caption = element("figcaption", element("b", parameter.field), f" {parameter.unit}{log}")
        drawing = svg(left + width + 14, top + height + 26, described, element("g", *marks, class_="points"))
        figures.append(element("figure", caption, drawing))
    told = f"The score of each config, in nats/note{',' if share < 1 else ''}{_at(share)}."
    if len(full) < len(chains):
        told += " Hollow marks are configs that were stopped earlier, at their last score."
    if cut := sum(score > limit for score in scores.values()):
        told += f" A triangle marks a score above the axis: {cut} of {len(scores)} configs."
    return section(
        "The score against each hyperparameter", told, _legend(standing), element("div", *figures, class_="multiples")
    )


def _at(share: float) -> str:
    return "" if share == 1 else f" after {percent(share)} of the full length, which most of them reached"


def _curves(standing: StudySummary) -> ET.Element | None:
    """Learning curves: the score over the training of each config."""
    chains = [chain for chain in standing.chains if chain.curve]
    if not chains:
        return None
    told = (
        "The score of each config, in nats/note, over its training. A cross ends those that were stopped or failed. "
        "Scores above the axis are cut off."
    )
    drawings = [_curves_drawing(standing, chains, width, kind) for width, kind in _WIDTHS.items()]
    return section("Learning curves", told, _legend(standing), *drawings)


def _curves_drawing(standing: StudySummary, chains: Sequence[TrialChain], total: int, kind: str) -> ET.Element:
    """Returns the drawing in a width."""
    left, right, top, height = 40, 22, 14, 200 + total // 6
    width = total - left - right
    axis = _score_axis([point[2] for chain in chains for point in chain.curve])
    shades = _shades(standing)
    marks = []
    for place, text in axis.ticks:
        y = top + height * (1 - place)
        marks += [rule(left, y, left + width, y, "grid"), label(left - 8, y + 4, text, "tick end")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + width * tick
        marks += [
            rule(x, top + height, x, top + height + 4, "axis"),
            label(x, top + height + 19, percent(tick), "tick middle"),
        ]
    marks.append(rule(left, top + height, left + width, top + height, "axis"))
    marks.append(label(left + width / 2, top + height + 40, "share of the full length", "tick middle"))
    lines, ends = [], []
    for chain in sorted(chains, key=lambda chain: chain.curve[-1][2], reverse=True):
        # Above the axis the line goes on, and is cut.
        points = [(left + width * share, top + height * (1 - axis.place(score))) for _, share, score in chain.curve]
        told = _told(standing, chain)
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        lines.append(element("path", element("title", told), d=d, class_=shades[chain.last.id], **_is(chain)))
        for (train_step, share, score), (x, y) in zip(chain.curve, points, strict=True):
            if y >= top:
                dot = element(
                    "title",
                    f"trial {chain.last.id}, train_step {train_step:,} ({percent(share)}): {score:.3f} nats/note",
                )
                ends.append(element("path", dot, d=disc(x, y, 2.4), class_=shades[chain.last.id], **_is(chain)))
        x, y = points[-1]
        if chain.last.state in ("stopped", "failed") and y >= top:
            cross = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"
            ends.append(
                element("path", element("title", told), d=cross, class_="cross " + shades[chain.last.id], **_is(chain))
            )
    area = f"plot-{kind}"
    frame = element("clipPath", element("rect", x=left, y=top, width=width + right, height=height), id=area)
    scores = [score for chain in chains for _, _, score in chain.curve]
    return svg(
        total,
        top + height + 50,
        f"Learning curves of {len(chains)} configs, between {max(scores):.3f} and {min(scores):.3f} nats/note.",
        frame,
        *marks,
        element("g", *lines, class_="lines", clip_path=f"url(#{area})"),
        element("g", *ends, class_="points"),
        class_=kind,
    )


def _importance(standing: StudySummary, matters: Importance | None) -> ET.Element:
    title = "Importance of the hyperparameters"
    if matters is None:
        have = len(compared(standing.chains)[1])
        return section(
            title,
            f"Too few trials have ended: {have} {'has' if have == 1 else 'have'} scores to compare, and at least "
            f"{FEWEST_CONFIGS} are needed.",
        )
    greatest = max(*matters.means.values(), 1e-9)
    rows = [
        element(
            "tr",
            element("th", field, scope="row"),
            element("td", element("i", style=f"width:{100 * max(mean, 0) / greatest:.1f}%"), class_="bar"),
            element("td", f"{mean:.3f} ± {matters.deviations[field]:.3f}", class_="number"),
        )
        for field, mean in matters.means.items()
    ]
    told = (
        f"A random forest learned the scores of {matters.configs} configs{_at(matters.share)}. A bar shows how much "
        "its error grows, in nats/note, when the values of a hyperparameter are shuffled among the configs (mean and "
        f"standard deviation of {SHUFFLES} shuffles). "
    )
    if matters.is_predictive:
        told += f"On configs that it has not seen it explains {percent(min(matters.fit, 1))} of the scores' variance."
    else:
        told += "On configs that it has not seen it explains nothing: the order is noise."
    caption = element("caption", "Importance of each hyperparameter, in nats/note", class_="hidden")
    return section(title, told, element("table", caption, element("tbody", *rows), class_="bars"))


def _legend(standing: StudySummary) -> ET.Element:
    scores = [_score(chain) for chain in standing.chains if chain.judged]
    first = standing.first
    items = []
    if standing.best is not None:
        items.append(element("span", element("i", class_="key best"), f"best, trial {standing.best.id}"))
    if first is not None and standing.best not in first.trials:
        items.append(element("span", element("i", class_="key first"), "start config"))
    ramp = [element("i", class_=f"key s{shade}") for shade in range(SHADES)]
    items.append(element("span", f"worst, {max(scores):.3f} ", *ramp, f" best, {min(scores):.3f}", class_="ramp"))
    return element("p", *items, class_="legend")


def _table(standing: StudySummary) -> ET.Element | None:
    """The trials, best first; a click on a column's name sorts by it."""
    if not standing.trials:
        return None
    parameters = standing.space.parameters
    promoted = any(record.parent for record in standing.trials)
    reasons = any(record.state in ("stopped", "failed") for record in standing.trials)
    names = [
        *("trial", "state", "nats/note", *(parameter.field for parameter in parameters)),
        *("trained", "time", "attempts", "worker"),
        *(["goes on with"] if promoted else []),
        *(["reason"] if reasons else []),
    ]
    rows = []
    for record in ranked(standing.trials):
        # What is shown, and the number to sort by, if it is one.
        cells: list[tuple[str, Any]] = [(record.id, int(record.id)), (f"{_MARKS[record.state]} {record.state}", None)]
        cells.append(("", "") if record.score is None else (f"{record.score:.3f}", record.score))
        for value in (standing.value(record, parameter) for parameter in parameters):
            cells.append((shown(value), value if is_number(value) else None))
        cells += [
            (percent(trained(record)), trained(record)),
            (duration(record.seconds), record.seconds),
            (str(record.attempt), record.attempt),
            (record.worker, None),
        ]
        if promoted:
            cells.append((record.parent or "", None))
        if reasons:
            cells.append((record.reason if record.state in ("stopped", "failed") else "", None))
        (name, key), *others = cells
        rows.append(
            element(
                "tr",
                element("th", name, scope="row", data_key=key),
                *(element("td", text, class_=None if key is None else "number", data_key=key) for text, key in others),
                class_="best" if record is standing.best else None,
                data_trial=record.id,
            )
        )
    numbers = {"nats/note", "trained", "time", "attempts", *(each.field for each in parameters)}
    head = [
        element(
            "th",
            element("button", name, type="button"),
            scope="col",
            class_="number" if name in numbers else None,
            aria_sort="ascending" if name == "nats/note" else None,
        )
        for name in names
    ]
    return section(
        "All trials",
        "Completed trials come first, by score. A click on the name of a column sorts by it.",
        scrolling(
            "All trials",
            element(
                "table",
                element("caption", f"All {len(rows)} trials with their scores and hyperparameters", class_="hidden"),
                element("thead", element("tr", *head)),
                element("tbody", *rows),
                class_="sortable",
            ),
        ),
    )


# What charts are made of


def _score(chain: TrialChain) -> float:
    assert chain.judged is not None
    assert chain.judged.score is not None
    return chain.judged.score


def _is_shorter(chain: TrialChain) -> bool:
    return chain.judged is not None and trained(chain.judged) < 1


def _score_axis(scores: Sequence[float]) -> Axis:
    low, high = min(scores), ceiling(scores)
    margin = max(0.04 * (high - low), 0.005)
    return continuous(low - margin, high + margin)


def _parameter_axis(standing: StudySummary, parameter: Parameter) -> Axis:
    used = [standing.value(record, parameter) for record in standing.trials]
    if parameter.kind == "choice" or not all(map(is_number, used)):
        # Also what the start config has, which the space need not hold.
        values = sorted({*(parameter.grid or ()), *used}, key=order_of)
        every = math.ceil(len(values) / 9)
        room = 1 / len(values)

        def place(value: Any) -> float:
            return (bisect.bisect_left(values, order_of(value), key=order_of) + 0.5) * room

        return Axis(place, [(place(value), shown(value)) for value in values[::every]], room)
    assert parameter.low is not None
    assert parameter.high is not None
    low, high = min(parameter.low, *used, parameter.high), max(parameter.low, *used, parameter.high)
    return continuous(low, high, log=parameter.sampling == "log" and low > 0, inset=0.03)


def _shades(standing: StudySummary) -> dict[str, str]:
    """The class of each config by the id of its last trial: its place among the scores, which no outlier can shift."""
    scored = sorted((chain for chain in standing.chains if chain.judged), key=_score)
    classes = {chain.last.id: "failed" if chain.last.state == "failed" else "open" for chain in standing.chains}
    for rank, chain in enumerate(scored):
        classes[chain.last.id] = f"s{SHADES - 1 - rank * (SHADES - 1) // max(len(scored) - 1, 1)}"
    if standing.first is not None:
        classes[standing.first.last.id] += " first"
    for chain in standing.chains:
        if standing.best in chain.trials:
            classes[chain.last.id] = "best"
    return classes


def _told(standing: StudySummary, chain: TrialChain) -> str:
    """A config in a line, for who points at it."""
    record = chain.judged or chain.last
    first = ", the start config" if chain.trials[0] is standing.trials[0] else ""
    score = f"{record.score:.3f} nats/note" if record.score is not None else f"{record.state}: {record.reason}"
    length = f" after {percent(trained(record))}" if _is_shorter(chain) else ""
    values = ", ".join(
        f"{parameter.field} {shown(standing.value(record, parameter))}" for parameter in standing.space.parameters
    )
    return f"trial {record.id}{first}: {score}{length}; {values}"


def _is(chain: TrialChain) -> dict[str, str]:
    """By which the script finds what belongs to a config."""
    return {"data_trial": " ".join(record.id for record in chain.trials)}


def _smooth(points: Sequence[tuple[float, float]]) -> str:
    """A path through points that leaves and meets each one level."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        middle = (x1 + x2) / 2
        path += f"C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return path
