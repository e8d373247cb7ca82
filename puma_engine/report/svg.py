"""Charts as inline SVG: still pictures that need neither scripts nor a network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from puma_engine.report.html import Element, tag
from puma_engine.report.theme import KINDS, NEUTRAL

WIDTH = 520
LONGEST = 30
# Half the size of a mark, and its outline around the origin.
SIZE = 5
MARKS = {
    "circle": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "square": "M-4.5-4.5H4.5V4.5H-4.5Z",
    "diamond": "M0-6L6 0L0 6L-6 0Z",
    "star": "M0-6.5L1.7-2H6.2L2.6.8L3.9 5.4L0 2.6L-3.9 5.4L-2.6.8L-6.2-2H-1.7Z",
    "triangle-up": "M0-6L5.5 4.5H-5.5Z",
    "x": "M-5-3L-3-5L0-2L3-5L5-3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
    "cross": "M-1.8-5.5H1.8V-1.8H5.5V1.8H1.8V5.5H-1.8V1.8H-5.5V-1.8H-1.8Z",
}


@dataclass(frozen=True)
class Scale:
    """A straight or logarithmic map from values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the range, four to eight of them."""
        if not self.log:
            return self._steps()
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 2, 5)):
            values = [factor * 10.0**power for power in decades for factor in factors]
            inside = [one for one in values if self.low <= one <= self.high]
            if len(inside) >= 3:
                return inside
        return self._steps()

    def _steps(self) -> list[float]:
        rough = (self.high - self.low) / 6
        unit = 10 ** math.floor(math.log10(rough))
        step = unit * next(one for one in (1, 2, 5, 10) if one * unit >= rough)
        first = math.ceil(self.low / step)
        return [step * one for one in range(first, math.floor(self.high / step) + 1)]


def scale(
    values: Sequence[float], start: float, end: float, *, log: bool = False, pad: float = 0.06
) -> Scale:
    """Return a scale that shows all values with some room around them."""
    known = [one for one in values if math.isfinite(one) and (one > 0 or not log)] or [1.0]
    low, high = min(known), max(known)
    if log:
        return Scale(low / 1.6, high * 1.6, start, end, log=True)
    room = pad * (high - low) or max(abs(high), 1.0) * pad
    return Scale(low - room, high + room, start, end)


class Chart:
    """A picture that marks, lines and words are put on, by the values of its two scales."""

    def __init__(self, title: str, height: float, x: Scale, y: Scale) -> None:
        self.x, self.y = x, y
        self.root = tag("svg", tag("title", title), viewBox=f"0 0 {WIDTH} {height:.0f}", role="img")
        self.height = height

    def put(self, element: Element) -> None:
        """Add an element."""
        self.root.append(element)

    def words(self, x: float, y: float, text: str, anchor: str = "middle", cls: str = "") -> None:
        """Write words at pixels."""
        self.put(tag("text", text, x=_n(x), y=_n(y), text_anchor=anchor, cls=cls))

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, **more: object) -> None:
        """Draw a line between pixels."""
        ends = {"x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2)}
        self.put(tag("line", **ends, stroke=colour, **more))

    def mark(self, kind: str, x: float, y: float, hint: str = "") -> None:
        """Draw the mark of a kind of prompts at values, with a hint shown under the pointer."""
        look = KINDS[kind]
        at = f"translate({_n(self.x(x))} {_n(self.y(y))})"
        self.put(
            tag("path", tag("title", hint), d=MARKS[look.symbol], fill=look.colour, transform=at)
        )

    def axis_x(self, label: str) -> None:
        """Draw the lower axis with its grid and label."""
        for value in self.x.ticks():
            at = self.x(value)
            self.line(at, self.y.start, at, self.y.end, "currentColor", cls="grid")
            self.words(at, self.y.start + 16, number(value), cls="tick")
        self.words((self.x.start + self.x.end) / 2, self.height - 6, label)

    def axis_y(self, label: str) -> None:
        """Draw the left axis with its grid and label."""
        for value in self.y.ticks():
            at = self.y(value)
            self.line(self.x.start, at, self.x.end, at, "currentColor", cls="grid")
            self.words(self.x.start - 6, at + 4, number(value), "end", "tick")
        middle = (self.y.start + self.y.end) / 2
        turned = tag(
            "text", label, text_anchor="middle", transform=f"translate(12 {middle:.0f}) rotate(-90)"
        )
        self.put(turned)


def number(value: float) -> str:
    """Return a tick's value, short."""
    text = f"{value:.4g}"
    return "0" if text in ("-0", "0") else text


