"""Figures of a plan: where prompts go (an arrow, a chain or a merge), and the training loss."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboard import engine
from dashboard.components import figures
from dashboard.components.formatting import short
from dashboard.components.theme import CATEGORIES, KINDS, NEUTRAL

LONGEST = 34


def places(sources: Sequence[str], targets: Sequence[str]) -> pd.DataFrame:
    """Return a row a box: name, kind, x (the step), y (sources of a merge lie below each other)."""
    middle = (len(sources) - 1) / 2
    rows = [(name, "source", 0, middle - number) for number, name in enumerate(sources)]
    rows += [(name, "migrated", number + 1, 0.0) for number, name in enumerate(targets)]
    return pd.DataFrame(rows, columns=["name", "kind", "x", "y"])


def topology(sources: Sequence[str], targets: Sequence[str]) -> tuple[go.Figure, pd.DataFrame]:
    """Draw where prompts come from and go to; names are shown as plain text."""
    boxes = places(sources, targets)
    figure = go.Figure()
    starts = boxes[boxes["kind"] == "source"]
    hops = boxes[boxes["kind"] == "migrated"]
    arrows = [(box, hops.iloc[0]) for box in starts.itertuples()]
    arrows += list(zip(list(hops.itertuples())[:-1], list(hops.itertuples())[1:], strict=True))
    for tail, head in arrows:
        figure.add_annotation(
            x=head.x,
            y=head.y,
            ax=tail.x,
            ay=tail.y,
            axref="x",
            ayref="y",
            text="",
            arrowhead=2,
            arrowwidth=2,
            arrowcolor=NEUTRAL,
            standoff=22,
            startstandoff=22,
        )
    for kind, rows in boxes.groupby("kind", sort=False):
        shown = KINDS[str(kind)]
        figure.add_scatter(
            x=rows["x"],
            y=rows["y"],
            mode="markers+text",
            text=[escape(short(name, LONGEST)) for name in rows["name"]],
            textposition="bottom center",
            marker={"size": 24, "color": shown.colour, "symbol": shown.symbol},
            name=shown.label,
            hoverinfo="skip",
            cliponaxis=False,
        )
    last, depth = len(targets), max(1.0, (len(sources) - 1) / 2 + 0.6)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(visible=False, range=[-0.5, last + 0.5], fixedrange=True)
    figure.update_yaxes(visible=False, range=[-depth, depth], fixedrange=True)
    return figure, boxes


def losses_of(progress: Mapping[str, Any]) -> pd.DataFrame:
    """Return the reported losses of a job: stage, step, loss."""
    rows = [
        (stage, step, loss)
        for stage, points in (progress.get("trace") or {}).items()
        for step, loss in points
        if loss is not None
    ]
    return pd.DataFrame(rows, columns=["stage", "step", "loss"])


def loss_chart(job: engine.Job) -> None:
    """Draw the reported training losses of a job, if any."""
    data = losses_of(job.progress)
    if data.empty:
        return
    figure = go.Figure()
    for number, (stage, rows) in enumerate(data.groupby("stage", sort=False)):
        line = {"color": CATEGORIES[number % len(CATEGORIES)]}
        figure.add_scatter(x=rows["step"], y=rows["loss"], mode="lines", name=stage, line=line)
    figures.show(
        figure,
        data,
        f"losses-{job.id}",
        title="Training loss by step",
        x="training step",
        y="mean loss per example",
        height=260,
    )
