"""What a migration may keep of full retraining, by the users who train it: measured runs as dots."""

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import engine
from dashboard.components import figures
from dashboard.components.plan_start import VECTORS, Start
from dashboard.components.theme import CATEGORIES, KINDS, NEUTRAL
from dashboard.engine import plans, quality
from dashboard.engine.plans import Plan
from dashboard.engine.quality import Expected
from dashboard.engine.summary import label_layout

TITLE = "### What it may keep"
HEIGHT = 260
PLOT_PIXELS = 300  # the width of the chart in a window of 1,280 pixels, with room to spare


def show(plan: Plan, start: Start, trained: int) -> None:
    """Show the expected quality of a migration by the number of users who train it."""
    st.markdown(TITLE)
    task = str(engine.run(str(start.dataset)).summary["task"])
    model, template = plans.model_id(start.targets[-1]), plans.settings(plan).template
    in_workspace = quality.measured(str(start.dataset), model, template)
    old = [name for name in start.old if name != VECTORS]
    published = quality.published(task, quality.published_role(old, start.targets[-1]))
    with_published = in_workspace.empty
    expected = quality.expected(in_workspace, trained)
    if expected is None and not published.empty:
        expected, with_published = quality.expected(published, trained), True
    st.text(sentence(expected, in_workspace, trained))
    points = pd.concat([in_workspace, published]) if with_published else in_workspace
    if points.empty:
        return
    figures.show(
        figure(points, trained),
        points,
        "plan-quality",
        title="Share of full retraining's gain that migrations kept",
        x="Users who train it (log scale)",
        y="Kept (%)",
        height=HEIGHT,
    )


def sentence(expected: Expected | None, in_workspace: pd.DataFrame, trained: int) -> str:
    """Return the quality to expect with a number of users, and the evidence for it, as a sentence."""
    if expected is None:
        nearest = ""
        if not in_workspace.empty:
            row = in_workspace.iloc[(in_workspace["users"] - trained).abs().argmin()]
            nearest = f" The nearest measured here: {row['users']:,} users kept {100 * row['kept']:.0f} %."
        return f"Not known for {trained:,} users: nothing was measured around that number.{nearest}"
    low, high = 100 * expected.low, 100 * expected.high
    span = f" ({low:.0f} to {high:.0f} %)" if round(high) > round(low) else ""
    return (
        f"About {100 * expected.kept:.0f} %{span} of what full retraining gains over random prompts: "
        f"{expected.basis}."
    )


def figure(points: pd.DataFrame, trained: int) -> go.Figure:
    """Draw the measured shares by users, a series for this workspace and each published study."""
    chart = go.Figure()
    for number, (series, rows) in enumerate(points.groupby("series", sort=False)):
        in_workspace = series == quality.HERE
        colour = (
            KINDS["migrated"].colour if in_workspace else CATEGORIES[(number + 3) % len(CATEGORIES)]
        )
        chart.add_scatter(
            x=rows["users"],
            y=100 * rows["kept"],
            mode="markers" if in_workspace else "lines+markers",
            name=str(series),
            marker={"size": 11 if in_workspace else 7, "color": colour},
            line={"color": colour, "dash": "dot", "width": 1},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": 100 * (rows["high"] - rows["kept"]),
                "arrayminus": 100 * (rows["kept"] - rows["low"]),
                "thickness": 1,
            },
            hovertemplate="%{x:,} users: %{y:.0f} %<extra></extra>",
        )
    chart.add_vline(x=trained, line={"color": NEUTRAL, "dash": "dash"})
    chart.add_hline(y=100, line={"color": NEUTRAL, "width": 1})
    ticks = spread_ticks([trained, *points["users"].sort_values().tolist()])
    chart.update_xaxes(
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
        tickangle=0,
        ticklabelstandoff=4,
    )
    chart.update_layout(showlegend=True)
    return chart


def spread_ticks(users: Sequence[int]) -> list[int]:
    """Return those of some numbers whose labels do not meet on a logarithmic axis, the first ones first."""
    logs = [math.log10(number) for number in users]
    span = max(logs) - min(logs) or 1.0
    shown: list[int] = []
    for number in users:
        places = [PLOT_PIXELS * abs(math.log10(number / other)) / span for other in shown]
        widths = [
            label_layout.CHARACTER * (len(f"{number:,}") + len(f"{other:,}")) / 2 + 6
            for other in shown
        ]
        if all(place >= width for place, width in zip(places, widths, strict=True)):
            shown.append(number)
    return sorted(shown)
