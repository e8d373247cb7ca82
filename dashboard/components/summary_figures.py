"""Summary: cost against kept quality of every plan, and the behaviour of users, as pictures."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots

from dashboard import engine
from dashboard.components import figures
from dashboard.components.formatting import plotly_text
from dashboard.components.theme import KINDS, NEUTRAL, amounts, marker
from dashboard.engine import Run, summary
from dashboard.engine.comparisons import Verdict
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
    axes = _Axes(
        (-5.0, max(114.0, 114 * float(rows["cost"].max()))),
        (100 * (float(bounds.min()) - space), 100 * (float(bounds.max()) + space)),
    )
    scenes = [
        label_layout.Scene(
            width, PLOT_HEIGHT, axes.pixels(rows, width), thin=_error_bars(rows, axes, width)
        )
        for width in PLOT_WIDTHS
    ]
    if published is not None and len(published) > 1:
        scenes = _draw_published(figure, published, scenes, axes)
    if best is not None:
        scenes = _draw_line(figure, best, scenes, axes)
    labels = [plotly_text(decision_texts.plan_label(row), 26) for row in rows.itertuples()]
    placed = label_layout.place_labels(scenes, labels)
    for row, label, place in zip(rows.itertuples(), labels, placed, strict=True):
        if place is not None and place.position is None:
            figure.add_annotation(
                x=100 * row.cost,
                y=100 * row.kept,
                ax=place.right,
                ay=-place.up,
                text=label,
                font={"size": 12},
                arrowhead=0,
                arrowwidth=1,
                arrowcolor=NEUTRAL,
                standoff=label_layout.MARK,
                borderpad=0,
            )
    # A label without room is shown by hovering alone.
    beside = [
        (label, place.position)
        if place is not None and place.position is not None
        else ("", "middle right")
        for label, place in zip(labels, placed, strict=True)
    ]
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
        numbers = np.flatnonzero(chosen)
        figure.add_scatter(
            x=100 * of_kind["cost"],
            y=percent["value"],
            mode="markers+text",
            text=[beside[number][0] for number in numbers],
            textposition=[beside[number][1] for number in numbers],
            textfont={"size": 12},
            name=KINDS[kind].label,
            marker=marker(kind, size=11),
            error_y=figures.error_bars(percent, KINDS[kind].colour),
            customdata=[
                (labels[number], seconds)
                for number, seconds in zip(numbers, of_kind["seconds"], strict=True)
            ],
            hovertemplate="%{customdata[0]}: keeps %{y:.0f} % at %{x:.0f} % of the cost, "
            "%{customdata[1]:,.3g} s<extra></extra>",
            cliponaxis=False,
        )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(range=axes.x, zeroline=False)
    figure.update_yaxes(range=axes.y, zeroline=False)
    return figure


PUBLISHED = "Published study"
# The area of the chart in windows of 420, 1,280 and 1,920 pixels, with some room to spare.
PLOT_WIDTHS, PLOT_HEIGHT = (270.0, 390.0, 640.0), 144.0


class _Axes(NamedTuple):
    """The ends of the axes, in percent."""

    x: tuple[float, float]
    y: tuple[float, float]

    def up(self, percent: Any) -> Any:
        """Return the heights of values on the y axis, in pixels."""
        low, high = self.y
        return (percent - low) / (high - low) * PLOT_HEIGHT

    def across(self, percent: Any, width: float) -> Any:
        """Return the places of values on the x axis in a chart of this width, in pixels."""
        low, high = self.x
        return (percent - low) / (high - low) * width

    def pixels(self, points: pd.DataFrame, width: float) -> list[tuple[float, float]]:
        """Return the places of points, which have the columns cost and kept."""
        x, y = self.across(100 * points["cost"], width), self.up(100 * points["kept"])
        return list(zip(x, y, strict=True))


def _error_bars(points: pd.DataFrame, axes: _Axes, width: float) -> list[label_layout.Box]:
    """Return the rectangles of the points' intervals."""
    x = axes.across(100 * points["cost"], width)
    low, high = (axes.up(100 * points[name]) for name in ("kept_low", "kept_high"))
    return [
        label_layout.Box(left - 3, bottom, left + 3, top)
        for left, bottom, top in zip(x, low, high, strict=True)
        if top > bottom
    ]


