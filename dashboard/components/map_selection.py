"""Which users of a map are picked: by a click, a lasso or box, or a cluster; pure functions.

A pick is in the address: up to MOST_IDS user ids (`users`), else the outline that was drawn
(`area`, corners as "x,y" in thousandths of the map, and `on`, the map it was drawn on), or a
`cluster`. The server works out again who lies inside, so the address is all there is to keep.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MAPS = ("source", "migrated")
SCALE = 30_000  # coordinates on the wire: whole numbers from 0 to this
GRID = 1000  # coordinates in the address
MOST_IDS = 50
MOST_CORNERS = 40
CORNER = re.compile(r"(-?\d{1,4}),(-?\d{1,4})")


@dataclass(frozen=True)
class Pick:
    """What was picked; one of the three, or nothing at all."""

    users: tuple[str, ...] = ()
    area: tuple[tuple[int, int], ...] = ()
    on: str = MAPS[0]
    cluster: int | None = None

    def __bool__(self) -> bool:
        return bool(self.users or self.area or self.cluster is not None)


def grid(frame: pd.DataFrame, whole: pd.DataFrame | None = None) -> dict[str, np.ndarray]:
    """Return the coordinates of each map, [n, 2] int16, both on one scale from 0 to SCALE.

    whole: the users whose extent the scale covers, if these are only some of them.
    """
    every = frame if whole is None else whole
    ends = [(every[axes].min(), every[axes].max()) for axes in ([f"{n}_x", f"{n}_y"] for n in MAPS)]
    low = np.min([one.to_numpy(np.float64) for one, _ in ends], axis=0)
    high = np.max([one.to_numpy(np.float64) for _, one in ends], axis=0)
    span = float((high - low).max()) or 1.0
    start = low - (span - (high - low)) / 2
    found = {}
    for name in MAPS:
        found[name] = np.empty((len(frame), 2), np.int16)
        for side, axis in enumerate("xy"):
            places = frame[f"{name}_{axis}"].to_numpy()
            found[name][:, side] = np.rint((places - start[side]) * (SCALE / span))
    return found


def event(selection: Mapping[str, Any], on: str) -> tuple[Pick | None, list[int]]:
    """Read one chart's selection: an outline, or the row ids of clicked points."""
    outlines = [*(selection.get("lasso") or []), *(selection.get("box") or [])]
    if outlines:
        return Pick(area=outline(outlines[-1]["x"], outlines[-1]["y"]), on=on), []
    return None, row_ids(selection.get("points") or [])


def row_ids(points: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the row ids that points carry, alone or first of several, each once."""
    found = []
    for point in points:
        value = point.get("customdata")
        if isinstance(value, Mapping):  # a row of a typed array
            value = value.get("0")
        value = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(value, int | float):
            found.append(int(value))
    return list(dict.fromkeys(found))


def outline(x: Sequence[float], y: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """Return the corners of a lasso or box, in thousandths of the map, at most MOST_CORNERS."""
    corners = np.column_stack([x, y]).astype(np.float64)
    if len(corners) == 2:  # a box names two opposite corners
        (a, b), (c, d) = corners
        corners = np.array([[a, b], [c, b], [c, d], [a, d]])
    if len(corners) > MOST_CORNERS:
        corners = corners[np.linspace(0, len(corners) - 1, MOST_CORNERS).astype(int)]
    rounded = np.rint(corners * GRID / SCALE).astype(int).clip(-GRID, 2 * GRID)
    return tuple(dict.fromkeys((int(a), int(b)) for a, b in rounded))


def is_corner(text: str) -> bool:
    """Say whether a text of the address is a corner."""
    return CORNER.fullmatch(text) is not None


def corner(text: str) -> tuple[int, int]:
    """Return the corner that a text of the address names."""
    first, second = text.split(",")
    return int(first), int(second)


def inside(points: np.ndarray, corners: Sequence[tuple[int, int]]) -> np.ndarray:
    """Say for each point [n, 2] on the wire's scale whether an outline holds it, [n] bool."""
    polygon = np.asarray(corners, dtype=np.float64) * SCALE / GRID
    # Most users of a large map are far from the outline.
    box = (points >= polygon.min(axis=0)) & (points <= polygon.max(axis=0))
    near = np.flatnonzero(box.all(axis=1))
    x, y = points[near, 0].astype(np.float64), points[near, 1].astype(np.float64)
    inner = np.zeros(len(near), dtype=bool)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if ay == by:
            continue
        crosses = (ay > y) != (by > y)
        inner ^= crosses & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    found = np.zeros(len(points), dtype=bool)
    found[near[inner]] = True
    return found


def picked_rows(pick: Pick, frame: pd.DataFrame, points: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the rows of the map's users that a pick holds, sorted, [k] int."""
    if pick.users:
        return np.flatnonzero(frame["user_id"].isin(pick.users))
    if pick.area:
        return np.flatnonzero(inside(points[pick.on], pick.area))
    if pick.cluster is not None:
        return np.flatnonzero(frame["cluster"] == pick.cluster)
    return np.empty(0, dtype=np.int64)


def signature(selection: Mapping[str, Any]) -> str:
    """Return a text that tells one chart selection from another; empty for none."""
    found = {name: selection.get(name) for name in ("lasso", "box")}
    if any(found.values()):
        return str(found)
    ids = row_ids(selection.get("points") or [])
    return str(ids) if ids else ""
