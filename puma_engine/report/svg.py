"""Charts as static SVG, which a browser without scripts shows and a printer prints.

Own code, since libraries that draw static charts need a browser (Plotly with Kaleido) or a large
dependency (Matplotlib).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from puma_engine.report.text import visible
from puma_engine.report.theme import KINDS, NEUTRAL

WIDTH = 520
MAX_LABEL = 30
# Outline of each symbol around the origin, of equal visual size.
MARKS = {
    "circle": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "square": "M-4.5-4.5H4.5V4.5H-4.5Z",
    "diamond": "M0-6L6 0L0 6L-6 0Z",
    "star": "M0-6.5L1.7-2H6.2L2.6.8L3.9 5.4L0 2.6L-3.9 5.4L-2.6.8L-6.2-2H-1.7Z",
    "triangle-up": "M0-6L5.5 4.5H-5.5Z",
    "x": "M-5-3L-3-5L0-2L3-5L5-3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
    "cross": "M-1.8-5.5H1.8V-1.8H5.5V1.8H1.8V5.5H-1.8V1.8H-5.5V-1.8H-1.8Z",
}
STYLE = (
    "svg{font:12px system-ui,sans-serif;color:#1f2933;background:#fff;fill:currentColor}"
    ".grid{stroke-opacity:.12}.tick{font-size:11px}"
)


def element(name: str, *children: str, **attributes: object) -> Markup:
    """Return an element with escaped text; cls is its class, underscores become dashes."""
    given = Markup("").join(
        Markup(' {}="{}"').format(
            "class" if key == "cls" else key.replace("_", "-"),
            f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else visible(str(value)),
        )
        for key, value in attributes.items()
    )
    if not children:
        return Markup("<{}{} />").format(Markup(name), given)
    inner = Markup("").join(
        child if isinstance(child, Markup) else escape(visible(child)) for child in children
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), given, inner)


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from values in [low, high] to pixels in [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

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


def scale(
    values: Sequence[float], start: float, end: float, *, log: bool = False, pad: float = 0.06
) -> Scale:
    """Return a scale that shows all finite values (above 0 if log) with a margin around them."""
    known = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    low, high = min(known), max(known)
    if log:
        return Scale(low / 1.6, high * 1.6, start, end, log=True)
    room = pad * (high - low) or max(abs(high), 1.0) * pad
    return Scale(low - room, high + room, start, end)


class Chart:
    """A chart of so many pixels in height, with two scales; templates print it as inline SVG."""

    def __init__(self, title: str, height: float, x: Scale, y: Scale) -> None:
        self.title, self.height, self.x, self.y = title, height, x, y
        self.parts: list[Markup] = []

    def add(self, name: str, *children: str, **attributes: object) -> None:
        """Append an element."""
        self.parts.append(element(name, *children, **attributes))

    def text(self, x: float, y: float, text: str, anchor: str = "middle", cls: str = "") -> None:
        """Write text at pixels."""
        self.add("text", text, x=float(x), y=float(y), text_anchor=anchor, cls=cls)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, **more: object) -> None:
        """Draw a line between pixels."""
        ends = {"x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2)}
        self.add("line", **ends, stroke=colour, **more)

    def mark(self, kind: str, x: float, y: float, hint: str) -> None:
        """Draw the mark of a kind of prompts at values; the hint shows under the pointer."""
        look = KINDS[kind]
        place = f"translate({self.x(x):.1f} {self.y(y):.1f})"
        title = element("title", hint)
        self.add("path", title, d=MARKS[look.symbol], fill=look.colour, transform=place)

    def axis_x(self, label: str) -> None:
        """Draw the lower axis with its grid and label."""
        for value in self.x.ticks():
            at = self.x(value)
            self.line(at, self.y.start, at, self.y.end, "currentColor", cls="grid")
            self.text(at, self.y.start + 16, number(value), cls="tick")
        self.text((self.x.start + self.x.end) / 2, self.height - 6, label)

    def axis_y(self, label: str) -> None:
        """Draw the left axis with its grid and label."""
        for value in self.y.ticks():
            at = self.y(value)
            self.line(self.x.start, at, self.x.end, at, "currentColor", cls="grid")
            self.text(self.x.start - 6, at + 4, number(value), "end", "tick")
        middle = (self.y.start + self.y.end) / 2
        turned = f"translate(12 {middle:.0f}) rotate(-90)"
        self.add("text", label, text_anchor="middle", transform=turned)

    def svg(self, *first: Markup, **attributes: object) -> Markup:
        """Return the chart as an svg element; first: elements before those of the chart."""
        box = {"viewBox": f"0 0 {WIDTH} {self.height:.0f}", "role": "img"}
        title = element("title", self.title)
        return element("svg", *first, title, *self.parts, **box, **attributes)

    def file(self) -> str:
        """Return the text of an SVG file."""
        return str(self.svg(element("style", STYLE), xmlns="http://www.w3.org/2000/svg")) + "\n"

    def __html__(self) -> Markup:
        return self.svg()


def number(value: float) -> str:
    """Return a tick's value with up to four digits."""
    text = f"{value:.4g}"
    return "0" if text == "-0" else text