def _draw_published(
    figure: go.Figure,
    published: pd.DataFrame,
    scenes: list[label_layout.Scene],
    axes: _Axes,
) -> list[label_layout.Scene]:
    """Draw the curve of a published study as a faint line with its name at a border of the chart.

    Returns the scenes with the rectangles that the line covers, and that of the name where it has room.
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
    with_curve = []
    for scene in scenes:
        pieces = pairwise(axes.pixels(published, scene.width))
        curve = [box for ends in pieces for box in label_layout.line_boxes(*ends, half=4.0)]
        with_curve.append(scene._replace(faint=curve))
    text = f"━ {PUBLISHED}"
    spot = label_layout.place_in_corner(with_curve, text)
    return _write(figure, text, spot, with_curve, hovertext="")


def _draw_line(
    figure: go.Figure, best: pd.Series, scenes: list[label_layout.Scene], axes: _Axes
) -> list[label_layout.Scene]:
    """Draw what the best method without a language model keeps as a dotted line with its name.

    Returns the scenes with the rectangles that line and name cover. The name is where it meets no mark
    and no interval: beside the line, or else at a border of the chart.
    """
    value = 100 * float(best["kept"])
    height = float(axes.up(value))
    figure.add_hline(y=value, line=figures.REFERENCE_LINE)
    text, spot = WITHOUT_MODEL, label_layout.place_on_line(scenes, WITHOUT_MODEL, height)
    with_line = [
        scene._replace(thin=[*scene.thin, label_layout.Box(0, height - 1, scene.width, height + 1)])
        for scene in scenes
    ]
    if spot is None:
        # Away from the line, the text begins with a piece of it.
        text = f"┄ {WITHOUT_MODEL}"
        spot = label_layout.place_in_corner(with_line, text)
    hover = f"{plotly_text(str(best['method']), 60)}: {value:.0f} %"
    return _write(figure, text, spot, with_line, hovertext=hover)


WITHOUT_MODEL = "No language model"


def _write(
    figure: go.Figure,
    text: str,
    spot: label_layout.Spot | None,
    scenes: list[label_layout.Scene],
    *,
    hovertext: str,
) -> list[label_layout.Scene]:
    """Write a text at its place, if it has one; return the scenes with its rectangle."""
    if spot is None:
        return scenes
    figure.add_annotation(
        xref="x domain",
        yref="y domain",
        x=spot.share,
        y=(spot.bottom + label_layout.LINE / 2) / PLOT_HEIGHT,
        # As much of the text as of the free width is left of that place.
        xanchor="left",
        xshift=-spot.share * label_layout.CHARACTER * len(text),
        yanchor="middle",
        text=plotly_text(text),
        font={"size": 11, "color": NEUTRAL},
        borderpad=0,
        showarrow=False,
        hovertext=hovertext,
    )
    return [
        scene._replace(obstacles=[*scene.obstacles, spot.box(text, scene.width)])
        for scene in scenes
    ]


def show_behaviour(run: Run, plans: pd.DataFrame, verdict: Verdict) -> None:
    """Draw the mean and spread of each user's predictions: old, migrated (or refined) and retrained."""
    method = str(verdict.method)
    chosen = [
        ("Old model", summary.sources_of_migration(plans, method)),
        ("Refined" if verdict.is_reuse else "Migrated", plans[plans["method"] == method]),
        ("Retrained", plans[plans["is_baseline"].astype(bool)]),
    ]
    names = {str(rows["evaluation"].iloc[0]): label for label, rows in chosen if len(rows)}
    anchors = len(engine.runs("anchors"))
    shown = summary.behaviour(engine.root(), tuple(names), anchors)
    if shown is None or shown.frame.empty:
        st.caption(
            "The behaviour of users cannot be drawn: predictions are gone, there are too many, or "
            "each user has only one."
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
        # Two lines, since panels are narrow in a narrow window.
        subplot_titles=[f"{name}<br>{medians[name]:.2f}" for name in panels],
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
    figure.update_annotations(y=0.86, font={"size": 12})
    figure.update_xaxes(range=_range(users["mean"]))
    figure.update_yaxes(domain=[0, 0.85])
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
