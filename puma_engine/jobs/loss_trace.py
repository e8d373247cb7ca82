"""The course of a job's losses, thinned so that it stays small however long the job runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_POINTS = 200


class LossTrace:
    """Steps and losses of each stage of a job, at most MOST_POINTS a stage, evenly spaced."""

    def __init__(self) -> None:
        self.stages: dict[str, list[tuple[int, float]]] = {}
        self._every: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    def add(self, report: Mapping[str, Any]) -> None:
        """Keep the loss of a report, if it has one and its turn has come."""
        stage, loss = str(report.get("stage", "")), report.get("loss")
        if loss is None:
            return
        points = self.stages.setdefault(stage, [])
        seen = self._seen[stage] = self._seen.get(stage, -1) + 1
        every = self._every.setdefault(stage, 1)
        if seen % every:
            return
        points.append((int(report.get("step") or 0), float(loss)))
        if len(points) > MOST_POINTS:
            self.stages[stage] = points[::2]
            self._every[stage] = 2 * every