def interval_rows(
    title: str,
    rows: Sequence[tuple[str, str, float, float, float]],
    label: str,
    *,
    line_at: float | None = None,
) -> Chart:
    """A row per method with its interval; rows: name, kind, value, low, high."""
    ends = [value for row in rows for value in row[2:] if math.isfinite(value)]
    ends += [] if line_at is None else [line_at]
    height = 30 + 26 * len(rows) + 40
    x = scale(ends, 228, WIDTH - 14)
    chart = Chart(title, height, x, Scale(0, 1, height - 44, 10))
    chart.axis_x(label)
    if line_at is not None:
        at = x(line_at)
        chart.line(at, chart.y.start, at, chart.y.end, NEUTRAL, stroke_dasharray="3 3")
    chart.y = Scale(-0.5, len(rows) - 0.5, 14, height - 48)
    for row, (name, kind, value, low, high) in enumerate(rows):
        at = chart.y(row)
        short = name if len(name) <= MAX_LABEL else name[: MAX_LABEL - 1] + "…"
        chart.text(218, at + 4, short, "end")
        if math.isfinite(low) and math.isfinite(high):
            chart.line(x(low), at, x(high), at, KINDS[kind].colour, stroke_width=2)
        chart.mark(kind, value, row, f"{name}: {value:.4f} [{low:.4f}, {high:.4f}]")
    return chart


def cost_quality(
    title: str,
    rows: Sequence[tuple[str, str, float, float, float, float]],
    edge: Sequence[tuple[float, float]],
    label: str,
) -> Chart:
    """Quality against seconds; rows: name, kind, seconds, value, low, high; edge: the frontier."""
    x = scale([row[2] for row in rows], 64, WIDTH - 14, log=True)
    y = scale([value for row in rows for value in row[3:]], 300, 12)
    chart = Chart(title, 352, x, y)
    chart.axis_x("Measured seconds (log scale)")
    chart.axis_y(label)
    points = [(x(seconds), y(value)) for seconds, value in edge]
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        chart.line(x1, y1, x2, y1, NEUTRAL, stroke_dasharray="4 3")
        chart.line(x2, y1, x2, y2, NEUTRAL, stroke_dasharray="4 3")
    for name, kind, seconds, value, low, high in rows:
        at = x(seconds)
        chart.line(at, y(low), at, y(high), KINDS[kind].colour, stroke_width=1.5)
        chart.mark(kind, seconds, value, f"{name}: {value:.4f} after {seconds:.3g} s")
    return chart


def user_points(
    title: str, points: Sequence[tuple[float, float]], labels: tuple[str, str]
) -> Chart:
    """A dot per user: the value under two methods, and the line where they are equal."""
    values = [value for point in points for value in point]
    x, y = scale(values, 64, 384, pad=0.03), scale(values, 332, 12, pad=0.03)
    chart = Chart(title, 384, x, y)
    chart.axis_x(labels[0])
    chart.axis_y(labels[1])
    low, high = x.low, x.high
    chart.line(x(low), y(low), x(high), y(high), NEUTRAL, stroke_dasharray="3 3")
    dots = "".join(f"M{x(first):.1f} {y(second):.1f}h0" for first, second in points)
    chart.add("path", d=dots, stroke=KINDS["migrated"].colour, cls="dots")
    return chart


def histogram(title: str, bins: Sequence[tuple[float, float, int]], label: str) -> Chart:
    """Users per bin of a difference; bins: from, to, users; the line marks zero."""
    x = Scale(bins[0][0], bins[-1][1], 64, WIDTH - 14)
    y = Scale(0, max(users for *_, users in bins) * 1.06 or 1, 240, 12)
    chart = Chart(title, 292, x, y)
    chart.axis_x(label)
    chart.axis_y("Users")
    for low, high, users in bins:
        kind = "migrated" if low + high < 0 else "retrained"
        box = {"x": x(low), "y": y(users), "width": max(x(high) - x(low) - 1, 0.5)}
        chart.add("rect", **box, height=y.start - y(users), fill=KINDS[kind].colour)
    chart.line(x(0), y.start, x(0), y.end, NEUTRAL, stroke_dasharray="3 3")
    return chart
