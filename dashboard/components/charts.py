"""Charts of a comparison."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from dashboard.components.theme import KINDS, METRICS, NEUTRAL

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}


def cost_quality(methods: pd.DataFrame, scores: pd.DataFrame, metric: str) -> go.Figure:
    """Quality with its interval against measured seconds, a point a method."""
    joined = methods.merge(scores[scores["metric"] == metric], on=["method", "kind"])
    figure = go.Figure()
    for kind, (label, colour, symbol) in KINDS.items():
        rows = joined[joined["kind"] == kind]
        if rows.empty:
            continue
        figure.add_scatter(
            x=rows["seconds"].clip(lower=0.01),
            y=rows["value"],
            mode="markers",
            name=label,
            marker={"color": colour, "symbol": symbol, "size": 12},
            error_y={
                "array": rows["high"] - rows["value"],
                "arrayminus": rows["value"] - rows["low"],
                "color": colour,
            },
            customdata=rows[["method"]],
            hovertemplate="%{customdata[0]}<br>%{y:.4f} after %{x:.1f} s<extra></extra>",
        )
    figure.update_xaxes(title="Measured seconds (log scale)", type="log")
    figure.update_yaxes(title=METRICS[metric])
    return _style(figure, "What each method costs, and how good it is")


def user_scatter(joined: pd.DataFrame, metric: str, first: str, second: str) -> go.Figure:
    """One point a user: the metric of the first method against the second's."""
    figure = go.Figure(
        go.Scattergl(
            x=joined["first"].astype("float32"),
            y=joined["second"].astype("float32"),
            mode="markers",
            marker={"size": 5, "opacity": 0.5, "color": KINDS["migrated"].colour},
            customdata=joined[["row", "n"]],
            hovertemplate="user row %{customdata[0]}, %{customdata[1]} test rows<br>"
            "%{x:.3f} against %{y:.3f}<extra></extra>",
            showlegend=False,
        )
    )
    low = float(joined[["first", "second"]].min().min())
    high = float(joined[["first", "second"]].max().max())
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        name="equal",
        line={"color": NEUTRAL, "dash": "dot"},
    )
    figure.update_xaxes(title=f"{first}: {METRICS[metric]}")
    figure.update_yaxes(title=f"{second}: {METRICS[metric]}", scaleanchor="x")
    return _style(figure, "Each user: retrained against migrated")


def difference_histogram(joined: pd.DataFrame, metric: str) -> go.Figure:
    """Distribution of second minus first over users."""
    figure = go.Figure(
        go.Histogram(
            x=joined["second"] - joined["first"],
            marker={"color": KINDS["migrated"].colour},
            nbinsx=60,
        )
    )
    figure.add_vline(x=0, line={"color": NEUTRAL, "dash": "dot"})
    figure.update_xaxes(title=f"Migrated minus retrained, {METRICS[metric]}")
    figure.update_yaxes(title="Users")
    return _style(figure, "How far users move")


def _style(figure: go.Figure, title: str) -> go.Figure:
    figure.update_layout(
        title={"text": title, "font": {"size": 16}},
        height=460,
        margin={"l": 10, "r": 10, "t": 50, "b": 10},
        legend={"orientation": "h", "y": -0.2},
    )
    return figure
