"""Users counted in the cells of a map: what a map of a million users shows instead of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard.components import figures, query_params
from dashboard.components.map_data import Shown, values_of
from dashboard.components.map_figures import HEIGHT, Scale, outline_shape, value_scale
from dashboard.components.map_selection import GRID, MAPS, SCALE, Pick
from dashboard.components.theme import AMOUNTS, NEUTRAL

CELLS = 120  # cells along each side of a map
SIDE = SCALE // CELLS
SHADES = {
    "users": "Number of users",
    "variance": "Mean variance",
    "loss": "Mean loss on the source",
    "gain": "Mean gain of migrating",
}


def choose_shade() -> str:
    """Let people choose what the cells show."""
    return query_params.choose("Colour by", list(SHADES), "shade", labels=SHADES)


def charts(shown: Shown, shade: str, pick: Pick, rows: np.ndarray, titles: Sequence[str]) -> None:
    """Draw both maps of everybody; what is picked stands out on both."""
    values, label, missing = values_of(shown, shade)
    if missing:
        st.info(missing, icon=":material/help:")
    mean = None if missing or not len(values) else values
    scale = None
    if mean is not None:
        spread = cells(shown.points[MAPS[0]], mean, None)["mean"].to_numpy()
        scale = value_scale(spread, f"mean {label}", differences=shade == "gain")
    for column, name, title in zip(st.columns(2), MAPS, titles, strict=True):
        points = shown.points[name]
        whole = cells(points, mean, None)
        some = cells(points, mean, rows) if pick else whole
        figure = density_figure(
            some,
            whole if pick else None,
            scale,
            pick.area if pick.on == name else (),
            st.session_state["mouse"] or "lasso",
        )
        with column:
            figures.show(
                figure,
                some,
                f"crowd-{name}",
                title=title,
                x="map axis 1 (no unit)",
                y="map axis 2 (no unit)",
                height=HEIGHT,
                select=("points", "box", "lasso"),
            )


def cell_of(points: np.ndarray) -> np.ndarray:
    """Return the cell [n] of points [n, 2] on the wire's scale, counted row by row."""
    column, row = np.clip(points // SIDE, 0, CELLS - 1).astype(np.int32).T
    return row * CELLS + column


def cells(points: np.ndarray, values: np.ndarray | None, rows: np.ndarray | None) -> pd.DataFrame:
    """Count users in each occupied cell, and average their values; rows: those who count.

    Columns: cell, x, y (its middle, on the wire's scale), users, and mean if there are values
    (over users who have one, NaN without any).
    """
    cell = cell_of(points)
    if rows is not None:
        cell = cell[rows]
        values = None if values is None else values[rows]
    users = np.bincount(cell, minlength=CELLS * CELLS)
    found = np.flatnonzero(users)
    middle = SIDE / 2 + SIDE * np.column_stack([found % CELLS, found // CELLS])
    table = pd.DataFrame(
        {"cell": found, "x": middle[:, 0], "y": middle[:, 1], "users": users[found]}
    )
    if values is None:
        return table
    known = np.isfinite(values)
    total = np.bincount(cell[known], weights=values[known], minlength=CELLS * CELLS)
    count = np.bincount(cell[known], minlength=CELLS * CELLS)
    with np.errstate(invalid="ignore"):
        return table.assign(mean=(total / np.where(count, count, np.nan))[found])


def corners_of(cell: int) -> tuple[tuple[int, int], ...]:
    """Return the outline of a cell, in thousandths of the map."""
    row, column = divmod(cell, CELLS)
    step = GRID / CELLS
    x, y = (
        [round(step * (column + end)) for end in (0, 1)],
        [round(step * (row + end)) for end in (0, 1)],
    )
    return (x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])


def density_figure(
    shown: pd.DataFrame,
    behind: pd.DataFrame | None,
    scale: Scale | None,
    corners: Sequence[tuple[int, int]] = (),
    mouse: str = "lasso",
) -> go.Figure:
    """Draw cells by the number of their users, or by the mean of a value on a scale.

    shown: a table of `cells`; behind: cells of everybody, faint, when only some are shown.
    """
    figure = go.Figure()
    if behind is not None:
        figure.add_heatmap(
            **_square(behind, np.ones(len(behind))),
            colorscale=[[0, NEUTRAL], [1, NEUTRAL]],
            opacity=0.2,
            showscale=False,
        )
    figure.add_heatmap(**_coloured(shown, scale))
    # A heatmap answers neither to a lasso nor to a click: the middles of its cells do.
    mean = "mean" in shown
    known = shown[["cell", "users", *(["mean"] if mean else [])]]
    figure.add_scattergl(
        x=shown["x"].to_numpy(np.int16),
        y=shown["y"].to_numpy(np.int16),
        customdata=known.to_numpy(np.float32),
        mode="markers",
        marker={"size": 5, "opacity": 0},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        hovertemplate=("mean %{customdata[2]:.3f}<br>" if mean else "")
        + "users: %{customdata[1]:,}<extra></extra>",
        showlegend=False,
    )
    ends = {"range": [0, SCALE], "showticklabels": False, "zeroline": False, "showgrid": False}
    figure.update_xaxes(**ends)
    figure.update_yaxes(**ends, scaleanchor="x")
    if corners:
        figure.add_shape(**outline_shape(corners))
    figure.update_layout(dragmode=mouse, uirevision="density", hovermode="closest")
    return figure


def _coloured(shown: pd.DataFrame, scale: Scale | None) -> dict[str, Any]:
    users = shown["users"].to_numpy()
    bar = {"orientation": "h", "y": -0.12, "yanchor": "top", "thickness": 10, "len": 0.9}
    if scale is not None:
        bar["title"] = {"text": scale.label, "side": "bottom"}
        ends = {"zmin": scale.low, "zmax": scale.high, "colorscale": scale.colours}
        return _square(shown, shown["mean"].to_numpy()) | ends | {"colorbar": bar}
    powers = [10**power for power in range(len(str(int(users.max(initial=1)))))]
    bar |= {"tickvals": np.log10(powers).tolist(), "ticktext": [f"{one:,}" for one in powers]}
    bar["title"] = {"text": "users in a cell", "side": "bottom"}
    ends = {"zmin": 0, "zmax": max(1.0, np.log10(users.max(initial=1))), "colorscale": AMOUNTS}
    return _square(shown, np.log10(users)) | ends | {"colorbar": bar}


def _square(table: pd.DataFrame, values: np.ndarray) -> dict[str, Any]:
    place = {"x0": SIDE / 2, "dx": SIDE, "y0": SIDE / 2, "dy": SIDE}
    flat = np.full(CELLS * CELLS, np.nan, np.float32)
    flat[table["cell"]] = values
    return {"z": flat.reshape(CELLS, CELLS), **place, "hoverinfo": "skip"}