def interval_rows(
    title: str,
    rows: Sequence[tuple[str, str, float, float, float]],
    label: str,
    *,
    line_at: float | None = None,
) -> Element:
    """A line a row with its interval; rows: name, kind, value, low, high."""
    ends = [one for row in rows for one in row[2:] if math.isfinite(one)]
    ends += [] if line_at is None else [line_at]
    height = 30 + 26 * len(rows) + 40
    x = scale(ends, 228, WIDTH - 14)
    chart = Chart(title, height, x, Scale(0, 1, height - 44, 10))
    chart.axis_x(label)
    if line_at is not None:
        at = x(line_at)
        chart.line(at, chart.y.start, at, chart.y.end, NEUTRAL, stroke_dasharray="3 3")
    chart.y = Scale(-0.5, len(rows) - 0.5, 14, height - 48)
    for place, (name, kind, value, low, high) in enumerate(rows):
        at = chart.y(place)
        chart.words(218, at + 4, name if len(name) <= LONGEST else name[: LONGEST - 1] + "…", "end")
        if math.isfinite(low) and math.isfinite(high):
            chart.line(x(low), at, x(high), at, KINDS[kind].colour, stroke_width=2)
        chart.mark(kind, value, place, f"{name}: {value:.4f} [{low:.4f}, {high:.4f}]")
    return chart.root


def cost_quality(
    title: str,
    rows: Sequence[tuple[str, str, float, float, float, float]],
    edge: Sequence[tuple[float, float]],
    label: str,
) -> Element:
    """Quality against seconds; rows: name, kind, seconds, value, low, high; edge: the frontier."""
    x = scale([row[2] for row in rows], 64, WIDTH - 14, log=True)
    y = scale([one for row in rows for one in row[3:]], 300, 12)
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
    return chart.root


def user_points(
    title: str, points: Sequence[tuple[float, float]], labels: tuple[str, str]
) -> Element:
    """A dot a user: the value under two methods, and the line where they are equal."""
    values = [one for point in points for one in point]
    x, y = scale(values, 64, 384, pad=0.03), scale(values, 332, 12, pad=0.03)
    chart = Chart(title, 384, x, y)
    chart.axis_x(labels[0])
    chart.axis_y(labels[1])
    low, high = x.low, x.high
    chart.line(x(low), y(low), x(high), y(high), NEUTRAL, stroke_dasharray="3 3")
    dots = "".join(f"M{_n(x(one))} {_n(y(two))}h0" for one, two in points)
    chart.put(tag("path", d=dots, stroke=KINDS["migrated"].colour, cls="dots"))
    return chart.root


def bars(title: str, counts: Sequence[tuple[float, float, int]], label: str) -> Element:
    """Bars from `low` to `high` of how many users differ so much; zero is marked."""
    x = Scale(counts[0][0], counts[-1][1], 64, WIDTH - 14)
    y = Scale(0, max(count for *_, count in counts) * 1.06 or 1, 240, 12)
    chart = Chart(title, 292, x, y)
    chart.axis_x(label)
    chart.axis_y("Users")
    for low, high, count in counts:
        kind = "migrated" if low + high < 0 else "retrained"
        width = max(x(high) - x(low) - 1, 0.5)
        place = {"x": _n(x(low)), "y": _n(y(count)), "width": _n(width)}
        chart.put(tag("rect", **place, height=_n(y.start - y(count)), fill=KINDS[kind].colour))
    chart.line(x(0), y.start, x(0), y.end, NEUTRAL, stroke_dasharray="3 3")
    return chart.root


STYLE = (
    "svg{font:12px system-ui,sans-serif;color:#1f2933;background:#fff;fill:currentColor}"
    ".grid{stroke-opacity:.12}.tick{font-size:11px}"
)


def still(chart: Element) -> str:
    """Return a chart as the text of an SVG file that stands alone."""
    chart.set("xmlns", "http://www.w3.org/2000/svg")
    chart.insert(0, tag("style", STYLE))
    return ElementTree.tostring(chart, encoding="unicode") + "\n"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
