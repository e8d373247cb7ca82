"""Selection strategies over budgets: a line a strategy (the paper's Figure 3), and a row each."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard.components import figures
from dashboard.components.theme import CATEGORIES, NEUTRAL
from dashboard.engine import studies

FAINT = {"color": NEUTRAL, "width": 1}
AGAINST = {"color": NEUTRAL, "width": 3, "dash": "dot"}


def show(found: dict[str, Any], dataset: str) -> None:
    """Draw what each strategy reaches at each budget, and list what it gave over all of them."""
    metric, scores = studies.summary(found, dataset)
    table = studies.budgets(found, dataset)
    key = f"study-budgets-{found['study']}"
    figures.show(
        lines(scores, metric, studies.leading(table, metric)),
        scores,
        key,
        title=f"Every strategy: {studies.title_of(metric)}",
        x="Share of the users that the adapter was trained on",
        y=f"Mean {studies.METRICS[metric].label} over seeds",
    )
    score = st.column_config.NumberColumn(format="%.4f")
    over_all = {
        "method": st.column_config.TextColumn("Strategy", width=150),
        "difference": st.column_config.NumberColumn(
            "Over all budgets",
            format="%+.4f",
            help="Mean difference from random users, in pairs of the same budget and seed.",
        ),
        "interval": st.column_config.TextColumn("95 % over trainings"),
        "pairs": st.column_config.NumberColumn("Pairs"),
    }
    shares = {name: score for name in table if name not in over_all}
    st.dataframe(
        table, hide_index=True, height="content", placeholder="–", column_config=over_all | shares
    )
    figures.downloads(table, f"{key}-table")


def lines(scores: pd.DataFrame, metric: str, leading: list[str]) -> go.Figure:
    """Mean scores over shares of users: random users dotted, leading strategies in colour.

    scores: method, share and the metric; leading: the names that stand out, in their order.
    """
    figure = go.Figure()
    looks = {name: {"color": CATEGORIES[n], "width": 3} for n, name in enumerate(leading)}
    looks[studies.RANDOM] = AGAINST
    # What stands out is drawn last, above the others.
    for name in sorted(scores["method"].unique(), key=lambda name: name in looks):
        own = scores[scores["method"] == name].sort_values("share")
        figure.add_scatter(
            x=own["share"],
            y=own[metric],
            mode="lines+markers" if name in looks else "lines",
            name=name,
            line=looks.get(name, FAINT),
            opacity=1.0 if name in looks else 0.45,
            showlegend=name in looks,
            hovertemplate=f"{name}, %{{x:.0%}}: %{{y:.4f}}<extra></extra>",
        )
    shares = sorted(scores["share"].unique())
    figure.update_xaxes(type="log", tickvals=shares, ticktext=[f"{one:.0%}" for one in shares])
    return figure
