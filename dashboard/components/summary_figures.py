"""Summary: cost against kept quality of every plan, and the behaviour of users, as pictures."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots

from dashboard import engine
from dashboard.components import figures
from dashboard.components.formatting import plotly_text, short
from dashboard.components.theme import KINDS, NEUTRAL, amounts, marker
from dashboard.engine import Run, summary
from dashboard.engine.summary import decision_texts, label_layout

HEIGHT = 232


def show_costs(run: Run, plans: pd.DataFrame, chosen: str | None) -> None:
    """Draw cost against kept quality. chosen: the judged migration, which is labelled first."""
    rows = summary.plan_costs(plans)
    if len(rows) < 2:
        st.caption(
            "What each plan keeps cannot be drawn: the comparison has no full retraining, or "
            "neither random prompts nor the item mean to measure its gain from."
        )
        return
    level = decision_texts.aspect_name(run.summary["task"], "level")
    targets = rows.loc[rows["is_baseline"].astype(bool), "backbone"].astype(str).tolist()
    published = summary.published_curve(run, "".join(targets), str(rows["reference"].iloc[0]))
    if rows["basis"].iloc[0] != "arithmetic":
        published = published.iloc[:0]
    # Full retraining and the judged migration are labelled first.
    first = 2 - 2 * rows["is_baseline"].astype(int) - (rows["method"] == chosen).astype(int)
    figures.show(
        cost_figure(
            rows.assign(first=first).sort_values("first", kind="stable"),
            summary.best_baseline(plans),
            published,
        ),
        rows[["method", "kind", "basis", "cost", "kept", "kept_low", "kept_high", "seconds"]],
        "summary-costs",
        title="What each plan costs, and what it keeps",
        x=f"Cost in {rows['basis'].iloc[0]}, in % of full retraining",
        y=f"{summary.capitalised(level)} kept (%)",
        height=HEIGHT,
    )


def cost_figure(
    rows: pd.DataFrame, best: pd.Series | None, published: pd.DataFrame | None = None
) -> go.Figure:
    """Draw plans as labelled points with intervals, and the best method without a language model.

    rows: of `summary.plan_costs`, those to label first come first. best: method and kept of the
    best method without a language model, a dotted line. published: cost and kept of a published
    study, drawn behind the plans.
    """
    figure = go.Figure()
    heights = [rows["kept_low"], rows["kept_high"], rows["kept"]]
    bounds = pd.concat(
        [*heights, pd.Series([] if best is None else [float(best["kept"])])]
    ).dropna()
    space = 0.06 * (float(bounds.max()) - float(bounds.min()) or 1.0)
    y_range = [100 * (float(bounds.min()) - space), 100 * (float(bounds.max()) + space)]
    x_range = [-5.0, max(114.0, 114 * float(rows["cost"].max()))]
    labels = [plotly_text(decision_texts.plan_label(row), 26) for row in rows.itertuples()]
    points = rows[["cost", "kept", "kept_low", "kept_high"]]
    obstacles, curve = _error_bars(points, x_range, y_range), list[label_layout.Box]()
    if best is not None:
        obstacles += _draw_line(figure, best, points, obstacles, x_range, y_range)
    if published is not None and len(published) > 1:
        curve, names = _draw_published(figure, published, points, obstacles, x_range, y_range)
        obstacles += names
    positions = label_layout.place_labels(
        _in_pixels(points, x_range, y_range), labels, PLOT_WIDTH, PLOT_HEIGHT, obstacles, curve
    )
    for kind in [kind for kind in KINDS if kind in set(rows["kind"])]:
        chosen = (rows["kind"] == kind).to_numpy()
        of_kind = rows[chosen]
        percent = pd.DataFrame(
            {
                "value": 100 * of_kind["kept"],
                "low": 100 * of_kind["kept_low"],
                "high": 100 * of_kind["kept_high"],
            }
        )
        placed = [positions[number] for number in np.flatnonzero(chosen)]
        named = [labels[number] for number in np.flatnonzero(chosen)]
        figure.add_scatter(
            x=100 * of_kind["cost"],
            y=percent["value"],
            mode="markers+text",
            # A label without room is shown by hovering alone.
            text=["" if at is None else name for name, at in zip(named, placed, strict=True)],
            textposition=[at or "middle right" for at in placed],
            textfont={"size": 12},
            name=KINDS[kind].label,
            marker=marker(kind, size=11),
            error_y=figures.error_bars(percent, KINDS[kind].colour),
            customdata=list(zip(named, of_kind["seconds"], strict=True)),
            hovertemplate="%{customdata[0]}: keeps %{y:.0f} % at %{x:.0f} % of the cost, "
            "%{customdata[1]:,.3g} s<extra></extra>",
            cliponaxis=False,
        )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(range=x_range, zeroline=False)
    figure.update_yaxes(range=y_range, zeroline=False)
    return figure


def _draw_published(
    figure: go.Figure,
    published: pd.DataFrame,
    points: pd.DataFrame,
    obstacles: list[label_layout.Box],
    x_range: list[float],
    y_range: list[float],
) -> tuple[list[label_layout.Box], list[label_layout.Box]]:
    """Draw the curve of a published study as a faint line with its name at a border of the chart.

    Returns the rectangles that the line covers, and that of the name where it has room.
    """
    figure.add_scatter(
        x=100 * published["cost"],
        y=100 * published["kept"],
        mode="lines+markers",
        line={"color": NEUTRAL, "width": 5},
        marker={"size": 9, "color": NEUTRAL},
        opacity=0.3,
        customdata=published["method"],
        hovertemplate=f"{PUBLISHED}, %{{customdata}}: keeps %{{y:.1f}} % at %{{x:.1f}} % of the cost"
        "<extra></extra>",
    )
    ends = _in_pixels(published, x_range, y_range)
    line = [box for pair in pairwise(ends) for box in _along(*pair)]
    occupied = [*_marks(points, x_range, y_range), *obstacles, *line]
    text = f"━ {PUBLISHED}"
    place = label_layout.place_in_corner(text, PLOT_WIDTH, PLOT_HEIGHT, occupied)
    if place is None:
        return line, []
    _write(figure, text, place, x_range, y_range, hoverinfo="skip")
    return line, [place]


def _along(
    start: tuple[float, float], end: tuple[float, float], half: float = 4.0
) -> list[label_layout.Box]:
    """Return rectangles that cover a line between two points, in pixels; half: of its thickness."""
    steps = max(1, math.ceil(math.dist(start, end) / (2 * half)))
    return [
        label_layout.Box(x - half, y - half, x + half, y + half)
        for x, y in np.linspace(start, end, steps + 1)
    ]


PUBLISHED = "Published study"
# The area of the chart in a window of 1,280 pixels, with some room to spare.
PLOT_WIDTH, PLOT_HEIGHT = 390.0, 144.0


def _pixels(values: Any, bounds: list[float], size: float) -> Any:
    """Places of values on an axis with these ends, in pixels."""
    return (values - bounds[0]) / (bounds[1] - bounds[0]) * size


def _in_pixels(
    points: pd.DataFrame, x_range: list[float], y_range: list[float]
) -> list[tuple[float, float]]:
    x = _pixels(100 * points["cost"], x_range, PLOT_WIDTH)
    y = _pixels(100 * points["kept"], y_range, PLOT_HEIGHT)
    return list(zip(x, y, strict=True))


def _error_bars(
    points: pd.DataFrame, x_range: list[float], y_range: list[float]
) -> list[label_layout.Box]:
    """Return the rectangles of the points' intervals."""
    x = _pixels(100 * points["cost"], x_range, PLOT_WIDTH)
    low, high = (
        _pixels(100 * points[name], y_range, PLOT_HEIGHT) for name in ("kept_low", "kept_high")
    )
    return [
        label_layout.Box(left - 3, bottom, left + 3, top)
        for left, bottom, top in zip(x, low, high, strict=True)
        if top > bottom
    ]


