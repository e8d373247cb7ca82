"""Compare: figures over many runs of one data split, after the figures of the paper.

Model pairs (Figure 4), chains (Figure 5), aggregated sources (Figure 6) and selection strategies
(Table 4).
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import engine, pages
from dashboard.components import figures, page_states, tables
from dashboard.components.compare_methods import score_columns
from dashboard.components.formatting import short
from dashboard.components.theme import CATEGORIES, DIFFERENCES, KINDS, marker
from dashboard.engine import METRICS, comparisons
from dashboard.engine.comparisons import DataSplit, summaries


def _empty(title: str, text: str) -> None:
    page_states.empty(title, text, icon=":material/lab_research:")
    pages.link("plan", label="Plan such a migration")


def pairs(methods: pd.DataFrame, metric: str) -> None:
    """Draw the gain of migrating over retraining for each source and target."""
    table = summaries.model_pairs(methods)
    if len(table) < 2:
        _empty(
            "Not enough model pairs",
            "Migrate to two or more models, or from two. Fit `retrained` prompts on each "
            "new model, and evaluate all of them on this data set and split.",
        )
        return
    ids = zip(table["retrained"], table["evaluation"], strict=True)
    gains = [comparisons.gain(engine.root(), *pair, metric) for pair in ids]
    for column, part in (("gain", "value"), ("low", "low"), ("high", "high")):
        table[column] = [getattr(gain, part) if gain else float("nan") for gain in gains]
    figures.show(
        gain_heatmap(table),
        table,
        "pairs",
        title="Gain of migrating over retraining: above 1 the migration is better (* the 95 % "
        "interval excludes 1)",
        x="New model",
        y="Old model",
        height=max(320, 110 + 56 * table["origin"].nunique()),
    )
    ratio = "retrained / migrated" if metric == "rmse" else "migrated / retrained"
    st.caption(
        f"Gain = {METRICS[metric].heading} {ratio} on the same new model and users. Each cell shows the "
        "migration that was trained on the most users; the latest of several."
    )


def chains(methods: pd.DataFrame, metric: str) -> None:
    """Draw the quality after each hop of a chain."""
    table = summaries.chains(methods)
    if table.empty or table.groupby("run").size().max() < 2:
        _empty(
            "No chain yet",
            "Migrate migrated prompts again, `puma chain SOURCE TARGET TARGET`, and evaluate every "
            "hop on this data set and split.",
        )
        return
    figures.show(
        chain_figure(table),
        table,
        "chains",
        title="Quality after each hop of a chain: a flat line loses nothing",
        x="Hop (0: source prompts)",
        y=METRICS[metric].axis,
    )


def aggregations(methods: pd.DataFrame, metric: str) -> None:
    """Draw aggregated sources beside each of their sources alone."""
    table = summaries.aggregations(methods)
    if table.empty:
        _empty(
            "No aggregation yet",
            "Migrate two sources together, `puma aggregate SOURCE SOURCE --target TARGET`, and at "
            "least one of them alone to the same target. Evaluate both here.",
        )
        return
    figures.show(
        aggregation_figure(table),
        table,
        "aggregations",
        title="Aggregated sources compared with each source alone",
        x=METRICS[metric].axis,
        height=max(300, 90 + 40 * len(table)),
    )


def strategies(methods: pd.DataFrame, metric: str) -> None:
    """Draw and list the selection strategies of one source and target."""
    table = summaries.strategies(methods)
    if table.loc[table["strategy"] != "all", "strategy"].nunique() < 2:
        _empty(
            "Not enough strategies",
            "Migrate the same source to the same target with two or more strategies at one "
            "number of users, such as `--strategy random` and `--strategy kmeans-variance`; evaluate each.",
        )
        return
    st.caption("Source and target of these migrations:")
    st.text(f"{table['origin'].iloc[0]} → {table['target'].iloc[0]}")
    figures.show(
        strategy_figure(table),
        table,
        "strategies",
        title="Selection strategies: one mark per run with its 95 % interval",
        x=METRICS[metric].axis,
        height=max(320, 100 + 40 * table["strategy"].nunique()),
    )
    shown = {
        "strategy": "Strategy",
        "budget": "Users trained",
        "seed": "Seed",
        "value": METRICS[metric].heading,
        "low": "95 % from",
        "high": "95 % to",
        "seconds": "Seconds",
    }
    columns = score_columns(METRICS[metric].heading)
    tables.show(table[[*shown]].rename(columns=shown), columns)


VIEWS: dict[str, Callable[[pd.DataFrame, str], None]] = {
    "pairs": pairs,
    "chains": chains,
    "aggregations": aggregations,
    "strategies": strategies,
}


def show(view: str, split: DataSplit) -> None:
    """Draw one of VIEWS from the methods evaluated on a data split, those with item prompts aside.

    The paper's figures are of user prompts alone.
    """
    methods = comparisons.methods(split)
    VIEWS[view](methods[methods["item_tokens"] == 0], comparisons.PRIMARY_METRIC[split.task])


def gain_heatmap(pairs: pd.DataFrame) -> go.Figure:
    """Draw gains, sources as rows and targets as columns; pairs: origin, target, gain, low, high."""
    grid = pairs.pivot(index="origin", columns="target", values="gain")
    significant = pairs.assign(significant=(pairs["low"] > 1) | (pairs["high"] < 1))
    stars = significant.pivot(index="origin", columns="target", values="significant")
    reach = max(float(np.nanmax(np.abs(grid.to_numpy(float) - 1))), 0.005)
    text = [
        [
            "" if np.isnan(value) else f"{value:.4f}{' *' if star is True else ''}"
            for value, star in zip(grid.loc[name], stars.loc[name], strict=True)
        ]
        for name in grid.index
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


def chain_figure(steps: pd.DataFrame) -> go.Figure:
    """Draw one line per chain, a mark per hop with its interval; steps: of summaries.chains."""
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
            error_y=figures.error_bars(rows, colour),
            hovertemplate="%{text}: %{y:.4f}<extra></extra>",
            uid=str(run),
        )
    figure.update_xaxes(dtick=1, range=[-0.4, steps["step"].max() + 0.4])
    return figure


def aggregation_figure(rows: pd.DataFrame) -> go.Figure:
    """Draw aggregations and single sources with intervals; rows: of summaries.aggregations."""
    figure = go.Figure()
    looks = ((True, "Aggregated sources", "star-diamond"), (False, "One source", "diamond-open"))
    for aggregated, name, symbol in looks:
        group = rows[(rows["sources"] > 1) == aggregated]
        figure.add_scatter(
            x=group["value"],
            y=[
                f"{short(origin, 34)} → {short(target, 20)}"
                for origin, target in group[["origin", "target"]].to_numpy()
            ],
            mode="markers",
            name=name,
            marker=marker("migrated", size=12 if aggregated else 10) | {"symbol": symbol},
            error_x=figures.error_bars(group, KINDS["migrated"].colour),
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
    return figure


def strategy_figure(rows: pd.DataFrame) -> go.Figure:
    """Draw one mark per run with its interval, a line per strategy and a colour per budget."""
    figure = go.Figure()
    order = list(dict.fromkeys(rows.sort_values("value", ascending=False)["strategy"]))
    for number, (budget, group) in enumerate(rows.groupby("budget", sort=True)):
        colour = CATEGORIES[number % len(CATEGORIES)]
        figure.add_scatter(
            x=group["value"],
            y=group["strategy"],
            mode="markers",
            name=f"{budget:,.0f} users",
            marker={"color": colour, "size": 10, "symbol": number % 20},
            error_x=figures.error_bars(group, colour),
            customdata=group["seed"],
            hovertemplate="%{y}, seed %{customdata}: %{x:.4f}<extra></extra>",
        )
    figure.update_yaxes(categoryorder="array", categoryarray=order)
    figure.update_layout(showlegend=True)
    return figure
