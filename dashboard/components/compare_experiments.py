"""Compare: figures over many runs of one data split, after the figures of the paper.

Numbers of users (Figure 3), model pairs (Figure 4), chains (Figure 5), aggregated sources (Figure 6)
and selection strategies (Table 4).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import engine, pages
from dashboard.components import figures, tables
from dashboard.components.compare_methods import score_columns
from dashboard.components.formatting import short
from dashboard.components.theme import CATEGORIES, DIFFERENCES, KINDS, marker
from dashboard.engine import METRICS, comparisons
from dashboard.engine.comparisons import DataSplit, summaries


def pairs(methods: pd.DataFrame, metric: str) -> None:
    """Draw the gain of migrating over retraining for each source and target."""
    table = summaries.model_pairs(methods)
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


def curve(methods: pd.DataFrame, metric: str) -> None:
    """Draw the quality over the number of users who train the adapter."""
    table = summaries.budgets(methods)
    retrained = methods[methods["kind"] == "retrained"]
    same = retrained.merge(
        table.rename(columns={"target": "backbone"})[summaries.SAME_KIND].drop_duplicates()
    )
    st.caption("Old and new model, and how the users are chosen:")
    st.text(f"{table['origin'].iloc[0]} → {table['target'].iloc[0]}, {table['strategy'].iloc[0]}")
    worse = "above" if not METRICS[metric].higher_is_better else "below"
    figures.show(
        curve_figure(table, same),
        table,
        "curve",
        title=f"How many users have to train it: {worse} the dotted line is worse than full retraining",
        x="Users who train the adapter (log scale)",
        y=METRICS[metric].axis,
    )
    st.caption(
        "Each mark is a training with its 95 % interval over users; the line joins the means over seeds. "
        "The dotted line is the mean of full retraining over its seeds."
    )


def chains(methods: pd.DataFrame, metric: str) -> None:
    """Draw the quality after each hop of a chain."""
    table = summaries.chains(methods)
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
    st.caption("Old and new model of these migrations:")
    st.text(f"{table['origin'].iloc[0]} → {table['target'].iloc[0]}")
    figures.show(
        strategy_figure(table),
        table,
        "strategies",
        title="Which users train it: one mark for each training, with its 95 % interval",
        x=METRICS[metric].axis,
        height=max(320, 100 + 40 * table["strategy"].nunique()),
    )
    shown = {
        "strategy": "Users chosen by",
        "budget": "Users trained",
        "seed": "Seed",
        "value": METRICS[metric].heading,
        "low": "95 % from",
        "high": "95 % to",
        "seconds": "Time (s)",
    }
    columns = score_columns(METRICS[metric].heading)
    tables.show(table[[*shown]].rename(columns=shown), columns)


def _has_pairs(methods: pd.DataFrame) -> bool:
    return len(summaries.model_pairs(methods)) > 1


def _has_chains(methods: pd.DataFrame) -> bool:
    table = summaries.chains(methods)
    return len(table) > 0 and int(table.groupby("run").size().max()) > 1


def _has_strategies(methods: pd.DataFrame) -> bool:
    table = summaries.strategies(methods)
    return table.loc[table["strategy"] != "all", "strategy"].nunique() > 1


@dataclass(frozen=True)
class View:
    """A figure over many runs. study: what published it, for where the runs are missing."""

    title: str
    study: str
    has_enough: Callable[[pd.DataFrame], bool]
    draw: Callable[[pd.DataFrame, str], None]


VIEWS = {
    "curve": View(
        "Users who train it",
        "table4",
        lambda methods: summaries.budgets(methods)["budget"].nunique() > 1,
        curve,
    ),
    "strategies": View("Which users train it", "table4", _has_strategies, strategies),
    "pairs": View("Pairs of models", "figure4", _has_pairs, pairs),
    "chains": View("Chains", "figure5", _has_chains, chains),
    "aggregations": View(
        "Several sources",
        "figure6",
        lambda methods: len(summaries.aggregations(methods)) > 0,
        aggregations,
    ),
}


def available(split: DataSplit | None) -> dict[str, str]:
    """Return the titles of the views that a data split has enough runs for, by name."""
    if split is None:
        return {}
    methods = _of_users(split)
    return {name: view.title for name, view in VIEWS.items() if view.has_enough(methods)}


def show(name: str, split: DataSplit) -> None:
    """Draw one of VIEWS from the methods evaluated on a data split."""
    VIEWS[name].draw(_of_users(split), comparisons.PRIMARY_METRIC[split.task])


def show_missing(shown: Collection[str]) -> None:
    """Name the views that are not shown for lack of runs, with links to published studies of them."""
    missing = {name: view for name, view in VIEWS.items() if name not in shown}
    if not missing:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption("Not measured here; published studies:", width="content")
        for view in missing.values():
            pages.link(
                "studies",
                label=view.title,
                icon=":material/menu_book:",
                **{"from": "published", "view": "study", "report": view.study},
            )


def _of_users(split: DataSplit) -> pd.DataFrame:
    """Return the methods of a data split without those with item prompts, as the paper has them."""
    methods = comparisons.methods(split)
    return methods[methods["item_tokens"] == 0]


def curve_figure(rows: pd.DataFrame, retrained: pd.DataFrame) -> go.Figure:
    """Draw trainings over their number of users, the means over seeds, and full retraining.

    rows: of summaries.budgets. retrained: value of each full retraining.
    """
    figure = go.Figure()
    colour = KINDS["migrated"].colour
    means = rows.groupby("budget", as_index=False)["value"].mean()
    figure.add_scatter(
        x=means["budget"],
        y=means["value"],
        mode="lines",
        line={"color": colour, "width": 2},
        hoverinfo="skip",
        showlegend=False,
    )
    for number, (seed, group) in enumerate(rows.groupby("seed", sort=True)):
        figure.add_scatter(
            x=group["budget"],
            y=group["value"],
            **_series(f"Seed {seed:.0f}", number, colour),
            error_y=figures.error_bars(group, colour),
            hovertemplate=f"%{{x:,}} users, seed {seed:.0f}: %{{y:.4f}}<extra></extra>",
        )
    if len(retrained):
        figure.add_hline(y=float(retrained["value"].mean()), line=figures.REFERENCE_LINE)
    users = sorted(rows["budget"].unique())
    figure.update_xaxes(type="log", tickvals=users, ticktext=[f"{count:,.0f}" for count in users])
    figure.update_layout(showlegend=True)
    return figure


def _series(name: str, number: int, colour: str) -> dict[str, Any]:
    """The look of one of several series of marks: each has a symbol of its own."""
    marks = {"color": colour, "size": 10, "symbol": number % 20}
    return {"mode": "markers", "name": name, "marker": marks}


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
            **_series(f"{budget:,.0f} users", number, colour),
            error_x=figures.error_bars(group, colour),
            customdata=group["seed"],
            hovertemplate="%{y}, seed %{customdata}: %{x:.4f}<extra></extra>",
        )
    figure.update_yaxes(categoryorder="array", categoryarray=order)
    figure.update_layout(showlegend=True)
    return figure