def _draw_line(
    figure: go.Figure,
    best: pd.Series,
    points: pd.DataFrame,
    obstacles: list[label_layout.Box],
    x_range: list[float],
    y_range: list[float],
) -> list[label_layout.Box]:
    """Draw what the best method without a language model keeps as a dotted line with its name.

    Returns the rectangles that line and name cover. The name is where it meets no mark and no
    interval: beside the line, or else at a border of the chart.
    """
    value = 100 * float(best["kept"])
    height = float(_pixels(value, y_range, PLOT_HEIGHT))
    figure.add_hline(y=value, line=figures.REFERENCE_LINE)
    line = label_layout.Box(0, height - 1, PLOT_WIDTH, height + 1)
    occupied = [*_marks(points, x_range, y_range), *obstacles]
    name = f"{short(str(best['method']), 30)}, no language model"
    text, place = name, label_layout.place_on_line(height, name, PLOT_WIDTH, PLOT_HEIGHT, occupied)
    if place is None:
        # Away from the line, the text begins with a piece of it.
        text = f"┄ {name}"
        place = label_layout.place_in_corner(text, PLOT_WIDTH, PLOT_HEIGHT, [*occupied, line])
    if place is None:
        return [line]
    hover = f"{plotly_text(name)}: {value:.0f} %<extra></extra>"
    _write(figure, text, place, x_range, y_range, hovertemplate=hover)
    return [line, place]


