"""Figures of the page People: users as points, users counted in cells, and coverage of groups."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboard.components.map_selection import GRID, SCALE, Axes
from dashboard.components.theme import AMOUNTS, CATEGORIES, DIFFERENCES, NEUTRAL, amounts

SYMBOLS = ("circle", "diamond", "square")
LEVELS = 255
FEW = 30  # so few highlighted users are drawn large
CELLS = 120  # cells along each side of a map
CELL = SCALE // CELLS
# Below the axis title, so that the charts of a view, of which one has the bar, are equally large.
COLOUR_BAR = {"orientation": "h", "y": -0.16, "yanchor": "top", "thickness": 10, "len": 1.0}
COLOUR_BAR |= {"ypad": 0, "tickfont": {"size": 11}}


@dataclass(frozen=True)
class Layer:
    """Users who are drawn alike: their rows, and one colour or a number each."""

    name: str
    rows: np.ndarray
    colour: str = NEUTRAL
    symbol: str = "circle"
    values: np.ndarray | None = None
    faint: bool = False


@dataclass(frozen=True)
class Hover:
    """What hovering over users shows.

    ids: by row, plain text, empty where not drawn. numbers: [n, k] float32, by row. template: after
    the id, plotly's template, in which customdata[1] and so on are the numbers. more: a text by row,
    which is %{hovertext} in the template, or none.
    """

    ids: Sequence[str]
    numbers: np.ndarray
    template: str
    more: Sequence[str] = ()

    def of(self, rows: np.ndarray) -> dict[str, Any]:
        """Return plotly's arguments for users in these rows; the first number of each is its row."""
        arguments = {
            "customdata": np.column_stack([rows, self.numbers[rows]]).astype(np.float32),
            "text": [self.ids[row] for row in rows],
            "hovertemplate": f"<b>%{{text}}</b><br>{self.template}<extra></extra>",
        }
        return arguments | ({"hovertext": [self.more[row] for row in rows]} if self.more else {})


@dataclass(frozen=True)
class Scale:
    """A colour scale: its ends, the label of its bar, and plotly's scale."""

    low: float
    high: float
    label: str
    colours: str | list[str]


