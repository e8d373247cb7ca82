"""The time that work will still take, as a range, from how fast it went so far."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

# Below these, a speed says little: seconds since the first step, and reports of progress.
MIN_SECONDS = 2.0
MIN_REPORTS = 3
# Where all stages to come are guesses, the share of the work that must be done before one is made.
MIN_SHARE_OF_GUESSES = 0.15
MAX_POINTS = 400


def as_dict(progress: Any) -> dict[str, Any]:
    """Return a report as a dictionary."""
    if dataclasses.is_dataclass(progress) and not isinstance(progress, type):
        return dataclasses.asdict(progress)
    return dict(progress)


def share_done(report: Mapping[str, Any]) -> float | None:
    """Return the share of the work that a report says is done, in [0, 1]; None if it says none.

    A report about several stages says it in "overall", one about a single stage in its steps.
    """
    overall, total = report.get("overall"), report.get("total")
    if overall is not None:
        return float(overall)
    return float(report.get("step") or 0) / float(total) if total else None


class TimeLeft:
    """Estimates the seconds left from reports of the share done.

    The range lies between the slower and the faster of two measured speeds: since the first step, and
    in the last half of that time. Stages to come that nothing was measured for may take half or
    twice as long as their reports assume; the range is widened by their share, and nothing is
    estimated before so much is done that the first stages, often short ones, say little alone.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._stage = ""
        self._unmeasured = 0.0
        self._points: list[tuple[float, float]] = []

    def add(self, report: Mapping[str, Any]) -> None:
        """Take a report: its share done, and "unmeasured", the share of the rest that is a guess."""
        share = share_done(report)
        if share is None:
            return
        if report.get("overall") is None and report.get("stage") != self._stage:
            # A new stage begins: the speed of the previous one does not apply to it.
            self._stage = str(report.get("stage"))
            self._points = []
        self._unmeasured = float(report.get("unmeasured") or 0.0)
        if self._points and share <= self._points[-1][1]:
            return
        self._points.append((self.clock(), share))
        if len(self._points) > MAX_POINTS:
            self._points[1:-1] = self._points[1:-1:2]

    def seconds(self) -> tuple[float, float] | None:
        """Return the least and the most seconds left; None while too little was measured."""
        now = self.clock()
        if len(self._points) < MIN_REPORTS or now - self._points[0][0] < MIN_SECONDS:
            return None
        (first, begun), (_, done) = self._points[0], self._points[-1]
        if done - begun < MIN_SHARE_OF_GUESSES * self._unmeasured * (1.0 - begun):
            return None
        half = first + (now - first) / 2
        middle, before = [point for point in self._points if point[0] <= half][-1]
        speeds = [(done - begun) / (now - first), (done - before) / (now - middle)]
        # No progress in the last half: a stage that reports no steps.
        speeds = [speed for speed in speeds if speed > 0]
        wide = 1.0 + self._unmeasured
        estimates = [max(0.0, 1.0 - done) / speed for speed in speeds]
        return min(estimates) / wide, max(estimates) * wide
