"""Summary: cost against kept quality of every plan, and the behaviour of users, as pictures."""

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots

from dashboard import engine
from dashboard.components import figures
from dashboard.components.formatting import plotly_text
from dashboard.components.theme import KINDS, NEUTRAL, marker
from dashboard.engine import Run, comparisons, summary

HEIGHT = 285
KINDS_DRAWN = ("source", *summary.MIGRATED, "retrained")


def costs(plans: pd.DataFrame) -> pd.DataFrame:
    """Return the plans that can be chosen, with their cost as a share of full retraining's.

    Columns are added: cost, and basis ("arithmetic" where it is known of all, else "time").
    Source prompts, which exist already, cost nothing; full retraining keeps all of its gain.
    """
    rows = plans[plans["kind"].isin(KINDS_DRAWN)].copy()
    paid = rows["kind"] != "source"
    base = rows[rows["is_baseline"].astype(bool)]
    known = rows.loc[paid, "flops"].notna().all()
    measure = "flops" if known else "seconds"
    rows["basis"] = "arithmetic" if known else "time"
    whole = float(base[measure].iloc[0]) if len(base) else float("nan")
    rows["cost"] = (rows[measure].astype(float) / whole).where(paid, 0.0)
    ends = ["kept", "kept_low", "kept_high"]
    rows.loc[rows["is_baseline"].astype(bool), ends] = 1.0
    return rows.dropna(subset=["cost", "kept"])


def show_costs(run: Run, plans: pd.DataFrame) -> None:
    """Draw cost against kept quality."""
    rows = costs(plans)
    if len(rows) < 2:
        st.caption(
            "What each plan keeps cannot be drawn: the comparison has no full retraining, or "
            "neither random prompts nor the item mean to measure its gain from."
        )
        return
    baselines = plans[(plans["kind"] == "baseline") & plans["kept"].notna()]
    level = comparisons.aspect_label(run.summary["task"], "level").partition(" (")[0]
    figures.show(
        cost_figure(rows, baselines),
        rows[["method", "kind", "basis", "cost", "kept", "kept_low", "kept_high", "seconds"]],
        "summary-costs",
        title="What each plan costs, and what it keeps",
        x=f"Cost in {rows['basis'].iloc[0]}, in % of full retraining",
        y=f"{level[:1].upper()}{level[1:]} kept (%)",
        height=HEIGHT,
        menu=True,
    )


def cost_figure(rows: pd.DataFrame, baselines: pd.DataFrame) -> go.Figure:
    """Draw plans as labelled points with intervals, and the best method without a language model.

    rows: of `costs`. baselines: rows with method and kept; the best one is a dotted line.
    """
    figure = go.Figure()
    if len(baselines):
        best = baselines.loc[baselines["kept"].idxmax()]
        height = 100 * float(best["kept"])
        figure.add_hline(y=height, line=figures.REFERENCE_LINE)
        figure.add_annotation(
            text=f"{plotly_text(best['method'])}, no language model: {height:.0f} %",
            font={"size": 11, "color": NEUTRAL},
            showarrow=False,
            xref="paper",
            x=0.5,
            y=height,
            yanchor="bottom",
        )
    for kind in [kind for kind in KINDS if kind in set(rows["kind"])]:
        of_kind = rows[rows["kind"] == kind]
        percent = pd.DataFrame(
            {
                "value": 100 * of_kind["kept"],
                "low": 100 * of_kind["kept_low"],
                "high": 100 * of_kind["kept_high"],
            }
        )
        figure.add_scatter(
            x=100 * of_kind["cost"],
            y=percent["value"],
            mode="markers+text",
            text=[plotly_text(_label(row), 34) for row in of_kind.itertuples()],
            textposition=[_side(cost) for cost in of_kind["cost"]],
            textfont={"size": 12},
            name=KINDS[kind].label,
            marker=marker(kind, size=11),
            error_y=figures.error_bars(percent, KINDS[kind].colour),
            customdata=of_kind[["seconds"]].to_numpy(),
            hovertemplate="%{text}: keeps %{y:.0f} % at %{x:.0f} % of the cost, "
            "%{customdata[0]:,.3g} s<extra></extra>",
            cliponaxis=False,
        )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(range=[-4, max(108.0, 108 * float(rows["cost"].max()))], zeroline=False)
    return figure


def _side(cost: float) -> str:
    """Return where the label of a point is, so that it neither leaves the chart nor meets others."""
    if cost > 0.95:
        return "top left"
    return "bottom left" if cost > 0.6 else "middle right"


def _label(row: object) -> str:
    kind, name = str(getattr(row, "kind", "")), str(getattr(row, "method", ""))
    if kind == "source":
        return "  Old model, unchanged"
    short = name.removeprefix("Migration trained on ").removeprefix("Migration ")
    return f"  {short[:1].upper()}{short[1:]}  "


def show_behaviour(run: Run, plans: pd.DataFrame, method: str) -> None:
    """Draw the mean and spread of each user's predictions: old, migrated and retrained."""
    migrated = plans[plans["method"] == method]
    # A comparison may hold the prompts of several old models.
    origins = str(migrated["origin"].iloc[0]).split(" + ") if len(migrated) else []
    sources = plans[plans["kind"] == "source"]
    of_origin = sources[sources["backbone"].isin(origins)]
    chosen = [
        ("Old model", of_origin if len(of_origin) else sources),
        ("Migrated", migrated),
        ("Retrained", plans[plans["is_baseline"].astype(bool)]),
    ]
    names = {str(rows["evaluation"].iloc[0]): label for label, rows in chosen if len(rows)}
    users = summary.behaviour(engine.root(), tuple(names))
    if users is None or users.empty:
        st.caption(
            "The behaviour of users cannot be drawn: predictions are gone, too many, or of one row "
            "a user."
        )
        return
    ratings = run.summary["task"] == "rating"
    unit = "stars" if ratings else "probability"
    labelled = users.assign(panel=users["evaluation"].map(names))
    figures.show(
        behaviour_figure(labelled, unit),
        labelled[["panel", "user_id", "mean", "spread", "outcome"]],
        "summary-behaviour",
        title=f"Each user's predictions, and their median spread ({unit})",
        height=HEIGHT,
        menu=True,
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
            "colorscale": "Viridis",
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
