"""Figures of the page Users: two aligned maps, and how the groups of users are covered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboard.components.map_selection import GRID, SCALE
from dashboard.components.theme import AMOUNTS, CATEGORIES, DIFFERENCES, NEUTRAL

SYMBOLS = ("circle", "diamond", "square")
LEVELS = 255
FEW = 30  # so few users who stand out are drawn large
HEIGHT = 520


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
class Scale:
    """How numbers become colours: the ends, the text of the bar, and the scale's name."""

    low: float
    high: float
    label: str
    colours: str


def cluster_layers(cluster: np.ndarray, picked: np.ndarray | None) -> list[Layer]:
    """One layer a cluster: colours repeat with another mark, so that none rests on colour alone."""
    rest, shown = _rest(len(cluster), picked)
    return rest + [
        Layer(
            f"Cluster {number + 1}",
            np.flatnonzero(shown & (cluster == number)),
            CATEGORIES[number % len(CATEGORIES)],
            SYMBOLS[number // len(CATEGORIES) % len(SYMBOLS)],
        )
        for number in range(int(cluster.max()) + 1)
    ]


def chosen_layers(chosen: np.ndarray, picked: np.ndarray | None) -> list[Layer]:
    """Users who train the adapter stand out from the others."""
    rest, shown = _rest(len(chosen), picked)
    return [
        *rest,
        Layer("Not chosen", np.flatnonzero(shown & ~chosen), NEUTRAL),
        Layer("Chosen", np.flatnonzero(shown & chosen), CATEGORIES[1], "diamond"),
    ]


def value_layers(values: np.ndarray, picked: np.ndarray | None) -> list[Layer]:
    """Users by a number; those without one are grey."""
    rest, shown = _rest(len(values), picked)
    known = np.isfinite(values)
    layers = [*rest, Layer("Not measured", np.flatnonzero(shown & ~known), faint=True)]
    rows = np.flatnonzero(shown & known)
    return [*layers, Layer("Measured", rows, values=values[rows])]


def _rest(n: int, picked: np.ndarray | None) -> tuple[list[Layer], np.ndarray]:
    """The users who are not picked, faint, and a mask of those who are shown in full."""
    shown = np.ones(n, dtype=bool)
    if picked is None:
        return [], shown
    shown[:] = False
    shown[picked] = True
    return [Layer("Not picked", np.flatnonzero(~shown), faint=True)], shown


def value_scale(values: np.ndarray, label: str, *, differences: bool = False) -> Scale:
    """Ends of a colour scale: all but the outermost 2 % of users; even about 0 for differences."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Scale(0.0, 1.0, label, AMOUNTS)
    if differences:
        end = float(np.percentile(np.abs(known), 98)) or 1.0
        return Scale(-end, end, label, DIFFERENCES)
    low, high = (float(end) for end in np.percentile(known, [2, 98]))
    return Scale(low, high if high > low else low + 1.0, label, AMOUNTS)


def map_figure(
    points: np.ndarray,
    layers: Sequence[Layer],
    scale: Scale | None = None,
    corners: Sequence[tuple[int, int]] = (),
    mouse: str = "lasso",
) -> go.Figure:
    """Draw users at points [n, 2] int16; each carries its row as customdata.

    mouse: what dragging does, lasso or pan; streamlit lets a click pick only with pan.
    Coordinates and row ids travel as whole numbers in typed arrays, numbers of users in 256
    steps: some ten bytes a user.
    """
    figure = go.Figure()
    small = 4 if len(points) > 5000 else 6
    few = sum(len(layer.rows) for layer in layers if not layer.faint) <= FEW
    for layer in layers:
        size = 3 * small if few and not layer.faint else small
        if not len(layer.rows):
            continue
        figure.add_scattergl(
            x=points[layer.rows, 0],
            y=points[layer.rows, 1],
            customdata=layer.rows.astype(np.int32),
            mode="markers",
            name=layer.name,
            marker=_marker(layer, size, scale),
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 0.25}},
            hovertemplate=f"{layer.name}, row %{{customdata}}<extra></extra>",
            showlegend=scale is None,
        )
    edge = SCALE * 0.03
    ends = {"range": [-edge, SCALE + edge], "showticklabels": False}
    ends |= {"zeroline": False, "showgrid": False}
    figure.update_xaxes(**ends)
    figure.update_yaxes(**ends, scaleanchor="x")
    if corners:
        figure.add_shape(**outline_shape(corners))
    figure.update_layout(dragmode=mouse, uirevision="map")
    figure.update_layout(hovermode="closest", legend={"itemclick": False, "itemdoubleclick": False})
    return figure


def _marker(layer: Layer, size: int, scale: Scale | None) -> dict:
    marker = {"size": size, "symbol": layer.symbol, "opacity": 0.2 if layer.faint else 0.8}
    if not layer.faint and layer.values is not None:
        # The middle of a scale of differences is as light as the page.
        marker["line"] = {"width": 0.5, "color": NEUTRAL}
    if layer.values is None or scale is None:
        return marker | {"color": layer.colour}
    steps = (layer.values - scale.low) / (scale.high - scale.low) * LEVELS
    ticks = np.linspace(0, 1, 5)
    texts = [f"{scale.low + tick * (scale.high - scale.low):.3g}" for tick in ticks]
    bar = {"orientation": "h", "y": -0.12, "yanchor": "top", "thickness": 10, "len": 0.9}
    bar |= {"tickvals": (ticks * LEVELS).tolist(), "ticktext": texts}
    return marker | {
        "color": np.clip(np.rint(steps), 0, LEVELS).astype(np.uint8),
        "cmin": 0,
        "cmax": LEVELS,
        "colorscale": scale.colours,
        "colorbar": bar | {"title": {"text": scale.label, "side": "bottom"}},
    }


def outline_shape(corners: Sequence[tuple[int, int]]) -> dict:
    """Plotly's shape of an outline in thousandths of the map."""
    places = [f"{x * SCALE / GRID:.0f},{y * SCALE / GRID:.0f}" for x, y in corners]
    line = {"color": NEUTRAL, "width": 1, "dash": "dot"}
    return {"type": "path", "path": f"M{'L'.join(places)}Z", "line": line, "layer": "below"}


def coverage_figure(cells: pd.DataFrame, names: Sequence[str]) -> go.Figure:
    """A square a group of users: the share of it that trains the adapter, and both counts."""
    table = cells.pivot(index="stratum", columns="cluster", values="share")
    texts = cells.assign(text=cells["chosen"].astype(str) + "/" + cells["users"].astype(str))
    texts = texts.pivot(index="stratum", columns="cluster", values="text").fillna("")
    figure = go.Figure(
        go.Heatmap(
            z=100 * table.to_numpy(),
            x=[f"{number + 1}" for number in table.columns],
            y=[names[number] for number in table.index],
            text=texts.to_numpy(),
            texttemplate="%{text}",
            colorscale=AMOUNTS,
            zmin=0,
            zmax=max(1.0, 100 * float(cells["share"].max())),
            hovertemplate="cluster %{x}, %{y}<br>%{text} chosen (%{z:.0f} %)<extra></extra>",
            colorbar={"title": {"text": "chosen, %"}, "thickness": 12},
        )
    )
    figure.update_xaxes(type="category")
    return figure