def cluster_layers(cluster: np.ndarray, picked: np.ndarray | None) -> list[Layer]:
    """Return one layer per cluster. A colour that repeats has another symbol; -1 is unknown."""
    rest, shown = _rest(len(cluster), picked)
    if (cluster < 0).any():
        rest.append(Layer("Cluster unknown", np.flatnonzero(shown & (cluster < 0)), faint=True))
    return rest + [
        Layer(
            f"Cluster {number + 1}",
            np.flatnonzero(shown & (cluster == number)),
            CATEGORIES[number % len(CATEGORIES)],
            SYMBOLS[number // len(CATEGORIES) % len(SYMBOLS)],
        )
        for number in range(int(cluster.max()) + 1)
    ]


def selected_layers(selected: np.ndarray, picked: np.ndarray | None) -> list[Layer]:
    """Return layers of the users that the adapter is trained on, and of the others."""
    rest, shown = _rest(len(selected), picked)
    return [
        *rest,
        Layer("Not selected", np.flatnonzero(shown & ~selected), NEUTRAL),
        Layer("Selected", np.flatnonzero(shown & selected), CATEGORIES[1], "diamond"),
    ]


def value_layers(values: np.ndarray, picked: np.ndarray | None) -> list[Layer]:
    """Return layers of users with a number, and of users without one in grey."""
    rest, shown = _rest(len(values), picked)
    known = np.isfinite(values)
    rows = np.flatnonzero(shown & known)
    return [
        *rest,
        Layer("Not measured", np.flatnonzero(shown & ~known), faint=True),
        Layer("Measured", rows, values=values[rows]),
    ]


def sampled(layers: Sequence[Layer], is_drawn: np.ndarray) -> list[Layer]:
    """Return layers with only the users who are drawn, [n] bool."""
    masks = [is_drawn[layer.rows] for layer in layers]
    return [
        replace(
            layer,
            rows=layer.rows[keep],
            values=None if layer.values is None else layer.values[keep],
        )
        for layer, keep in zip(layers, masks, strict=True)
    ]


def _rest(n: int, picked: np.ndarray | None) -> tuple[list[Layer], np.ndarray]:
    """Return a faint layer of users who are not picked, and a mask of those shown in full."""
    if picked is None:
        return [], np.ones(n, dtype=bool)
    shown = np.zeros(n, dtype=bool)
    shown[picked] = True
    return [Layer("Not picked", np.flatnonzero(~shown), faint=True)], shown


def value_scale(values: np.ndarray, label: str, *, differences: bool = False) -> Scale:
    """Return a scale over the inner 96 % of values; differences: over 98 %, symmetric about 0."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Scale(0.0, 1.0, label, amounts())
    if differences:
        end = float(np.percentile(np.abs(known), 98)) or 1.0
        return Scale(-end, end, label, DIFFERENCES)
    low, high = (float(end) for end in np.percentile(known, [2, 98]))
    return Scale(low, high if high > low else low + 1.0, label, amounts())


def point_map(
    points: np.ndarray,
    layers: Sequence[Layer],
    scale: Scale | None = None,
    corners: Sequence[tuple[int, int]] = (),
    dragmode: str = "lasso",
    *,
    axes: Axes | None = None,
    hover: Hover | None = None,
    legend: bool = True,
) -> go.Figure:
    """Draw users at points [n, 2] int16; each point has its row as customdata.

    corners: the outline of the selection. dragmode: lasso or pan; in Streamlit, a click selects
    only with pan. axes: data units of the axes; without them axes have none. hover: what hovering
    over a user shows. legend: whether it shows the legend or colour bar that the charts
    of a view share. Coordinates and row ids are integers in typed arrays and values have 256
    levels, which takes some ten bytes per user.
    """
    figure = go.Figure()
    small = 4 if len(points) > 5000 else 6
    is_sparse = sum(len(layer.rows) for layer in layers if not layer.faint) <= FEW
    for layer in layers:
        if not len(layer.rows):
            continue
        places = points[layer.rows]
        coordinates = places if axes is None else axes.of(places)
        default_hover: dict[str, Any] = {
            "customdata": layer.rows.astype(np.int32),
            "hovertemplate": f"{layer.name}, row %{{customdata}}<extra></extra>",
        }
        figure.add_scattergl(
            x=coordinates[:, 0],
            y=coordinates[:, 1],
            mode="markers",
            name=layer.name,
            marker=_marker(
                layer, 2 * small if is_sparse and not layer.faint else small, scale, legend
            ),
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 0.25}},
            showlegend=legend and scale is None,
            **(default_hover if hover is None else hover.of(layer.rows)),
        )
    below = {"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0, "title": {"text": ""}}
    figure.update_layout(legend=below | {"itemclick": False, "itemdoubleclick": False})
    if axes is None:
        return _square_map(figure, SCALE * 0.03, corners, dragmode, "map")
    _outline(figure, corners, axes)
    for side, update in ((0, figure.update_xaxes), (1, figure.update_yaxes)):
        low, span = axes.low[side], axes.span[side]
        update(range=[low - 0.04 * span, low + 1.04 * span], zeroline=False)
    figure.update_layout(dragmode=dragmode, uirevision="behaviour", hovermode="closest")
    return figure


def _square_map(
    figure: go.Figure,
    margin: float,
    corners: Sequence[tuple[int, int]],
    dragmode: str,
    revision: str,
) -> go.Figure:
    """Give a map square axes without ticks and the outline of the selection."""
    axis = {"range": [-margin, SCALE + margin], "showticklabels": False}
    axis |= {"zeroline": False, "showgrid": False}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis, scaleanchor="x")
    _outline(figure, corners, Axes((0.0, 0.0), (SCALE, SCALE)))
    figure.update_layout(dragmode=dragmode, uirevision=revision, hovermode="closest")
    return figure


def _outline(figure: go.Figure, corners: Sequence[tuple[int, int]], axes: Axes) -> None:
    """Draw the outline of the selection, whose corners are in thousandths of the axes."""
    if not corners:
        return
    places = axes.of(np.asarray(corners) * (SCALE / GRID))
    path = "L".join(f"{x:.6g},{y:.6g}" for x, y in places)
    line = {"color": NEUTRAL, "width": 1, "dash": "dot"}
    figure.add_shape(type="path", path=f"M{path}Z", line=line, layer="below")


def _marker(layer: Layer, size: int, scale: Scale | None, legend: bool) -> dict[str, Any]:
    marker = {"size": size, "symbol": layer.symbol, "opacity": 0.2 if layer.faint else 0.8}
    if not layer.faint and layer.values is not None:
        # The middle of a scale of differences is as light as the page.
        marker["line"] = {"width": 0.5, "color": NEUTRAL}
    if layer.values is None or scale is None:
        return marker | {"color": layer.colour}
    levels = (layer.values - scale.low) / (scale.high - scale.low) * LEVELS
    ticks = np.linspace(0, 1, 5)
    texts = [f"{scale.low + tick * (scale.high - scale.low):.3g}" for tick in ticks]
    bar = COLOUR_BAR | {"tickvals": (ticks * LEVELS).tolist(), "ticktext": texts}
    return marker | {
        "color": np.clip(np.rint(levels), 0, LEVELS).astype(np.uint8),
        "cmin": 0,
        "cmax": LEVELS,
        "colorscale": scale.colours,
        "showscale": legend,
        "colorbar": bar | {"title": _bar_title(scale.label)},
    }


def _bar_title(label: str) -> dict[str, Any]:
    return {"text": label, "side": "bottom", "font": {"size": 12}}


def cells(points: np.ndarray, values: np.ndarray | None, rows: np.ndarray | None) -> pd.DataFrame:
    """Count users in each occupied cell and average their values.

    points: [n, 2] on the scale of the wire. rows: the users to count, None for all. Returns
    columns cell (counted row by row), x, y (its centre), users, and mean if there are values (of
    users who have one, NaN if none has).
    """
    column, row = np.clip(points // CELL, 0, CELLS - 1).astype(np.int32).T
    cell = row * CELLS + column
    if rows is not None:
        cell = cell[rows]
        values = None if values is None else values[rows]
    users = np.bincount(cell, minlength=CELLS * CELLS)
    occupied = np.flatnonzero(users)
    table = pd.DataFrame(
        {
            "cell": occupied,
            "x": CELL / 2 + CELL * (occupied % CELLS),
            "y": CELL / 2 + CELL * (occupied // CELLS),
            "users": users[occupied],
        }
    )
    if values is None:
        return table
    known = np.isfinite(values)
    total = np.bincount(cell[known], weights=values[known], minlength=CELLS * CELLS)
    count = np.bincount(cell[known], minlength=CELLS * CELLS)
    with np.errstate(invalid="ignore"):
        return table.assign(mean=(total / np.where(count, count, np.nan))[occupied])


def cell_corners(cell: int) -> tuple[tuple[int, int], ...]:
    """Return the corners of a cell, in thousandths of the map."""
    row, column = divmod(cell, CELLS)
    left, right = (round(GRID / CELLS * (column + end)) for end in (0, 1))
    low, high = (round(GRID / CELLS * (row + end)) for end in (0, 1))
    return (left, low), (right, low), (right, high), (left, high)


def density_map(
    shown: pd.DataFrame,
    background: pd.DataFrame | None,
    scale: Scale | None,
    corners: Sequence[tuple[int, int]] = (),
    dragmode: str = "lasso",
    *,
    legend: bool = True,
) -> go.Figure:
    """Draw cells by their number of users, or by their mean value on a scale.

    shown: a table of `cells`. background: the cells of all users, drawn faint, if only some are
    shown. corners, dragmode, legend: see `point_map`.
    """
    figure = go.Figure()
    if background is not None:
        figure.add_heatmap(
            **_cell_values(background, np.ones(len(background))),
            colorscale=[[0, NEUTRAL], [1, NEUTRAL]],
            opacity=0.2,
            showscale=False,
        )
    if scale is not None:
        figure.add_heatmap(
            **_cell_values(shown, shown["mean"].to_numpy()),
            zmin=scale.low,
            zmax=scale.high,
            colorscale=scale.colours,
            showscale=legend,
            colorbar=COLOUR_BAR | {"title": _bar_title(scale.label)},
        )
    else:
        users = shown["users"].to_numpy()
        most = int(users.max(initial=1))
        powers = [10**power for power in range(len(str(most)))]
        bar = COLOUR_BAR | {
            "tickvals": np.log10(powers).tolist(),
            "ticktext": [f"{power:,}" for power in powers],
            "title": _bar_title("users in a cell"),
        }
        figure.add_heatmap(
            **_cell_values(shown, np.log10(users)),
            zmin=0,
            zmax=max(1.0, np.log10(most)),
            colorscale=AMOUNTS,
            showscale=legend,
            colorbar=bar,
        )
    # Heatmaps cannot be selected from, so transparent points at the cells' centres can.
    mean = "mean" in shown
    figure.add_scattergl(
        x=shown["x"].to_numpy(np.int16),
        y=shown["y"].to_numpy(np.int16),
        customdata=shown[["cell", "users", *(["mean"] if mean else [])]].to_numpy(np.float32),
        mode="markers",
        marker={"size": 5, "opacity": 0},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        hovertemplate=("mean %{customdata[2]:.3f}<br>" if mean else "")
        + "users: %{customdata[1]:,}<extra></extra>",
        showlegend=False,
    )
    return _square_map(figure, 0, corners, dragmode, "density")


def _cell_values(table: pd.DataFrame, values: np.ndarray) -> dict[str, Any]:
    """Return plotly's heatmap arguments for values of cells."""
    flat = np.full(CELLS * CELLS, np.nan, np.float32)
    flat[table["cell"]] = values
    axes = {"x0": CELL / 2, "dx": CELL, "y0": CELL / 2, "dy": CELL}
    return {"z": flat.reshape(CELLS, CELLS), **axes, "hoverinfo": "skip"}


def coverage_figure(groups: pd.DataFrame, strata: Sequence[str]) -> go.Figure:
    """Draw the selected share and both counts of each group of users.

    groups: a row per cluster and variance stratum, with selected and all users. strata: labels.
    """
    table = groups.pivot(index="stratum", columns="cluster", values="share")
    texts = groups.assign(text=groups["chosen"].astype(str) + "/" + groups["users"].astype(str))
    texts = texts.pivot(index="stratum", columns="cluster", values="text").fillna("")
    figure = go.Figure(
        go.Heatmap(
            z=100 * table.to_numpy(),
            x=[f"{number + 1}" for number in table.columns],
            y=[strata[number] for number in table.index],
            text=texts.to_numpy(),
            texttemplate="%{text}",
            colorscale=AMOUNTS,
            zmin=0,
            zmax=max(1.0, 100 * float(groups["share"].max())),
            hovertemplate="cluster %{x}, %{y}<br>%{text} selected (%{z:.0f} %)<extra></extra>",
            colorbar={"title": {"text": "selected, %"}, "thickness": 12},
        )
    )
    figure.update_xaxes(type="category")
    return figure
