"""Charts as static SVG, for browsers without scripts and for printing.

Libraries for static charts need a browser (Plotly with Kaleido) or are a large dependency
(Matplotlib).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from puma_engine.evaluation.formatting import shortened
from puma_engine.report.label_layout import (
    CHARACTER,
    LINE,
    Box,
    Scene,
    leader,
    place_labels,
    placed_box,
)
from puma_engine.report.templating import environment
from puma_engine.report.theme import AMOUNTS, KINDS, NEUTRAL

WIDTH = 520
HEIGHT = 330
MAX_LABEL = 30
# Outline of each symbol around the origin, of equal visual size.
MARKS = {
    "circle": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "square": "M-4.5-4.5H4.5V4.5H-4.5Z",
    "diamond": "M0-6L6 0L0 6L-6 0Z",
    "star": "M0-6.5L1.7-2H6.2L2.6.8L3.9 5.4L0 2.6L-3.9 5.4L-2.6.8L-6.2-2H-1.7Z",
    "triangle-up": "M0-6L5.5 4.5H-5.5Z",
    "triangle-down": "M0 5.5L5.5-4.5H-5.5Z",
    "x": "M-5-3L-3-5L0-2L3-5L5-3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
    "hexagon": "M-2.9-5H2.9L5.8 0L2.9 5H-2.9L-5.8 0Z",
    "pentagon": "M0-5.8L5.5-1.8L3.4 4.7H-3.4L-5.5-1.8Z",
    "cross": "M-1.8-5.5H1.8V-1.8H5.5V1.8H1.8V5.5H-1.8V1.8H-5.5V-1.8H-1.8Z",
}


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from values in [low, high] to pixels in [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def of(
        cls,
        values: Sequence[float],
        start: float,
        end: float,
        *,
        log: bool = False,
        pad: float = 0.06,
    ) -> Scale:
        """Return a scale for all finite values (above 0 if log); pad: margin, a share of the range."""
        known = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(known), max(known)
        if log:
            return cls(low / 1.6, high * 1.6, start, end, log=True)
        room = pad * (high - low) or max(abs(high), 1.0) * pad
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return two to nine round values inside the range."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factors in ((1,), (1, 2, 5)):
                values = [factor * 10.0**power for power in decades for factor in factors]
                inside = [value for value in values if self.low <= value <= self.high]
                if len(inside) >= 3:
                    return inside
        rough = (self.high - self.low) / 6
        unit = 10 ** math.floor(math.log10(rough))
        step = unit * next(factor for factor in (1, 2, 5, 10) if factor * unit >= rough)
        first = math.ceil(self.low / step)
        return [step * number for number in range(first, math.floor(self.high / step) + 1)]


@dataclass
class Chart:
    """A chart, drawn by templates/chart.svg; templates print it as inline SVG.

    width, height: in pixels. x, y: scales of the axes; the y axis is drawn if it has a label. All
    other values are in pixels. lines: x1, y1, x2, y2, colour, width, dashes. bars: left, top,
    width, height, colour. dots: colour, and x, y of each. labels: x, y, text, and anchor (start,
    middle or end). marks: kind of prompts, x, y, tooltip.
    """

    title: str
    height: float
    x: Scale
    y: Scale
    x_label: str
    y_label: str = ""
    lines: list[tuple[float, float, float, float, str, float, str]] = field(default_factory=list)
    bars: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    dots: list[tuple[str, list[tuple[float, float]]]] = field(default_factory=list)
    labels: list[tuple[float, float, str, str]] = field(default_factory=list)
    marks: list[tuple[str, float, float, str]] = field(default_factory=list)
    width: float = WIDTH

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        colour: str = NEUTRAL,
        width: float = 1,
        dashes: str = "3 3",
    ) -> None:
        """Draw a line; by default a neutral, dashed one."""
        self.lines.append((*start, *end, colour, width, dashes))

    def file(self) -> str:
        """Return the text of an SVG file."""
        return self._render(file=True) + "\n"

    def __html__(self) -> Markup:
        return Markup(self._render(file=False))

    def _render(self, *, file: bool) -> str:
        content = {"chart": self, "kinds": KINDS, "marks": MARKS, "file": file}
        return environment().get_template("chart.svg").render(content).strip()


def interval_rows(
    title: str,
    rows: Sequence[tuple[str, str, float, float, float]],
    label: str,
    *,
    line_at: float | None = None,
) -> Chart:
    """Draw a row for each method with its interval. rows: name, kind, value, low, high."""
    bounds = [value for row in rows for value in row[2:] if math.isfinite(value)]
    x = Scale.of(bounds if line_at is None else [*bounds, line_at], 228, WIDTH - 14)
    height = 70 + 26 * len(rows)
    chart = Chart(title, height, x, Scale(0, 1, height - 44, 10), label)
    if line_at is not None:
        chart.line((x(line_at), height - 44), (x(line_at), 10))
    y = Scale(-0.5, len(rows) - 0.5, 14, height - 48)
    for row, (name, kind, value, low, high) in enumerate(rows):
        chart.labels.append((218, y(row) + 4, shortened(name, MAX_LABEL), "end"))
        if math.isfinite(low) and math.isfinite(high):
            chart.line((x(low), y(row)), (x(high), y(row)), KINDS[kind].colour, 2, "")
        hint = f"{name}: {value:.4f} [{low:.4f}, {high:.4f}]"
        chart.marks.append((kind, x(value), y(row), hint))
    return chart


def cost_quality(
    title: str,
    rows: Sequence[tuple[str, str, float, float, float, float]],
    edge: Sequence[tuple[float, float]],
    label: str,
    *,
    arithmetic: bool = False,
) -> Chart:
    """Draw quality against cost. rows: name, kind, cost, value, low, high; edge: the Pareto frontier.

    arithmetic: whether costs are in percent of the baseline's arithmetic, not in seconds.
    """
    x = Scale.of([row[2] for row in rows], 64, WIDTH - 14, log=True)
    y = Scale.of([value for row in rows for value in row[3:]], 300, 12)
    unit = "Arithmetic, in % of the baseline's" if arithmetic else "Measured seconds"
    chart = Chart(title, 352, x, y, f"{unit} (log scale)", label)
    points = [(x(cost), y(value)) for cost, value in edge]
    for first, second in itertools.pairwise(points):
        corner = (second[0], first[1])
        chart.line(first, corner, dashes="4 3")
        chart.line(corner, second, dashes="4 3")
    for name, kind, cost, value, low, high in rows:
        chart.line((x(cost), y(low)), (x(cost), y(high)), KINDS[kind].colour, 1.5, "")
        paid = f"for {cost:.3g} % of the arithmetic" if arithmetic else f"after {cost:.3g} s"
        chart.marks.append((kind, x(cost), y(value), f"{name}: {value:.4f} {paid}"))
    return chart


def user_points(
    title: str, points: Sequence[tuple[float, float]], labels: tuple[str, str]
) -> Chart:
    """Draw a dot for each user with the values under two methods, and the line where they are equal."""
    values = [value for point in points for value in point]
    x, y = Scale.of(values, 64, 384, pad=0.03), Scale.of(values, 332, 12, pad=0.03)
    chart = Chart(title, 384, x, y, *labels)
    chart.line((x(x.low), y(x.low)), (x(x.high), y(x.high)))
    dots = [(x(first), y(second)) for first, second in points]
    chart.dots.append((KINDS["migrated"].colour, dots))
    return chart


def histogram(title: str, bins: Sequence[tuple[float, float, int]], label: str) -> Chart:
    """Draw the number of users in each bin of a difference. bins: from, to, users; a line marks zero."""
    x = Scale(bins[0][0], bins[-1][1], 64, WIDTH - 14)
    y = Scale(0, max(users for *_, users in bins) * 1.06 or 1, 240, 12)
    chart = Chart(title, 292, x, y, label, "Users")
    for low, high, users in bins:
        colour = KINDS["migrated" if low + high < 0 else "retrained"].colour
        width = max(x(high) - x(low) - 1, 0.5)
        chart.bars.append((x(low), y(users), width, y.start - y(users), colour))
    chart.line((x(0), y.start), (x(0), y.end))
    return chart


@dataclass(frozen=True)
class PlanPoint:
    """A plan in a chart of cost and kept quality, in percent of full retraining's.

    low, high: the interval of kept, NaN if unknown.
    """

    label: str
    kind: str
    cost: float
    kept: float
    low: float
    high: float


def share_kept_by_cost(
    title: str,
    plans: Sequence[PlanPoint],
    line: tuple[str, float] | None,
    labels: tuple[str, str],
) -> Chart:
    """Draw costs and kept shares of plans as labelled points with intervals.

    plans: earlier ones are labelled first; a label without room beside its mark is at the end of a
    line. line: name and height of a reference. labels: of the axes.
    """
    x = Scale.of([0.0, 100.0, *(plan.cost for plan in plans)], 64, WIDTH - 14, pad=0.08)
    values = [value for plan in plans for value in (plan.kept, plan.low, plan.high)]
    y = Scale.of(values if line is None else [*values, line[1]], HEIGHT - 52, 12)
    chart = Chart(title, HEIGHT, x, y, *labels)
    points = [(x(plan.cost) - x.start, y.start - y(plan.kept)) for plan in plans]
    names, thin = list[Box](), list[Box]()
    for plan in plans:
        if math.isfinite(plan.low) and math.isfinite(plan.high):
            at, bottom, top = x(plan.cost), y(plan.low), y(plan.high)
            chart.line((at, bottom), (at, top), KINDS[plan.kind].colour, 1.5, "")
            left = at - x.start
            thin.append(Box(left - 3, y.start - bottom, left + 3, y.start - top))
    if line is not None:
        name, value = line
        chart.line((x.start, y(value)), (x.end, y(value)))
        chart.labels.append((x.start + 4, y(value) + LINE - 2, name, "start"))
        up = y.start - y(value)
        names.append(Box(0, up - LINE, CHARACTER * len(name) + 4, up))
        thin.append(Box(0, up - 1, x.end, up + 1))
    scene = Scene(x.end - x.start, y.start - y.end, points, names, thin)
    placed = place_labels([scene], [plan.label for plan in plans])
    for plan, point, place in zip(plans, points, placed, strict=True):
        if place is not None:
            box = placed_box(*point, plan.label, place)
            middle, bottom = (box.left + box.right) / 2, y.start - box.bottom
            chart.labels.append((x.start + middle, bottom - 2, plan.label, "middle"))
            if place.position is None:
                start, end = (
                    (x.start + across, y.start - up)
                    for across, up in leader(*point, plan.label, place)
                )
                chart.line(start, end, width=0.75, dashes="")
        hint = f"{plan.label}: keeps {plan.kept:.0f} % at {plan.cost:.0f} % of the cost"
        chart.marks.append((plan.kind, x(plan.cost), y(plan.kept), hint))
    return chart


def behaviour(
    title: str,
    users: Sequence[tuple[float, float, float]],
    ranges: tuple[tuple[float, float], float, tuple[float, float]],
    labels: tuple[str, str],
) -> Chart:
    """Draw a dot for each user: the mean and the spread of the predictions.

    users: mean, spread, and the mean actual outcome, which is the colour. ranges: range of means,
    largest spread, range of outcomes. labels: of the axes.
    """
    means, spread, (low, high) = ranges
    x = Scale.of(means, 46, 180, pad=0.04)
    y = Scale(0, 1.05 * spread or 1, 278, 12)
    chart = Chart(title, HEIGHT, x, y, *labels, width=186)
    groups: list[list[tuple[float, float]]] = [[] for _ in AMOUNTS]
    for mean, each, outcome in users:
        share = (outcome - low) / (high - low) if high > low else 0.5
        groups[min(int(share * len(AMOUNTS)), len(AMOUNTS) - 1)].append((x(mean), y(each)))
    chart.dots = [group for group in zip(AMOUNTS, groups, strict=True) if group[1]]
    return chart
