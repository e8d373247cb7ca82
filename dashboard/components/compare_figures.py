"""The figures of the Compare page, from tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboard.components.formatting import short
from dashboard.components.theme import (
    CATEGORIES,
    DIFFERENCES,
    KINDS,
    NEUTRAL,
    marker,
)
from dashboard.engine.comparisons import summaries

LONGEST_LABEL = 44


def intervals(rows: pd.DataFrame, reference: float | None) -> go.Figure:
    """A line a method with its interval; rows: method, kind, value, low, high, in order."""
    figure = go.Figure()
    rows = rows.iloc[::-1]
    names = [short(name, LONGEST_LABEL) for name in rows["method"]]
    for kind in [one for one in KINDS if one in set(rows["kind"])]:
        own = (rows["kind"] == kind).to_numpy()
        figure.add_scatter(
            x=rows["value"][own],
            y=[name for name, kept in zip(names, own, strict=True) if kept],
            mode="markers",
            name=KINDS[kind].label,
            marker=marker(kind, size=10),
            error_x=_bars(rows[own], KINDS[kind].colour),
            hovertemplate="%{y}<br>%{x:.4f}<extra></extra>",
        )
    if reference is not None:
        figure.add_vline(x=reference, line={"color": NEUTRAL, "dash": "dot"})
    figure.update_yaxes(categoryorder="array", categoryarray=names)
    figure.update_layout(showlegend=False)
    return figure


def cost_quality(rows: pd.DataFrame, metric: str) -> go.Figure:
    """Quality with its interval against measured seconds, and the frontier through the best."""
    figure = go.Figure()
    edge = summaries.frontier(rows, metric)
    figure.add_scatter(
        x=edge["seconds"],
        y=edge["value"],
        mode="lines",
        name="Frontier",
        line={"color": NEUTRAL, "dash": "dot", "shape": "hv"},
        hoverinfo="skip",
    )
    for kind in [one for one in KINDS if one in set(rows["kind"])]:
        own = rows[rows["kind"] == kind]
        figure.add_scatter(
            x=own["seconds"],
            y=own["value"],
            mode="markers",
            name=KINDS[kind].label,
            marker=marker(kind, size=11),
            error_y=_bars(own, KINDS[kind].colour),
            customdata=[[short(name, LONGEST_LABEL)] for name in own["method"]],
            hovertemplate="%{customdata[0]}<br>%{y:.4f} after %{x:.3g} s<extra></extra>",
        )
    figure.update_xaxes(type="log", dtick=1)
    return figure


def user_scatter(users: pd.DataFrame, first: str, second: str) -> go.Figure:
    """One point a user: the value under both methods; below the line the second is better."""
    figure = go.Figure(
        go.Scattergl(
            x=users["first"].to_numpy(np.float32),
            y=users["second"].to_numpy(np.float32),
            mode="markers",
            name="One user",
            marker={"size": 5, "opacity": 0.5, "color": KINDS["migrated"].colour},
            customdata=users["n"].to_numpy(np.int32),
            hovertemplate="%{customdata} held-out rows<br>"
            f"{first.lower()} %{{x:.3f}}, {second.lower()} %{{y:.3f}}<extra></extra>",
        )
    )
    ends = np.array([users[["first", "second"]].min().min()] * 2, dtype=float)
    ends[1] = users[["first", "second"]].max().max()
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        name="Equal",
        line={"color": NEUTRAL, "dash": "dot"},
        hoverinfo="skip",
    )
    return figure


def histogram(bars: pd.DataFrame) -> go.Figure:
    """Bars of how many users differ by how much, zero marked; bars: from, to and users."""
    middle = (bars["from"] + bars["to"]) / 2
    colours = [KINDS["migrated" if one < 0 else "retrained"].colour for one in middle]
    figure = go.Figure(
        go.Bar(
            x=middle,
            y=bars["users"],
            width=bars["to"] - bars["from"],
            marker={"color": colours, "line": {"width": 0}},
            hovertemplate="%{x:+.3f}<br>%{y} users<extra></extra>",
            showlegend=False,
        )
    )
    figure.add_vline(x=0, line={"color": NEUTRAL, "dash": "dot"})
    return figure


def group_differences(groups: pd.DataFrame) -> go.Figure:
    """A line a group of users: the pooled difference with its interval, zero marked."""
    rows = groups.iloc[::-1]
    figure = go.Figure(
        go.Scatter(
            x=rows["difference"],
            y=rows["label"],
            mode="markers",
            marker=marker("migrated", size=9),
            error_x={
                "array": rows["high"] - rows["difference"],
                "arrayminus": rows["difference"] - rows["low"],
                "color": KINDS["migrated"].colour,
                "thickness": 1.5,
            },
            customdata=rows["users"],
            hovertemplate="%{y}: %{x:+.4f}, %{customdata} users<extra></extra>",
            showlegend=False,
        )
    )
    figure.add_vline(x=0, line={"color": NEUTRAL, "dash": "dot"})
    return figure


def gain_heatmap(pairs: pd.DataFrame) -> go.Figure:
    """Rows are sources, columns targets; above 1 the migration beats retraining there."""
    grid = pairs.pivot(index="origin", columns="target", values="gain")
    sure = pairs.assign(sure=(pairs["low"] > 1) | (pairs["high"] < 1))
    stars = sure.pivot(index="origin", columns="target", values="sure")
    reach = max(float(np.nanmax(np.abs(grid.to_numpy(float) - 1))), 0.005)
    text = [
        [
            "" if np.isnan(value) else f"{value:.4f}{' *' if star is True else ''}"
            for value, star in line
        ]
        for line in (zip(grid.loc[name], stars.loc[name], strict=True) for name in grid.index)
    ]
    return go.Figure(
        go.Heatmap(
            z=grid.to_numpy(float),
            x=[short(name, 24) for name in grid.columns],
            y=[short(name, 24) for name in grid.index],
            zmin=1 - reach,
            zmax=1 + reach,
            colorscale=DIFFERENCES,
            text=text,
            texttemplate="%{text}",
            hovertemplate="%{y} to %{x}: gain %{z:.4f}<extra></extra>",
            colorbar={"title": {"text": "Gain"}},
            xgap=2,
            ygap=2,
        )
    )


def chain_lines(steps: pd.DataFrame) -> go.Figure:
    """A line a chain, a point a hop with its interval; rows as summaries.chains gives them."""
    figure = go.Figure()
    for number, (run, rows) in enumerate(steps.groupby("run", sort=False)):
        colour = CATEGORIES[number % len(CATEGORIES)]
        figure.add_scatter(
            x=rows["step"],
            y=rows["value"],
            mode="lines+markers+text",
            name=short(rows["chain"].iloc[0], 60),
            text=[short(name, 20) for name in rows["backbone"]],
            textposition="top center",
            marker={"color": colour, "size": 9},
            line={"color": colour},
            error_y=_bars(rows, colour),
            hovertemplate="%{text}: %{y:.4f}<extra></extra>",
            uid=str(run),
        )
    figure.update_xaxes(dtick=1, range=[-0.4, steps["step"].max() + 0.4])
    return figure


def fusion_bars(rows: pd.DataFrame) -> go.Figure:
    """Dots with intervals: each source alone and their fusion, by target."""
    figure = go.Figure()
    looks = ((True, "Fusion of sources", "star-diamond"), (False, "One source", "diamond-open"))
    for joined, name, symbol in looks:
        own = rows[(rows["sources"] > 1) == joined]
        figure.add_scatter(
            x=own["value"],
            y=[f"{short(o, 34)} → {short(t, 20)}" for o, t in own[["origin", "target"]].to_numpy()],
            mode="markers",
            name=name,
            marker=marker("migrated", size=12 if joined else 10) | {"symbol": symbol},
            error_x=_bars(own, KINDS["migrated"].colour),
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
    return figure


def strategy_dots(rows: pd.DataFrame) -> go.Figure:
    """A dot a run with its interval, strategies down the side, a colour a budget."""
    figure = go.Figure()
    order = list(dict.fromkeys(rows.sort_values("value", ascending=False)["strategy"]))
    for number, (budget, own) in enumerate(rows.groupby("budget", sort=True)):
        colour = CATEGORIES[number % len(CATEGORIES)]
        figure.add_scatter(
            x=own["value"],
            y=own["strategy"],
            mode="markers",
            name=f"{budget:,.0f} users",
            marker={"color": colour, "size": 10, "symbol": number % 20},
            error_x=_bars(own, colour),
            customdata=own["seed"],
            hovertemplate="%{y}, seed %{customdata}: %{x:.4f}<extra></extra>",
        )
    figure.update_yaxes(categoryorder="array", categoryarray=order)
    figure.update_layout(showlegend=True)
    return figure


def _bars(rows: pd.DataFrame, colour: str) -> dict[str, object]:
    return {
        "array": rows["high"] - rows["value"],
        "arrayminus": rows["value"] - rows["low"],
        "color": colour,
        "thickness": 1.5,
    }