def _marks(
    points: pd.DataFrame, x_range: list[float], y_range: list[float]
) -> list[label_layout.Box]:
    """Return the rectangles of the points' marks."""
    mark = label_layout.MARK
    return [
        label_layout.Box(x - mark, y - mark, x + mark, y + mark)
        for x, y in _in_pixels(points, x_range, y_range)
    ]


def _write(
    figure: go.Figure,
    text: str,
    place: label_layout.Box,
    x_range: list[float],
    y_range: list[float],
    **hover: str,
) -> None:
    """Write a text into a rectangle of the chart."""
    figure.add_scatter(
        x=[x_range[0] + place.left / PLOT_WIDTH * (x_range[1] - x_range[0])],
        y=[y_range[0] + (place.bottom + place.top) / 2 / PLOT_HEIGHT * (y_range[1] - y_range[0])],
        mode="text",
        text=[plotly_text(text, 60)],
        textposition="middle right",
        textfont={"size": 11, "color": NEUTRAL},
        showlegend=False,
        **hover,
    )


def show_behaviour(run: Run, plans: pd.DataFrame, method: str) -> None:
    """Draw the mean and spread of each user's predictions: old, migrated and retrained."""
    chosen = [
        ("Old model", summary.sources_of_migration(plans, method)),
        ("Migrated", plans[plans["method"] == method]),
        ("Retrained", plans[plans["is_baseline"].astype(bool)]),
    ]
    names = {str(rows["evaluation"].iloc[0]): label for label, rows in chosen if len(rows)}
    anchors = len(engine.runs("anchors"))
    shown = summary.behaviour(engine.root(), tuple(names), anchors)
    if shown is None or shown.frame.empty:
        st.caption(
            "The behaviour of users cannot be drawn: predictions are gone, too many, or of one row "
            "a user."
        )
        return
    ratings = run.summary["task"] == "rating"
    unit = "stars" if ratings else "probability"
    users = pd.concat(
        [
            shown.frame[["user_id", f"mean_{number}", f"spread_{number}", "outcome"]]
            .set_axis(["user_id", "mean", "spread", "outcome"], axis=1)
            .assign(panel=panel)
            for number, panel in enumerate(names.values())
        ],
        ignore_index=True,
    )
    figures.show(
        behaviour_figure(users, unit),
        users[["panel", "user_id", "mean", "spread", "outcome"]],
        "summary-behaviour",
        title=summary.decision_texts.behaviour_title(shown.anchors, unit),
        height=HEIGHT,
    )


def behaviour_figure(users: pd.DataFrame, unit: str) -> go.Figure:
    """Draw one panel for each model: mean prediction against spread, coloured by mean outcome."""
    panels = list(dict.fromkeys(users["panel"]))
    medians = users.groupby("panel")["spread"].median()
    figure = make_subplots(
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[f"{name}: {medians[name]:.2f}" for name in panels],
    )
    for number, panel in enumerate(panels, start=1):
        rows = users[users["panel"] == panel]
        figure.add_trace(
            go.Scattergl(
                x=rows["mean"].to_numpy("float32"),
                y=rows["spread"].to_numpy("float32"),
                mode="markers",
                marker={
                    "size": 5,
                    "opacity": 0.75,
                    "color": rows["outcome"].to_numpy("float32"),
                    "coloraxis": "coloraxis",
                },
                name=panel,
                hovertemplate="mean prediction %{x:.2f}, spread %{y:.2f}, "
                f"actual mean %{{marker.color:.2f}} {unit}<extra></extra>",
            ),
            row=1,
            col=number,
        )
    # Below the top of the figure, whose margin has no room for titles of panels.
    figure.update_annotations(y=0.93, font={"size": 12})
    figure.update_xaxes(range=_range(users["mean"]))
    figure.update_yaxes(domain=[0, 0.92])
    figure.update_yaxes(range=[0, 1.05 * float(users["spread"].max()) or 1])
    middle = (len(panels) + 1) // 2
    figure.update_xaxes(title={"text": f"Mean prediction ({unit})"}, col=middle)
    figure.update_yaxes(title={"text": f"Spread ({unit})"}, col=1)
    figure.update_layout(
        showlegend=False,
        coloraxis={
            "colorscale": amounts(),
            "colorbar": {
                "title": {"text": f"Actual<br>mean<br>({unit})"},
                "thickness": 10,
                "len": 0.9,
            },
        },
    )
    return figure


def _range(values: pd.Series) -> list[float]:
    low, high = float(values.min()), float(values.max())
    space = 0.05 * (high - low) or 0.1
    return [low - space, high + space]
