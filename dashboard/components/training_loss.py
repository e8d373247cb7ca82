"""The chart of a job's training loss."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboard import engine
from dashboard.components import figures
from dashboard.components.theme import CATEGORIES


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
