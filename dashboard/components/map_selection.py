"""Selections of users on a view: by a click, a lasso or box, or a cluster; pure functions.

A selection is in the address: up to MAX_IDS user ids (`users`), else the outline that was drawn
(`area`: corners as "x,y" in thousandths of the panel, and `on`: the view and panel that it was drawn
on, such as "umap:source"), else a `cluster`. The server recomputes which users are inside, so
nothing else is stored, and a selection stays the same on every view.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

SCALE = 30_000  # coordinates of a panel are integers from 0 to this
GRID = 1000  # coordinates in the address
MAX_IDS = 50
MAX_CORNERS = 40
CORNER = re.compile(r"(-?\d{1,4}),(-?\d{1,4})")


@dataclass(frozen=True)
class Axes:
    """The data units of a panel: the lowest value and the span of each axis."""

    low: tuple[float, float]
    span: tuple[float, float]

    def of(self, points: np.ndarray) -> np.ndarray:
        """Return coordinates [n, 2] from 0 to SCALE in data units, [n, 2] float32."""
        return (np.asarray(self.low) + points * (np.asarray(self.span) / SCALE)).astype(np.float32)


@dataclass(frozen=True)
class MapSelection:
    """Selected users: by id, by an outline on a panel of a view, or by cluster; or none."""

    users: tuple[str, ...] = ()
    area: tuple[tuple[int, int], ...] = ()
    on: str = ""
    cluster: int | None = None

    def __bool__(self) -> bool:
        return bool(self.users or self.area or self.cluster is not None)

    @property
    def view(self) -> str:
        """The view that the outline was drawn on."""
        return self.on.partition(":")[0]

    @property
    def panel(self) -> str:
        """The panel that the outline was drawn on."""
        return self.on.partition(":")[2]


def to_grid(
    panels: Mapping[str, np.ndarray],
    *,
    square: bool,
    covered: Mapping[str, np.ndarray] | None = None,
) -> tuple[dict[str, np.ndarray], Axes]:
    """Return the coordinates of users on each panel, [n, 2] int16, on one scale from 0 to SCALE.

    panels: coordinates [n, 2]. square: one unit is as long on both axes; else the second axis
    begins at 0. covered: points that the scale covers, if not those of panels.
    """
    covered_points = list((covered or panels).values())
    low = np.min([points.min(axis=0) for points in covered_points], axis=0).astype(np.float64)
    high = np.max([points.max(axis=0) for points in covered_points], axis=0).astype(np.float64)
    if square:
        span = np.full(2, float((high - low).max()) or 1.0)
        low = low - (span - (high - low)) / 2
    else:
        low[1] = min(low[1], 0.0)
        span = np.where(high > low, high - low, 1.0)
    axes = Axes((float(low[0]), float(low[1])), (float(span[0]), float(span[1])))
    grid = {}
    for name, points in panels.items():
        grid[name] = np.empty((len(points), 2), np.int16)
        for side in range(2):
            grid[name][:, side] = np.rint((points[:, side] - low[side]) * (SCALE / span[side]))
    return grid, axes


def event(
    selection: Mapping[str, Any], on: str, axes: Axes | None = None
) -> tuple[MapSelection | None, list[int]]:
    """Return the outline in a chart's selection event, or the row ids of clicked points.

    axes: of a chart in data units.
    """
    outlines = [*(selection.get("lasso") or []), *(selection.get("box") or [])]
    if not outlines:
        return None, row_ids(selection.get("points") or [])
    x, y = (np.asarray(outlines[-1][axis], np.float64) for axis in "xy")
    if axes is not None:
        x, y = (
            (values - low) * (SCALE / span)
            for values, low, span in zip((x, y), axes.low, axes.span, strict=True)
        )
    return MapSelection(area=outline(x, y), on=on), []


def row_ids(points: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the row ids in points' customdata (alone or first of several) without repetitions."""
    ids = []
    for point in points:
        value = point.get("customdata")
        if isinstance(value, Mapping):  # a row of a typed array
            value = value.get("0")
        value = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(value, int | float):
            ids.append(int(value))
    return list(dict.fromkeys(ids))


def outline(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray
) -> tuple[tuple[int, int], ...]:
    """Return at most MAX_CORNERS corners of a lasso or box, in thousandths of the map."""
    corners = np.column_stack([x, y]).astype(np.float64)
    if len(corners) == 2:  # a box names two opposite corners
        (a, b), (c, d) = corners
        corners = np.array([[a, b], [c, b], [c, d], [a, d]])
    if len(corners) > MAX_CORNERS:
        corners = corners[np.linspace(0, len(corners) - 1, MAX_CORNERS).astype(int)]
    rounded = np.rint(corners * GRID / SCALE).astype(int).clip(-GRID, 2 * GRID)
    return tuple(dict.fromkeys((int(a), int(b)) for a, b in rounded))


def is_corner(text: str) -> bool:
    """Say whether a text is a corner as in the address."""
    return CORNER.fullmatch(text) is not None


def inside(points: np.ndarray, corners: Sequence[tuple[int, int]]) -> np.ndarray:
    """Say for each point [n, 2] on the scale of the wire whether it is inside an outline, [n] bool.

    Even-odd rule: a point is inside if a ray from it crosses the outline an odd number of times.
    """
    polygon = np.asarray(corners, dtype=np.float64) * SCALE / GRID
    # Only points in the bounding box are tested.
    box = (points >= polygon.min(axis=0)) & (points <= polygon.max(axis=0))
    candidates = np.flatnonzero(box.all(axis=1))
    x, y = points[candidates, 0].astype(np.float64), points[candidates, 1].astype(np.float64)
    inner = np.zeros(len(candidates), dtype=bool)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if ay == by:
            continue
        crosses = (ay > y) != (by > y)
        inner ^= crosses & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    result = np.zeros(len(points), dtype=bool)
    result[candidates[inner]] = True
    return result


def selected_rows(
    selection: MapSelection, frame: pd.DataFrame, points: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the rows of selected users in ascending order, [k] int.

    points: by panel, of the view that an outline was drawn on.
    """
    if selection.users:
        return np.flatnonzero(frame["user_id"].isin(selection.users))
    if selection.area:
        return np.flatnonzero(inside(points[selection.panel], selection.area))
    if selection.cluster is not None:
        return np.flatnonzero(frame["cluster"] == selection.cluster)
    return np.empty(0, dtype=np.int64)


def signature(selection: Mapping[str, Any]) -> str:
    """Return a text that differs between selection events of a chart; empty for no selection."""
    outlines = {name: selection.get(name) for name in ("lasso", "box")}
    if any(outlines.values()):
        return str(outlines)
    ids = row_ids(selection.get("points") or [])
    return str(ids) if ids else ""
